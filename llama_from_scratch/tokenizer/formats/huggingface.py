"""The tokenizer in a folder of the Hugging Face kind: tokenizer.json, and tokenizer_config.json beside it."""

import json
from pathlib import Path
from typing import Any

from ...files.errors import reason
from ...files.model_files import AddedToken, ModelFiles, added_token, read_model_files
from ...files.strict_json import strict_json
from ..added import with_ids
from ..base import Tokenizer
from ..byte_table import to_bytes
from ..sentencepiece import SentencePieceTokenizer
from ..split import DIGIT, GPT2, LLAMA3
from .named import named_ids
from .sentencepiece_json import vocabulary_from_json

KNOWN = (GPT2, DIGIT, LLAMA3)
AGAIN = "download it again"


def read_hugging_face_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a folder, if it is byte-level BPE or SentencePiece BPE, and prepares text in a way known here.

    Raises:
        ValueError: for anything else; the message says what it was.
    """
    path = folder / "tokenizer.json"
    data, beside = _read_json(path), read_model_files(folder)
    try:
        return _build(data, beside)
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


def _build(data: dict[str, Any], beside: ModelFiles) -> Tokenizer:
    model = data["model"]
    if model["type"] != "BPE":
        raise ValueError(f"its model is {model['type']!r} instead of 'BPE'")
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(key):
            raise ValueError(f"its model has {key} = {model[key]!r}, which is not known here")
    ids: dict[str, int] = model["vocab"]
    added = _added(data.get("added_tokens", []), ids, beside)
    special = {token.content: token.id for token in added if token.special}
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

    first = _first(data.get("post_processor"))
    settings = named_ids(beside, special, bos=first) | {"added": _with_options(added)}
    settings["add_bos"] = first is not None
    if first is not None and settings["bos_id"] != special.get(first):
        raise ValueError(f"it begins texts with {first!r}, which is not its bos token")
    if model.get("byte_fallback"):
        return SentencePieceTokenizer(**vocabulary_from_json(data, added, merges), **settings)

    if data.get("normalizer"):
        raise ValueError(f"it changes text with a normalizer ({data['normalizer']['type']}), which is not known here")
    in_text = {token.content: token.id for token in added}
    by_id = {i: to_bytes(token) for token, i in ids.items() if token not in in_text}
    by_id |= {i: token.encode() for token, i in in_text.items()}
    if sorted(by_id) != list(range(len(by_id))):
        raise ValueError(f"its {len(by_id)} tokens do not have the ids 0 to {len(by_id) - 1}")
    return Tokenizer(
        pieces=[by_id[i] for i in range(len(by_id))],
        merges=merges,
        special=special,
        patterns=_patterns(data.get("pre_tokenizer")),
        whole_first=bool(model.get("ignore_merges")),
        **settings,
    )


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


def _added(listed: list[dict[str, Any]], ids: dict[str, int], beside: ModelFiles) -> list[AddedToken]:
    """The added tokens of tokenizer.json, then those that only the files beside it add."""
    added = with_ids((added_token(each, each["id"]) for each in listed), ids, len(ids))
    known = {token.content: token for token in added}
    taken = ids | {token.content: token.id for token in added}
    n = len(set(taken.values()))
    more = (token for token in beside.added if token.content not in known)
    return [*known.values(), *with_ids(more, taken, n)]


def _with_options(added: list[AddedToken]) -> list[AddedToken]:
    return [token for token in added if not token.special or token.lstrip or token.rstrip or token.single_word]


def _first(step: dict[str, Any] | None) -> str | None:
    """The token that the post_processor puts before a text, if any; it may do nothing else."""
    match step:
        case None | {"type": "ByteLevel"}:
            return None
        case {"type": "Sequence", "processors": steps}:
            found = [token for step in steps if (token := _first(step)) is not None]
            if len(found) <= 1:
                return next(iter(found), None)
        case {"type": "TemplateProcessing", "single": [{"Sequence": _}]}:
            return None
        case {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": token}}, {"Sequence": _}],
            "special_tokens": tokens,
        } if isinstance(tokens.get(token), dict) and len(tokens[token]["ids"]) == 1:
            return token
    raise ValueError(f"it adds tokens to a text in a way that is not known here: {json.dumps(step)}")


def _read_json(path: Path) -> Any:
    try:
        return strict_json(path)
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({reason(error)}); make it a file that you may read") from None
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}); {AGAIN}") from None
