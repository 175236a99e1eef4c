"""A conversation as parts: special tokens, which the format wrote, and ordinary text."""

import re
from collections.abc import Iterable

from .chat_formats import Message, Special


def check_messages(messages: list[Message]) -> list[Message]:
    """The messages as plain dictionaries of plain strings.

    Raises:
        ValueError: for messages of another form.
    """
    if not messages:
        raise ValueError("there are no messages; give at least one, such as {'role': 'user', 'content': 'Hello'}")
    for message in messages:
        if not isinstance(message, dict) or not all(isinstance(message.get(key), str) for key in ("role", "content")):
            raise ValueError(f"each message needs a role and a content, both text; got {message!r}")
        if unknown := message.keys() - {"role", "content"}:
            raise ValueError(f"a message has the key {min(unknown, key=str)!r}; the keys are role and content")
    return [{key: str.__str__(value) for key, value in message.items()} for message in messages]


def fill_in(template: str, messages: list[Message], special: Iterable[str], special_names: dict[str, str]) -> list[str]:
    """A conversation in the format of a model's chat template, as parts.

    The template sees the messages exactly as they are. Where a special token stands in a message and in the rendered
    text, the template is rendered a second time, with other characters for the token wherever it stands in a message,
    as many as it has. The places at which the two texts differ were written by a message; a special token there is
    ordinary text. The texts can differ in more than that, if the template looks for such a token in the messages or
    changes it. Then nobody can say who wrote which token, and the messages are refused.

    One thing goes unseen: a template that itself makes a special token out of other text of a message, such as one
    that writes messages in lower case.

    Raises:
        ValueError: if jinja2 is too old, or the template or the messages cannot be used.
        ImportError: without jinja2, or with a version that is not safe.
    """
    try:
        import jinja2  # noqa: F401  checked here for a plain error; only templates need it
    except ImportError:
        raise ImportError("chat templates need the package jinja2; run: pip install jinja2") from None
    from .chat_template import ChatTemplate

    compiled = ChatTemplate(template)
    text = compiled.render(messages, special_names)
    written = [value for message in messages for value in message.values()]
    both = [token for token in special if token in text and any(token in value for value in written)]
    if not both:
        return split_special(text, text, special)

    hidden: list[Message] = [{key: _hide(value, both) for key, value in message.items()} for message in messages]
    try:
        shown = compiled.render(hidden, special_names)
    except ValueError:
        shown = ""
    if len(shown) != len(text) or any(b not in (a, _other(a)) for a, b in zip(text, shown, strict=True)):
        raise ValueError(
            f"a message holds the special token {both[0]}, and the model's chat template treats it in a way in which "
            "it cannot be told from the template's own; take it out"
        )
    return split_special(text, shown, special)


def split_special(text: str, shown: str, special: Iterable[str]) -> list[str]:
    """The parts of a text: its special tokens where `shown`, a text of the same length, has them, and the rest."""
    longest_first = sorted(special, key=len, reverse=True)
    pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
    parts: list[str] = []
    start = 0
    for match in pattern.finditer(shown):
        parts += [text[start : match.start()], Special(match[0])]
        start = match.end()
    return [part for part in [*parts, text[start:]] if part]


def _hide(text: str, tokens: list[str]) -> str:
    """The text with other characters wherever one of the tokens stands, also where two overlap."""
    characters = list(text)
    for token in tokens:
        for match in re.finditer(f"(?={re.escape(token)})", text):
            place = slice(match.start(), match.start() + len(token))
            characters[place] = map(_other, text[place])
    return "".join(characters)


def _other(character: str) -> str:
    """Another character in place of this one: one for private use, which is no space, letter or digit."""
    return chr(0xF0000 + ord(character) % 0x10000)
