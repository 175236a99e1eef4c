"""Conversations as one text, in the format that the model was trained on."""

import re
from datetime import datetime
from typing import TypedDict


class Message(TypedDict):
    role: str  # "system", "user" or "assistant"
    content: str


def render(template: str, messages: list[Message], special: list[str], names: dict[str, str]) -> tuple[str, str]:
    """Fill in a model's own chat template (Jinja), sandboxed: it can read the messages and nothing else.

    Returns the text and a marker. Wherever a message held the text of a special token, the marker stands behind
    the token's first character, so that every special token still found in the text was written by the template.
    Take the marker out of what lies between them.

    Raises:
        ValueError: for messages of the wrong form, or that the template refuses.
    """
    try:
        from jinja2 import TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError:
        raise ImportError("chat templates need the package jinja2; run: pip install jinja2") from None

    if not messages:
        raise ValueError("there are no messages; give at least one, such as {'role': 'user', 'content': 'Hello'}")
    for message in messages:
        if not all(isinstance(message.get(key), str) for key in ("role", "content")):
            raise ValueError(f"each message needs a role and a content, both text; got {message!r}")

    given = template + "".join(message["role"] + message["content"] for message in messages)
    marker = next(char for char in map(chr, range(0xE000, 0xF900)) if char not in given)  # private use: no one's text
    starts = re.compile(f"(?=(?:{'|'.join(map(re.escape, special)) or '(?!)'})).", re.DOTALL)
    marked = [
        {key: starts.sub(lambda match: match[0] + marker, message[key]) for key in ("role", "content")}
        for message in messages
    ]

    def refuse(reason: str) -> None:
        raise TemplateError(reason)

    # The settings with which chat templates are written to be read, as the transformers library documents them.
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    try:
        text = environment.from_string(template).render(messages=marked, add_generation_prompt=True, **names)
    except Exception as error:  # a template is a program of the file's author: it can fail in any way
        raise ValueError(f"the model's chat template cannot be used on these messages: {error}") from None
    return text, marker
