"""Chat formats of our own, for models whose files have no chat template.

A format turns messages into parts: the special tokens that the format writes, and ordinary texts, each encoded on its
own. Special tokens that stand in a message are therefore ordinary characters.
"""

from collections.abc import Callable, Iterable
from typing import TypedDict


class Message(TypedDict):
    role: str  # "system", "user" or "assistant"
    content: str


class Special(str):
    """The text of a special token that the format wrote, to be encoded as that token."""


Format = Callable[[list[Message]], list[str]]  # messages to parts, up to where the assistant's next answer begins


def llama3(messages: list[Message]) -> list[str]:
    """Source: Meta's package llama-models 0.3.0, llama3/chat_format.py, `encode_dialog_prompt`. It keeps the content as
    it is, and encodes the two newlines apart from it; the template in Hugging Face's files strips the content."""

    def header(role: str) -> list[str]:
        return [Special("<|start_header_id|>"), role, Special("<|end_header_id|>"), "\n\n"]

    turns = [part for m in messages for part in (*header(m["role"]), m["content"], Special("<|eot_id|>"))]
    return [Special("<|begin_of_text|>"), *turns, *header("assistant")]


def chatml(messages: list[Message]) -> list[str]:
    """Source: the chat template of HuggingFaceTB/SmolLM2-135M-Instruct, without its default system message."""
    parts: list[str] = []
    for message in messages:
        parts += [Special("<|im_start|>"), f"{message['role']}\n{message['content']}", Special("<|im_end|>"), "\n"]
    return [*parts, Special("<|im_start|>"), "assistant\n"]


def llama2(messages: list[Message]) -> list[str]:
    """Each question and its answer form a text of their own; the system message begins the first question.

    The marks of this format are ordinary text, not special tokens. A message that holds one could speak in any role, so
    it is refused.

    Source: Meta's repository llama, llama/generation.py, `chat_completion`.
    """
    for message in messages:
        for mark in ("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"):
            if mark in message["content"]:
                raise ValueError(f"a message holds {mark!r}, a mark of the model's own format; take it out")
    has_system = messages[0]["role"] == "system"
    system = f"<<SYS>>\n{messages[0]['content']}\n<</SYS>>\n\n" if has_system else ""
    turns = messages[has_system:]
    if [m["role"] for m in turns] != ["user", "assistant"] * (len(turns) // 2) + ["user"]:
        raise ValueError(
            "this model's format is one system message, if any, then user and assistant in turn, with a user last; "
            f"got {', '.join(m['role'] for m in messages)}"
        )
    parts: list[str] = []
    for i in range(0, len(turns), 2):
        question = f"[INST] {((system if i == 0 else '') + turns[i]['content']).strip()} [/INST]"
        if i + 1 < len(turns):
            parts += [Special("<s>"), f"{question} {turns[i + 1]['content'].strip()} ", Special("</s>")]
        else:
            parts += [Special("<s>"), question]
    return parts


FORMATS: dict[str, Format] = {"llama3": llama3, "chatml": chatml, "llama2": llama2}

# The special tokens by which a vocabulary shows its format. Llama 2's format has none: <s> and </s> show nothing.
MARKS: dict[str, set[str]] = {
    "llama3": {"<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"},
    "chatml": {"<|im_start|>", "<|im_end|>"},
}
NEEDED = {**MARKS, "llama2": {"<s>", "</s>"}}


def choose_format(name: str | None, special: Iterable[str]) -> str:
    """The format asked for, or else the one that the special tokens of the vocabulary show.

    Raises:
        ValueError: if there is no such format, if the vocabulary lacks its special tokens, or, where none is asked for,
            if the vocabulary shows none.
    """
    special = set(special)
    if name is None:
        for shown, marks in MARKS.items():
            if marks <= special:
                return shown
        raise ValueError(
            "this model has no chat template, and its vocabulary does not show in which format it was trained; choose "
            f"one with --chat-format (in Python format=): {', '.join(FORMATS)}; a model that was not trained on "
            "conversations only continues text: use generate"
        )
    if name not in FORMATS:
        raise ValueError(f"the chat format is {name!r}; it must be one of {', '.join(FORMATS)}")
    if missing := sorted(NEEDED[name] - special):
        raise ValueError(
            f"the chat format {name} needs the special token {missing[0]}, which this model's vocabulary lacks; choose "
            f"another of {', '.join(FORMATS)}"
        )
    return name


def write(name: str, messages: list[Message]) -> list[str]:
    """A conversation in one of our own formats, as parts.

    Raises:
        ValueError: for a role that the formats do not have, or an order of messages that this format does not have.
    """
    for message in messages:
        if message["role"] not in ("system", "user", "assistant"):
            raise ValueError(f"a message has the role {message['role']!r}; the roles are system, user and assistant")
    return FORMATS[name](messages)
