"""Conversations as one text, in the format that the model was trained on."""

import re
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import TypedDict


class Message(TypedDict):
    role: str  # "system", "user" or "assistant"
    content: str


Format = Callable[[list[Message], str, str], str]  # (messages, bos, eos) -> the text up to the assistant's next answer


def render(form: str | Format, messages: list[Message], special: list[str], bos: str, eos: str) -> tuple[str, str]:
    """Write a conversation in a format: the model's own chat template (Jinja), or one of the functions below.

    Returns the text and a marker. Wherever a message held the text of a special token, the marker stands behind
    the token's first character, so that every special token still found in the text was written by the format.
    Take the marker out of what lies between them.

    Raises:
        ValueError: for messages of the wrong form, or that the format refuses.
    """
    if not messages:
        raise ValueError("there are no messages; give at least one, such as {'role': 'user', 'content': 'Hello'}")
    for message in messages:
        if not all(isinstance(message.get(key), str) for key in ("role", "content")):
            raise ValueError(f"each message needs a role and a content, both text; got {message!r}")

    given = "".join([*(m["role"] + m["content"] for m in messages), form if isinstance(form, str) else ""])
    marker = next(char for char in map(chr, range(0xE000, 0xF900)) if char not in given)  # private use: no one's text
    starts = re.compile(f"(?=(?:{'|'.join(map(re.escape, special)) or '(?!)'})).", re.DOTALL)

    def mark(text: str) -> str:
        return starts.sub(lambda match: match[0] + marker, text)

    marked = [Message(role=mark(message["role"]), content=mark(message["content"])) for message in messages]
    return (_fill_in(form, marked, bos, eos) if isinstance(form, str) else form(marked, bos, eos)), marker


def _fill_in(template: str, messages: list[Message], bos: str, eos: str) -> str:
    """Run a chat template, sandboxed: it can read the messages and nothing else. (It can still take its time, as any
    program can; Ctrl-C ends it.)"""
    try:
        from jinja2 import TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError:
        raise ImportError("chat templates need the package jinja2; run: pip install jinja2") from None

    def refuse(reason: str) -> None:
        raise TemplateError(reason)

    # The settings with which chat templates are written to be read, as the transformers library documents them.
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    names = {"messages": messages, "add_generation_prompt": True, "bos_token": bos, "eos_token": eos}
    try:
        return environment.from_string(template).render(names)
    except Exception as error:  # a template is a program of the file's author: it can fail in any way
        raise ValueError(
            f"the model's chat template cannot be used on these messages ({str(error) or 'it needs too much memory'}); "
            "change the messages, or use generate, which needs no template"
        ) from None


# --- our own, for files without a template -------------------------------------------------------------------------


def llama3(messages: list[Message], bos: str, eos: str) -> str:
    """Source: Meta's package llama-models 0.3.0, llama3/chat_format.py."""

    def head(role: str) -> str:
        return f"<|start_header_id|>{role}<|end_header_id|>\n\n"

    _check_roles(messages)
    return bos + "".join(head(m["role"]) + m["content"].strip() + "<|eot_id|>" for m in messages) + head("assistant")


def chatml(messages: list[Message], bos: str, eos: str) -> str:
    """Source: the chat template of HuggingFaceTB/SmolLM2-135M-Instruct, less its standard system message."""
    _check_roles(messages)
    turns = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages)
    return turns + "<|im_start|>assistant\n"


def llama2(messages: list[Message], bos: str, eos: str) -> str:
    """Each question and its answer is a text of its own; the system message is the head of the first question.

    Its marks are ordinary text and no special tokens, so that messages which hold one are refused: their author could
    speak in any role.

    Source: Meta's llama repository, llama/generation.py, chat_completion.
    """
    _check_roles(messages)
    for message in messages:
        for mark in ("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"):
            if mark in message["content"]:
                raise ValueError(f"a message holds {mark!r}, a mark of the model's own format; take it out")
    system = f"<<SYS>>\n{messages[0]['content']}\n<</SYS>>\n\n" if messages[0]["role"] == "system" else ""
    turns = messages[bool(system) :]
    if [m["role"] for m in turns] != ["user", "assistant"] * (len(turns) // 2) + ["user"]:
        raise ValueError(
            "this model's format is one system message, if any, then user and assistant by turns, a user last; "
            f"got {', '.join(m['role'] for m in messages)}"
        )
    text = ""
    for i, turn in enumerate(turns):
        if turn["role"] == "assistant":
            text += f" {turn['content'].strip()} {eos}"
        else:
            text += f"{bos}[INST] {((system if i == 0 else '') + turn['content']).strip()} [/INST]"
    return text


# The special tokens by which a vocabulary shows its format. (Llama 2's has none: see `SentencePieceTokenizer`.)
FORMATS: list[tuple[set[str], Format]] = [
    ({"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"}, llama3),
    ({"<|im_start|>", "<|im_end|>"}, chatml),
]


def format_of(special: Iterable[str]) -> Format | None:
    return next((form for needed, form in FORMATS if needed <= set(special)), None)


def _check_roles(messages: list[Message]) -> None:
    for message in messages:
        if message["role"] not in ("system", "user", "assistant"):
            raise ValueError(f"a message has the role {message['role']!r}; the roles are system, user and assistant")
