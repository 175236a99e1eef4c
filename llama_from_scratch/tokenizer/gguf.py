"""The tokenizer inside a GGUF file."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from .byte_table import to_bytes
from .save import ranked_merges, vocabulary
from .sentencepiece import Kind, Piece, SentencePieceTokenizer
from .split import SPLITS
from .tokenizer import Tokenizer

NORMAL, CONTROL, UNUSED = 1, 3, 5  # token types. Source: llama.cpp's gguf package, TokenType


def read_gguf_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a GGUF file, if it is byte-level BPE ("gpt2") or SentencePiece BPE ("llama").

    Raises:
        ValueError: for a damaged file, or a kind of tokenizer that is not known here.
        ImportError: if the package gguf is not installed.
    """
    from ..checkpoint.gguf import GGUFFile

    value = GGUFFile(path).value
    model, pre = value("tokenizer.ggml.model"), value("tokenizer.ggml.pre")
    if model == "llama":
        try:
            return _sentencepiece(value)
        except ValueError as error:
            raise ValueError(f"{path} has a tokenizer that cannot be read: {error}") from None
    if model != "gpt2":
        raise ValueError(
            f"{path} has a tokenizer of kind {model!r}; "
            "only byte-level BPE ('gpt2') and SentencePiece BPE ('llama') can be read"
        )
    if pre not in SPLITS:
        raise ValueError(f"{path} cuts text by the rule {pre!r}; the rules known are {', '.join(SPLITS)}")
    tokens, lines = value("tokenizer.ggml.tokens", []), value("tokenizer.ggml.merges", [])
    types = value("tokenizer.ggml.token_type", [NORMAL] * len(tokens))
    while len(types) == len(tokens) > 0 and types[-1] == UNUSED:  # rows of the embedding beyond the last token
        del types[-1], tokens[-1]
    if len(types) != len(tokens) or not set(types) <= {NORMAL, CONTROL}:
        raise ValueError(
            f"{path} gives the types {sorted(set(types))} to {len(types)} of {len(tokens)} tokens; "
            f"each token needs one, {NORMAL} (ordinary) or {CONTROL} (special)"
        )
    ids = {token: i for i, token in enumerate(tokens)}
    merges = {}
    for rank, line in enumerate(lines):
        left, _, right = line.partition(" ")
        if not {left, right, left + right} <= ids.keys():
            raise ValueError(f"{path} joins tokens in merge {rank}, {line!r}, that are not in its vocabulary")
        merges[ids[left], ids[right]] = (rank, ids[left + right])
    return Tokenizer(
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


def _sentencepiece(value: Callable[..., Any]) -> SentencePieceTokenizer:
    tokens, scores, types = (value(f"tokenizer.ggml.{key}", []) for key in ("tokens", "scores", "token_type"))
    if not len(tokens) == len(scores) == len(types) or not set(types) <= set(Kind):
        raise ValueError(
            f"{len(tokens)} tokens have {len(scores)} scores and {len(types)} types, {sorted(set(types))}; each needs "
            f"one of both, and the types are {', '.join(f'{kind} ({kind.name})' for kind in Kind)}"
        )
    if value("tokenizer.ggml.remove_extra_whitespaces", False):
        raise ValueError("it takes spaces out of texts, which is not known here")
    n = len(tokens)
    while n and types[n - 1] == UNUSED:  # rows of the embedding beyond the last token
        n -= 1
    rows = zip(tokens[:n], scores, types, strict=False)
    bos_id, eos_id = value("tokenizer.ggml.bos_token_id", 1), value("tokenizer.ggml.eos_token_id", 2)
    return SentencePieceTokenizer(
        [Piece(text, score, Kind(kind)) for text, score, kind in rows],
        prefix="always" if value("tokenizer.ggml.add_space_prefix", True) else "never",
        bos_id=bos_id,
        eos_id=eos_id,
        add_bos=value("tokenizer.ggml.add_bos_token", True),
        chat_template=value("tokenizer.chat_template"),
    )


def gguf_fields(tokenizer: Tokenizer) -> dict[str, Any]:
    """The metadata of a GGUF file from which `read_gguf_tokenizer` and llama.cpp read the same tokenizer.

    Raises:
        ValueError: if it cuts text in a way for which GGUF has no name.
    """
    fields = (_sentencepiece_fields if isinstance(tokenizer, SentencePieceTokenizer) else _byte_level_fields)(tokenizer)
    fields |= {
        "tokenizer.ggml.bos_token_id": tokenizer.bos_id,
        "tokenizer.ggml.eos_token_id": tokenizer.eos_id,
        "tokenizer.ggml.add_bos_token": tokenizer.add_bos,
        "tokenizer.chat_template": tokenizer.chat_template,
    }
    return {key: value for key, value in fields.items() if value is not None}


def _sentencepiece_fields(tokenizer: SentencePieceTokenizer) -> dict[str, Any]:
    if tokenizer.prefix not in ("always", "never"):
        raise ValueError(
            f"a space goes before the texts of this tokenizer {tokenizer.prefix}, which GGUF cannot say; "
            "convert from a folder with the tokenizer.model of this model instead of its tokenizer.json"
        )
    tokenizer.check_scores("GGUF")
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": [piece.text for piece in tokenizer.vocabulary],
        "tokenizer.ggml.scores": [piece.score for piece in tokenizer.vocabulary],
        "tokenizer.ggml.token_type": [int(piece.kind) for piece in tokenizer.vocabulary],
        "tokenizer.ggml.add_space_prefix": tokenizer.prefix == "always",
    }


def _byte_level_fields(tokenizer: Tokenizer) -> dict[str, Any]:
    names = [name for name, patterns in SPLITS.items() if patterns == tokenizer.patterns]
    if not names or tokenizer.whole_first != (names[0] == "llama-bpe"):
        raise ValueError(
            "GGUF has no name for the way in which this tokenizer cuts text; "
            f"it can hold {', '.join(SPLITS)}, so save the model in another format"
        )
    vocab, control = vocabulary(tokenizer), set(tokenizer.special.values())
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": names[0],
        "tokenizer.ggml.tokens": vocab,
        "tokenizer.ggml.token_type": [CONTROL if i in control else NORMAL for i in range(len(vocab))],
        "tokenizer.ggml.merges": [f"{left} {right}" for left, right in ranked_merges(tokenizer, vocab)],
    }
