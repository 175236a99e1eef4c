"""What the files of a model say of its tokens beside the vocabulary: ends, named and added tokens, chat templates.

The order of precedence is the same for all who ask: the tokenizer, generation, chat, `convert` and `inspect`.

In a folder, as in transformers 5:
1. Named tokens (`bos_token`, `eos_token`, `pad_token`, …): special_tokens_map.json, then tokenizer_config.json. The
   former is skipped if the latter has `added_tokens_decoder`, which newer versions write instead.
2. Added tokens: tokenizer.json's own; then `added_tokens_decoder`, or if there is none added_tokens.json, in the order
   of their ids; then named tokens that are in no list, and last `additional_special_tokens`. Tokens without an id get
   the next free one. Each text counts once, with what the first list says of it.
3. Ids (`bos_token_id`, `eos_token_id`, `pad_token_id`), each one id, or for eos also a list: generation_config.json,
   then config.json. (transformers does not look at config.json if generation_config.json exists and says nothing; we
   do, since a model that never stops is worse.)
4. Chat templates, by name: chat_template.jinja ("default") with additional_chat_templates/NAME.jinja; if there is none
   of these, tokenizer_config.json's `chat_template`, one text or several by name; if none, chat_template.json.

Generation stops at the ids of 3, at the tokenizer's eos token, and at the special tokens that end a turn by their name.

A GGUF file says each thing once: the ids `bos`, `eos`, `eot`, `eom` and `padding`, all of which but bos and padding
end a text, and the templates `tokenizer.chat_template` and `tokenizer.chat_template.NAME`.
Meta's params.json says nothing of tokens; a tokenizer.model names its own bos and eos, which the files above override.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from .errors import CheckpointError, reason
from .layout import CONFIG
from .strict_json import read_json

TOKENIZER_CONFIG, GENERATION_CONFIG = "tokenizer_config.json", "generation_config.json"
NAMED_MAP, ADDED_TOKENS = "special_tokens_map.json", "added_tokens.json"
TEMPLATE, TEMPLATE_JSON, MORE_TEMPLATES = "chat_template.jinja", "chat_template.json", "additional_chat_templates"
NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")  # transformers'
AGAIN = "download it again"


class AddedToken(NamedTuple):
    """A token that is found in a text before anything is joined, with the options of the library `tokenizers`."""

    content: str
    id: int | None  # None: its place in the vocabulary if it is there, else the next free id
    special: bool  # such as <|im_end|>: written by programs, not found in the text of users
    lstrip: bool = False  # takes the whitespace before it, too
    rstrip: bool = False
    single_word: bool = False  # not beside a letter, digit or _
    normalized: bool = False  # looked for after the normalizer has changed the text, and changed like it


@dataclass(frozen=True)
class ModelFiles:
    """See above. What no file says is absent, or None."""

    named: dict[str, str] = field(default_factory=dict)  # "eos_token" -> its text; a name that is null is absent
    added: tuple[AddedToken, ...] = ()  # of the files beside tokenizer.json
    bos_id: int | None = None
    eos_ids: tuple[int, ...] = ()
    pad_id: int | None = None
    unk_id: int | None = None  # of a GGUF file; a folder names it
    templates: dict[str, str] = field(default_factory=dict)
    add_bos: bool | None = None  # counts beside tokenizer.model; a tokenizer.json says it itself


NOTHING = ModelFiles()  # is said


def read_model_files(folder: Path) -> ModelFiles:
    """What the files in a folder say.

    Raises:
        CheckpointError: if one is broken, or holds a value that cannot be.
    """
    config, map_ = _optional(folder / TOKENIZER_CONFIG), _optional(folder / NAMED_MAP)
    ids = {key: _ids(folder, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    for key in ("bos_token_id", "pad_token_id"):
        if len(ids[key]) > 1:
            raise CheckpointError(f"{folder}: {key} is a list of {len(ids[key])}; give one id")
    try:
        said = config if "added_tokens_decoder" in config else config | map_
        named = {key: _text(value) for key, value in said.items() if _is_name(key, value)}
        added = _added(folder, config, said, named)
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{folder}: its {TOKENIZER_CONFIG}, {NAMED_MAP} or {ADDED_TOKENS} does not say its tokens as transformers "
            f"writes them ({_why(error)}); {AGAIN}"
        ) from None
    add_bos = config.get("add_bos_token")
    return ModelFiles(
        named=named,
        added=added,
        bos_id=next(iter(ids["bos_token_id"]), None),
        eos_ids=ids["eos_token_id"],
        pad_id=next(iter(ids["pad_token_id"]), None),
        templates=_templates(folder, config),
        add_bos=add_bos if isinstance(add_bos, bool) else None,
    )


def gguf_model_files(value: Callable[..., Any]) -> ModelFiles:
    """What the fields of a GGUF file say. value: as `GGUFFile.value`.

    Raises:
        ValueError: naming a key whose value cannot be; the caller knows the file.
    """

    def token(name: str) -> int | None:
        key = f"tokenizer.ggml.{name}_token_id"
        if (found := value(key)) is not None and (type(found) is not int or found < 0):
            raise ValueError(f"{key} is {found!r}; it must be a whole number")
        return found

    templates = {}
    names = value("tokenizer.chat_templates", [])
    for name in ["default", *(names if isinstance(names, list) else [names])]:
        key = "tokenizer.chat_template" + ("" if name == "default" else f".{name}")
        if (template := value(key)) is None:
            continue
        if not isinstance(template, str):
            raise ValueError(f"{key} is {template!r}; it must be a text")
        templates[str(name)] = template
    ends = [found for name in ("eos", "eot", "eom") if (found := token(name)) is not None]
    ids = {"bos_id": token("bos"), "pad_id": token("padding"), "unk_id": token("unknown")}
    return ModelFiles(eos_ids=tuple(ends), templates=templates, **ids)


def _ids(folder: Path, key: str) -> tuple[int, ...]:
    """The first file that says anything counts. -1 stands for "none" in the first Llamas."""
    for file in (GENERATION_CONFIG, CONFIG):
        found = _optional(folder / file).get(key)
        ids = found if isinstance(found, list) else [] if found is None else [found]
        if not all(type(each) is int and each >= -1 for each in ids):
            raise CheckpointError(f"{folder / file}: {key} is {found!r}; it must be a token id or a list of them")
        if ids := [each for each in ids if each >= 0]:
            return tuple(ids)
    return ()


def _is_name(key: str, value: Any) -> bool:
    if key in NAMED and value is not None and not isinstance(value, str | dict):
        raise TypeError(f"{key} is {value!r}")
    return (key in NAMED and value is not None) or (key.endswith("_token") and isinstance(value, str))


def _text(token: str | dict[str, Any]) -> str:
    text = token["content"] if isinstance(token, dict) else token
    if not isinstance(text, str) or not text:
        raise ValueError(f"a token is {text!r} where a text is needed")
    return text


def _added(folder: Path, config: dict, said: dict, named: dict[str, str]) -> tuple[AddedToken, ...]:
    extra = said.get("additional_special_tokens") or said.get("extra_special_tokens") or []
    if isinstance(extra, dict):  # by name
        named |= {name: _text(token) for name, token in extra.items()}
        extra = []
    tokens: dict[str, AddedToken] = {}
    if "added_tokens_decoder" in config:
        for i, token in sorted(config["added_tokens_decoder"].items(), key=lambda item: int(item[0])):
            tokens.setdefault(_text(token), added_token(token, int(i)))
    else:
        special = {*named.values(), *map(_text, extra)}
        found = _optional(folder / ADDED_TOKENS)
        for text in sorted(found, key=lambda text: found[text]):
            if type(found[text]) is not int:
                raise TypeError(f"{text!r} has the id {found[text]!r}")
            tokens[text] = AddedToken(text, found[text], text in special, normalized=text not in special)
    in_order = [key for key in NAMED if key in named] + [key for key in named if key not in NAMED]
    for token in [*(said[key] if key in said else named[key] for key in in_order), *extra]:
        options = token if isinstance(token, dict) else {"content": token}
        tokens.setdefault(_text(token), added_token(options | {"special": True}, None))
    return tuple(token._replace(special=token.special or token.content in named.values()) for token in tokens.values())


def added_token(fields: dict[str, Any], token: int | None) -> AddedToken:
    """An added token as tokenizer files write it; what they leave out is False, and `normalized` True if not special.

    Raises:
        KeyError, TypeError, ValueError: if it is not of this form.
    """
    special = fields.get("special", False)
    options = {key: fields.get(key, False) for key in ("lstrip", "rstrip", "single_word")}
    options["normalized"] = fields.get("normalized", not special)
    for key, value in (options | {"special": special}).items():
        if type(value) is not bool:
            raise TypeError(f"{key} of an added token is {value!r}")
    return AddedToken(_text(fields), token, special, **options)


def _templates(folder: Path, config: dict[str, Any]) -> dict[str, str]:
    files = {"default": folder / TEMPLATE} if (folder / TEMPLATE).exists() else {}
    files |= {file.stem: file for file in sorted((folder / MORE_TEMPLATES).glob("*.jinja"))}
    if files:
        return {name: _read_text(file) for name, file in files.items()}
    for file in (TOKENIZER_CONFIG, TEMPLATE_JSON):
        content = config if file == TOKENIZER_CONFIG else _optional(folder / file)
        if (template := content.get("chat_template")) is not None:
            return _by_name(folder / file, template)
    return {}


def _by_name(path: Path, template: Any) -> dict[str, str]:
    if isinstance(template, str):
        return {"default": template}
    try:
        if isinstance(template, list):
            template = {each["name"]: each["template"] for each in template}
        if all(isinstance(part, str) for pair in template.items() for part in pair):
            return dict(template)
    except (KeyError, TypeError, AttributeError):
        pass
    raise CheckpointError(
        f"{path}: the chat_template must be a text, an object with a template for each name, or a list of objects with "
        f"a name and a template; {AGAIN}"
    )


def _read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({reason(error)}); make it a file that you may read") from None
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path} is not text in UTF-8 (byte {error.start}); {AGAIN}") from None


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}


def _why(error: Exception) -> str:
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)
