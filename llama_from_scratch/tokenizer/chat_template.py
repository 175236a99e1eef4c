"""The Jinja environment of chat templates: the same as in transformers' `apply_chat_template`, but with limits.

Source: transformers 5, utils/chat_template_utils.py: the settings, filters, functions and tags that templates may use.
"""

import json
import re
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension
from jinja2.utils import Namespace

from .chat_formats import Message
from .template_limits import MAX_SOURCE, LimitedEnvironment, OverLimit

if tuple(map(int, re.findall(r"\d+", jinja2.__version__)[:3])) < (3, 1, 6):
    raise ImportError(
        f"chat templates need jinja2 3.1.6 or newer, because templates can escape from the sandbox of older ones; "
        f"this is {jinja2.__version__}; run: pip install --upgrade jinja2"
    )


class ChatTemplate:
    """A chat template, compiled. It can read the messages and nothing else.

    Raises:
        ValueError: if it is not a valid template.
    """

    def __init__(self, source: str) -> None:
        try:
            if len(source) > MAX_SOURCE:
                raise OverLimit(f"it is longer than {MAX_SOURCE} characters")
            self._environment = _environment()
            self._template = self._environment.compile_limited(source)
        except Exception as error:  # the compiler of Python raises errors of its own, such as RecursionError
            raise _refusal(error) from None

    def render(self, messages: list[Message], special_names: dict[str, str]) -> str:
        """The conversation as text, up to where the assistant's next answer begins.

        special_names: the special tokens that have a name, such as {"bos_token": "<s>"}; no other names are defined.

        Raises:
            ValueError: if the template refuses the messages, fails, or goes over a limit (see template_limits.py).
        """
        names = {**special_names, "messages": messages, "tools": None, "documents": None, "add_generation_prompt": True}
        try:
            return self._environment.render_limited(self._template, names)
        except Exception as error:  # a template is a program of the file's author: it can fail in any way
            raise _refusal(error) from None


def _refusal(error: Exception) -> ValueError:
    reason = str(error) or "it needs too much memory"
    return ValueError(
        f"the model's chat template cannot be used on these messages ({reason[:1000]}{'…' * (len(reason) > 1000)}); "
        "change the messages, choose another format with --chat-format, or use generate, which needs no template"
    )


def _environment() -> LimitedEnvironment:
    environment = LimitedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, "jinja2.ext.loopcontrols"]
    )
    limits = environment.limits
    now = datetime.now()  # one moment for both renderings of a conversation

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    def strftime_now(format: str) -> str:
        if len(format) > 1000:
            raise OverLimit("it gives strftime_now more than 1000 characters")
        return now.strftime(format)

    def tojson(x: Any, ensure_ascii=False, indent=None, separators=None, sort_keys=False) -> str:
        """As json.dumps, in pieces that are counted; unlike Jinja's own it does not escape HTML."""
        for text in (indent, *(separators or ())):
            if (len(text) if isinstance(text, str) else text or 0) > 100:
                raise OverLimit("it gives tojson an indent or separator of more than 100 characters")
        encoder = json.JSONEncoder(ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
        return limits.join(encoder.iterencode(x))

    environment.add_filter("tojson", tojson)
    environment.globals |= {
        "raise_exception": raise_exception,
        "strftime_now": strftime_now,
        "dict": TemplateDict(),
        "namespace": TemplateNamespace,
    }
    del environment.globals["lipsum"]  # random text of any length
    return environment


class GenerationTag(Extension):
    """{% generation %} … {% endgeneration %}, around what the assistant writes: a scope of its own, as in transformers,
    which also notes where such blocks stand."""

    tags = {"generation"}

    def parse(self, parser: Any) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_write"), [], [], body).set_lineno(line)

    def _write(self, caller: Any) -> str:
        return caller()


class TemplateDict:
    """`dict` without the attributes of the class."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict:
        return dict.fromkeys(*args)


class TemplateNamespace(Namespace):
    """Jinja's namespace, without names that begin with an underscore."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # `self` may be one of the names, too
        self, attributes = args[0], dict(*args[1:], **kwargs)
        for name in attributes:
            _check_name(name)
        Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)

    def __repr__(self) -> str:
        return "<Namespace>"  # Jinja's shows the attributes, which can hold each other without end


def _check_name(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace cannot have the attribute {name!r}, which begins with an underscore")
