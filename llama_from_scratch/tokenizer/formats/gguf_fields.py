"""The metadata of a GGUF file from which `read_gguf_tokenizer` and llama.cpp read the same tokenizer.

Both functions raise ValueError if GGUF cannot say what the tokenizer does.
"""

from typing import TYPE_CHECKING, Any

from ..split import SPLITS
from .save import ranked_merges, vocabulary

if TYPE_CHECKING:
    from ..base import Tokenizer
    from ..sentencepiece import SentencePieceTokenizer

NORMAL, CONTROL, UNUSED = 1, 3, 5  # token types. Source: llama.cpp's gguf package, TokenType


def sentencepiece_fields(tokenizer: "SentencePieceTokenizer") -> dict[str, Any]:
    if tokenizer.prefix not in ("always", "never"):
        raise ValueError(
            f"a space goes before the texts of this tokenizer {tokenizer.prefix}, which GGUF cannot say; "
            "convert from a folder with the tokenizer.model of this model instead of its tokenizer.json"
        )
    if tokenizer.bos_id is None or tokenizer.eos_id is None:
        raise ValueError(
            "it has no bos or no eos token, and in GGUF a tokenizer of SentencePiece's kind always has them (tokens 1 "
            "and 2 if the file names none); save the model in another format"
        )
    tokenizer.check_scores("GGUF")
    return _common(tokenizer) | {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": [piece.text for piece in tokenizer.vocabulary],
        "tokenizer.ggml.scores": [piece.score for piece in tokenizer.vocabulary],
        "tokenizer.ggml.token_type": [int(piece.kind) for piece in tokenizer.vocabulary],
        "tokenizer.ggml.add_space_prefix": tokenizer.prefix == "always",
    }


def byte_level_fields(tokenizer: "Tokenizer") -> dict[str, Any]:
    names = [name for name, patterns in SPLITS.items() if patterns == tokenizer.patterns]
    if not names or tokenizer.whole_first != (names[0] == "llama-bpe"):
        raise ValueError(
            "GGUF has no name for the way in which this tokenizer cuts text; "
            f"it can hold {', '.join(SPLITS)}, so save the model in another format"
        )
    vocab, control = vocabulary(tokenizer), set(tokenizer.special.values())
    return _common(tokenizer) | {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": names[0],
        "tokenizer.ggml.tokens": vocab,
        "tokenizer.ggml.token_type": [CONTROL if i in control else NORMAL for i in range(len(vocab))],
        "tokenizer.ggml.merges": [f"{left} {right}" for left, right in ranked_merges(tokenizer, vocab)],
    }


def _common(tokenizer: "Tokenizer") -> dict[str, Any]:
    fields = {
        "tokenizer.ggml.bos_token_id": tokenizer.bos_id,
        "tokenizer.ggml.eos_token_id": tokenizer.eos_id,
        "tokenizer.ggml.add_bos_token": tokenizer.add_bos,
        "tokenizer.chat_template": tokenizer.chat_template,
    }
    return {key: value for key, value in fields.items() if value is not None}
