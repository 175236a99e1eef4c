"""The tokenizer in a folder of the Hugging Face kind: tokenizer.json, and tokenizer_config.json beside it."""

import json
from pathlib import Path
from typing import Any

from ...files.errors import reason
from ...files.strict_json import strict_json
from ..base import Tokenizer
from ..byte_table import to_bytes
from ..sentencepiece import SentencePieceTokenizer
from ..split import DIGIT, GPT2, LLAMA3
from .sentencepiece_json import vocabulary_from_json

KNOWN = (GPT2, DIGIT, LLAMA3)
CONFIG = "tokenizer_config.json"
AGAIN = "download it again"


def read_hugging_face_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a folder, if it is byte-level BPE or SentencePiece BPE, and prepares text in a way known here.

    Raises:
        ValueError: for anything else; the message says what it was.
    """
    path = folder / "tokenizer.json"
    data, config, chat_template = _read_json(path), _read_config(folder), read_chat_template(folder)
    try:
        return _build(data, config, chat_template)
    except KeyError as error:
        raise ValueError(f"{path} is not laid out like a tokenizer.json (it lacks {error}); {AGAIN}") from None
    except (TypeError, AttributeError, IndexError):
        raise ValueError(
            f"{path} is not laid out like a tokenizer.json (a value is of another kind than its place needs); {AGAIN}"
        ) from None
    except ValueError as error:
        raise ValueError(
            f"{path} cannot be read: {error}; {AGAIN}, and if it is whole: "
            "only tokenizers like those of Llamas can be read"
        ) from None


def _build(data: dict[str, Any], config: dict[str, Any], chat_template: str | None) -> Tokenizer:
    model = data["model"]
    if model["type"] != "BPE":
        raise ValueError(f"its model is {model['type']!r} instead of 'BPE'")
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(key):
            raise ValueError(f"its model has {key} = {model[key]!r}, which is not known here")
    ids: dict[str, int] = model["vocab"]
    special: dict[str, int] = {}
    for added in data.get("added_tokens", []):
        if not added["special"] or added["lstrip"] or added["rstrip"] or added["single_word"]:
            raise ValueError(f"its added token {added['content']!r} has options that are not known here")
        special[added["content"]] = added["id"]
    merges = {}
    for rank, pair in enumerate(model["merges"]):
        pair = pair.split(" ") if isinstance(pair, str) else pair  # older files and newer ones
        if len(pair) != 2:
            raise ValueError(f"its merge {rank} joins {len(pair)} tokens; each merge joins two")
        left, right = pair
        if not {left, right, left + right} <= ids.keys():
            raise ValueError(
                f"its merge {rank} joins {left!r} and {right!r}, and its vocabulary lacks one of them or both joined"
            )
        merges[ids[left], ids[right]] = (rank, ids[left + right])

    bos_id, eos_id = (_special_id(config.get(key), special) for key in ("bos_token", "eos_token"))
    settings: dict[str, Any] = {
        "bos_id": bos_id,
        "eos_id": eos_id,
        "add_bos": _adds_bos(data.get("post_processor"), bos_id, special),
        "chat_template": chat_template,
    }
    if model.get("byte_fallback"):
        tokenizer = SentencePieceTokenizer(**vocabulary_from_json(data, special, merges), **settings)
        tokenizer.other_names = _other_names(config)
        return tokenizer

    if data.get("normalizer"):
        raise ValueError(f"it changes text with a normalizer ({data['normalizer']['type']}), which is not known here")
    by_id = {i: to_bytes(token) for token, i in ids.items() if token not in special}
    by_id |= {i: token.encode() for token, i in special.items()}
    if sorted(by_id) != list(range(len(by_id))):
        raise ValueError(f"its {len(by_id)} tokens do not have the ids 0 to {len(by_id) - 1}")
    tokenizer = Tokenizer(
        pieces=[by_id[i] for i in range(len(by_id))],
        merges=merges,
        special=special,
        patterns=_patterns(data.get("pre_tokenizer")),
        whole_first=bool(model.get("ignore_merges")),
        **settings,
    )
    tokenizer.other_names = _other_names(config)
    return tokenizer


def _other_names(config: dict[str, Any]) -> dict[str, str]:
    """The special tokens that a chat template can name, other than bos_token and eos_token."""
    names = ("unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
    tokens = {name: config[name] for name in names if config.get(name) is not None}
    return {name: token["content"] if isinstance(token, dict) else token for name, token in tokens.items()}


def _patterns(step: dict[str, Any] | None) -> tuple[str, ...]:
    """The patterns that a pre_tokenizer cuts with, in order."""
    match step:
        case {"type": "Sequence", "pretokenizers": steps}:
            return tuple(pattern for step in steps for pattern in _patterns(step))
        case {"type": "ByteLevel", "add_prefix_space": False}:
            return (GPT2,) if step.get("use_regex", True) else ()
        case {"type": "Digits", "individual_digits": True}:
            return (DIGIT,)
        case {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False} if regex in KNOWN:
            return (regex,)
    raise ValueError(f"it cuts text in a way that is not known here: {json.dumps(step)}")


def _adds_bos(step: dict[str, Any] | None, bos_id: int | None, special: dict[str, int]) -> bool:
    """Whether the post_processor puts the bos token before a text; it may do nothing else."""
    match step:
        case None | {"type": "ByteLevel"}:
            return False
        case {"type": "Sequence", "processors": steps}:
            return any([_adds_bos(step, bos_id, special) for step in steps])
        case {"type": "TemplateProcessing", "single": [{"Sequence": _}]}:
            return False
        case {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": token}}, {"Sequence": _}]}:
            if bos_id is not None and special.get(token) == bos_id:
                return True
    raise ValueError(f"it adds tokens to a text in a way that is not known here: {json.dumps(step)}")


def _special_id(token: str | dict[str, Any] | None, special: dict[str, int]) -> int | None:
    name = token["content"] if isinstance(token, dict) else token
    if name is not None and name not in special:
        raise ValueError(f"tokenizer_config.json names the token {name!r}, which is not among the special tokens")
    return None if name is None else special[name]


def read_chat_template(folder: Path) -> str | None:
    """The chat template of a folder, if it has one.

    Raises:
        ValueError: if it is no text.
    """
    own_file = folder / "chat_template.jinja"  # where newer folders keep it
    if own_file.exists():
        try:
            return own_file.read_bytes().decode()
        except OSError as error:
            raise ValueError(f"{own_file} cannot be read ({reason(error)}); make it a file that you may read") from None
        except UnicodeDecodeError as error:
            raise ValueError(f"{own_file} is not text in UTF-8 (byte {error.start}); {AGAIN}") from None
    template = _read_config(folder).get("chat_template")
    try:
        if isinstance(template, list):  # several, by name
            template = {each["name"]: each["template"] for each in template}.get("default")
    except (KeyError, TypeError):
        template = False
    if not isinstance(template, str | None):
        raise ValueError(
            f"{folder / CONFIG}: the chat_template must be a text, or a list of objects with a name and a template"
        )
    return template


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    content = _read_json(path) if path.exists() else {}
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object in braces; {AGAIN}")
    return content


def _read_json(path: Path) -> Any:
    try:
        return strict_json(path)
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({reason(error)}); make it a file that you may read") from None
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}); {AGAIN}") from None
