"""The tokenizer inside a GGUF file, read."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...files.errors import CheckpointError
from ...files.model_files import AddedToken, ModelFiles, gguf_model_files
from ..base import Tokenizer
from ..byte_table import to_bytes
from ..pieces import Kind, Piece
from ..sentencepiece import SentencePieceTokenizer
from ..split import SPLITS
from .gguf_fields import CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED

WORDS = {str: "text", int: "whole number", float: "number with a fraction"}
LISTS = {"tokenizer.ggml.tokens": str, "tokenizer.ggml.merges": str}
LISTS |= {"tokenizer.ggml.scores": float, "tokenizer.ggml.token_type": int}


def read_gguf_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a GGUF file, if it is byte-level BPE ("gpt2") or SentencePiece BPE ("llama").

    Raises:
        ValueError: for a damaged file, or a kind of tokenizer that is not known here.
        ImportError: if the package gguf is not installed.
    """
    from ...files.gguf import GGUFFile

    value = GGUFFile(path).value
    try:
        _check_lists(value)
        said = gguf_model_files(value)
        model = value("tokenizer.ggml.model")
        if model == "llama":
            return _sentencepiece(value, said)
        if model == "gpt2":
            return _byte_level(value, said)
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


def _byte_level(value: Callable[..., Any], said: ModelFiles) -> Tokenizer:
    pre = value("tokenizer.ggml.pre")
    if pre not in SPLITS:
        raise ValueError(f"it cuts text by the rule {pre!r}; the rules known are {', '.join(SPLITS)}")
    tokens, lines = value("tokenizer.ggml.tokens", []), value("tokenizer.ggml.merges", [])
    types = value("tokenizer.ggml.token_type", [NORMAL] * len(tokens))
    while len(types) == len(tokens) > 0 and types[-1] == UNUSED:  # rows of the embedding beyond the last token
        del types[-1], tokens[-1]
    if len(types) != len(tokens) or not set(types) <= {NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED}:
        raise ValueError(
            f"it gives the types {_some(types)} to {len(types)} of {len(tokens)} tokens; each token needs one, "
            f"{NORMAL} (ordinary), {UNKNOWN} or {CONTROL} (special), {USER_DEFINED} (added) or {UNUSED} (unused)"
        )
    joined = any(kind == NORMAL and len(token) > 1 for token, kind in zip(tokens, types, strict=True))
    if joined and not lines:
        raise ValueError("it lists no merges, without which its tokens cannot be joined")
    ids = {token: i for i, token in enumerate(tokens)}
    merges = {}
    for rank, line in enumerate(lines):
        left, _, right = line.partition(" ")
        if not {left, right, left + right} <= ids.keys():
            raise ValueError(f"it joins tokens in merge {rank}, {line!r}, that are not in its vocabulary")
        merges[ids[left], ids[right]] = (rank, ids[left + right])
    special = {token: i for i, token in enumerate(tokens) if types[i] in (UNKNOWN, CONTROL)}
    return Tokenizer(
        pieces=[_bytes(token, kind) for token, kind in zip(tokens, types, strict=True)],
        merges=merges,
        special=special,
        added=[AddedToken(token, i, special=False) for i, token in enumerate(tokens) if types[i] == USER_DEFINED],
        patterns=SPLITS[pre],
        whole_first=pre == "llama-bpe",
        add_bos=value("tokenizer.ggml.add_bos_token", pre == "llama-bpe"),
        **_ids(said, tokens),
    )


def _bytes(token: str, kind: int) -> bytes:
    """What a token decodes to, as in llama.cpp: nothing if it is unused."""
    return b"" if kind == UNUSED else to_bytes(token) if kind == NORMAL else token.encode()


def _ids(said: ModelFiles, tokens: list[str]) -> dict[str, Any]:
    """The arguments of a `Tokenizer`. Any token may be the bos, eos or padding token of a GGUF file."""
    eos_id = next(iter(said.eos_ids), None)
    ids = {"bos_id": said.bos_id, "eos_id": eos_id, "pad_id": said.pad_id}
    if said.unk_id is not None and said.unk_id >= len(tokens):
        raise ValueError(f"the unk token is {said.unk_id}; the vocabulary has the ids 0 to {len(tokens) - 1}")
    names = {} if said.unk_id is None else {"unk_token": tokens[said.unk_id]}
    return ids | {"stop_ids": said.eos_ids, "templates": said.templates, "other_names": names}


def _some(types: list[int]) -> str:
    """Which types there are; of very many the first few."""
    kinds = sorted(set(types))
    return ", ".join(map(str, kinds[:5])) + (", …" if len(kinds) > 5 else "")


def _check_lists(value: Callable[..., Any]) -> None:
    for key, kind in LISTS.items():
        found = value(key, [])
        if not isinstance(found, list) or not all(type(each) is kind for each in found):
            raise ValueError(f"{key} must be a list, and each entry a {WORDS[kind]}")


def _sentencepiece(value: Callable[..., Any], said: ModelFiles) -> SentencePieceTokenizer:
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
    eos_id = value("tokenizer.ggml.eos_token_id", 2)
    ids = _ids(said, tokens) | {"bos_id": value("tokenizer.ggml.bos_token_id", 1), "eos_id": eos_id}
    return SentencePieceTokenizer(
        [Piece(text, score, Kind(kind)) for text, score, kind in rows],
        prefix="always" if value("tokenizer.ggml.add_space_prefix", True) else "never",
        add_bos=value("tokenizer.ggml.add_bos_token", True),
        **ids,
    )
