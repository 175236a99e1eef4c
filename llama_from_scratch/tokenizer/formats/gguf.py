"""The tokenizer inside a GGUF file, read."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...files.errors import CheckpointError
from ..base import Tokenizer
from ..byte_table import to_bytes
from ..pieces import Kind, Piece
from ..sentencepiece import SentencePieceTokenizer
from ..split import SPLITS
from .gguf_fields import CONTROL, NORMAL, UNUSED

WORDS = {str: "text", int: "whole number", float: "number with a fraction"}
LISTS = {"tokenizer.ggml.tokens": str, "tokenizer.ggml.merges": str}
LISTS |= {"tokenizer.ggml.scores": float, "tokenizer.ggml.token_type": int}
SINGLE = {"tokenizer.ggml.bos_token_id": int, "tokenizer.ggml.eos_token_id": int, "tokenizer.chat_template": str}
# Special tokens that only chat templates can name.
OTHER_NAMES = {"tokenizer.ggml.unknown_token_id": "unk_token", "tokenizer.ggml.padding_token_id": "pad_token"}
SINGLE |= dict.fromkeys(OTHER_NAMES, int)


def read_gguf_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a GGUF file, if it is byte-level BPE ("gpt2") or SentencePiece BPE ("llama").

    Raises:
        ValueError: for a damaged file, or a kind of tokenizer that is not known here.
        ImportError: if the package gguf is not installed.
    """
    from ...files.gguf import GGUFFile

    value = GGUFFile(path).value
    try:
        _check_types(value)
        model = value("tokenizer.ggml.model")
        if model == "llama":
            return _sentencepiece(value)
        if model == "gpt2":
            return _byte_level(value)
        raise ValueError(
            f"its kind is {model!r}, and only byte-level BPE ('gpt2') and SentencePiece BPE ('llama') are known here"
        )
    except CheckpointError:
        raise  # it names the file
    except ValueError as error:
        raise ValueError(
            f"{path} has a tokenizer that cannot be read: {error}; download the file again, or take another version of "
            "this model"
        ) from None


def _byte_level(value: Callable[..., Any]) -> Tokenizer:
    pre = value("tokenizer.ggml.pre")
    if pre not in SPLITS:
        raise ValueError(f"it cuts text by the rule {pre!r}; the rules known are {', '.join(SPLITS)}")
    tokens, lines = value("tokenizer.ggml.tokens", []), value("tokenizer.ggml.merges", [])
    types = value("tokenizer.ggml.token_type", [NORMAL] * len(tokens))
    while len(types) == len(tokens) > 0 and types[-1] == UNUSED:  # rows of the embedding beyond the last token
        del types[-1], tokens[-1]
    if len(types) != len(tokens) or not set(types) <= {NORMAL, CONTROL}:
        raise ValueError(
            f"it gives the types {_some(types)} to {len(types)} of {len(tokens)} tokens; "
            f"each token needs one, {NORMAL} (ordinary) or {CONTROL} (special)"
        )
    ids = {token: i for i, token in enumerate(tokens)}
    merges = {}
    for rank, line in enumerate(lines):
        left, _, right = line.partition(" ")
        if not {left, right, left + right} <= ids.keys():
            raise ValueError(f"it joins tokens in merge {rank}, {line!r}, that are not in its vocabulary")
        merges[ids[left], ids[right]] = (rank, ids[left + right])
    tokenizer = Tokenizer(
        pieces=[t.encode() if kind == CONTROL else to_bytes(t) for t, kind in zip(tokens, types, strict=True)],
        merges=merges,
        special={t: i for i, t in enumerate(tokens) if types[i] == CONTROL},
        patterns=SPLITS[pre],
        whole_first=pre == "llama-bpe",
        bos_id=value("tokenizer.ggml.bos_token_id"),
        eos_id=value("tokenizer.ggml.eos_token_id"),
        add_bos=value("tokenizer.ggml.add_bos_token", pre == "llama-bpe"),
        chat_template=value("tokenizer.chat_template"),
    )
    tokenizer.other_names = _other_names(value, tokens)
    return tokenizer


def _other_names(value: Callable[..., Any], tokens: list[str]) -> dict[str, str]:
    ids = {name: value(key) for key, name in OTHER_NAMES.items()}
    for name, token in ids.items():
        if token is not None and not 0 <= token < len(tokens):
            raise ValueError(f"the {name} is {token}; the vocabulary has the ids 0 to {len(tokens) - 1}")
    return {name: tokens[token] for name, token in ids.items() if token is not None}


def _some(types: list[int]) -> str:
    """Which types there are; of very many the first few."""
    kinds = sorted(set(types))
    return ", ".join(map(str, kinds[:5])) + (", …" if len(kinds) > 5 else "")


def _check_types(value: Callable[..., Any]) -> None:
    for key, kind in LISTS.items():
        found = value(key, [])
        if not isinstance(found, list) or not all(type(each) is kind for each in found):
            raise ValueError(f"{key} must be a list, and each entry a {WORDS[kind]}")
    for key, kind in SINGLE.items():
        if type(found := value(key)) not in (kind, type(None)):
            raise ValueError(f"{key} is {found!r}; it must be a {WORDS[kind]}")


def _sentencepiece(value: Callable[..., Any]) -> SentencePieceTokenizer:
    tokens, scores, types = (value(f"tokenizer.ggml.{key}", []) for key in ("tokens", "scores", "token_type"))
    if not len(tokens) == len(scores) == len(types) or not set(types) <= set(Kind):
        raise ValueError(
            f"{len(tokens)} tokens have {len(scores)} scores and {len(types)} types, {_some(types)}; each needs "
            f"one of both, and the types are {', '.join(f'{kind} ({kind.name})' for kind in Kind)}"
        )
    if value("tokenizer.ggml.remove_extra_whitespaces", False):
        raise ValueError("it takes spaces out of texts, which is not known here")
    n = len(tokens)
    while n and types[n - 1] == UNUSED:  # rows of the embedding beyond the last token
        n -= 1
    rows = zip(tokens[:n], scores, types, strict=False)
    bos_id, eos_id = value("tokenizer.ggml.bos_token_id", 1), value("tokenizer.ggml.eos_token_id", 2)
    tokenizer = SentencePieceTokenizer(
        [Piece(text, score, Kind(kind)) for text, score, kind in rows],
        prefix="always" if value("tokenizer.ggml.add_space_prefix", True) else "never",
        bos_id=bos_id,
        eos_id=eos_id,
        add_bos=value("tokenizer.ggml.add_bos_token", True),
        chat_template=value("tokenizer.chat_template"),
    )
    tokenizer.other_names = _other_names(value, tokens)
    return tokenizer
