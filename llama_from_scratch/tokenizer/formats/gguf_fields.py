"""The metadata of a GGUF file from which `read_gguf_tokenizer` and llama.cpp read the same tokenizer.

Both functions raise ValueError if GGUF cannot say what the tokenizer does.
"""

from typing import TYPE_CHECKING, Any

from ..pieces import STOP_NAMES
from ..split import SPLITS
from .save import ranked_merges, vocabulary

if TYPE_CHECKING:
    from ..base import Tokenizer
    from ..sentencepiece import SentencePieceTokenizer

# Token types. Source: llama.cpp's gguf package, TokenType
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED = 1, 2, 3, 4, 5
STOP_KEYS = tuple(f"tokenizer.ggml.{name}_token_id" for name in ("eos", "eot", "eom"))


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
    added = {token.id for token in tokenizer.added.values() if not token.special}
    return _common(tokenizer) | {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": [piece.text for piece in tokenizer.vocabulary],
        "tokenizer.ggml.scores": [piece.score for piece in tokenizer.vocabulary],
        "tokenizer.ggml.token_type": [
            USER_DEFINED if i in added else int(piece.kind) for i, piece in enumerate(tokenizer.vocabulary)
        ],
        "tokenizer.ggml.add_space_prefix": tokenizer.prefix == "always",
    }


def byte_level_fields(tokenizer: "Tokenizer") -> dict[str, Any]:
    names = [name for name, patterns in SPLITS.items() if patterns == tokenizer.patterns]
    if not names or tokenizer.whole_first != (names[0] == "llama-bpe"):
        raise ValueError(
            "GGUF has no name for the way in which this tokenizer cuts text; "
            f"it can hold {', '.join(SPLITS)}, so save the model in another format"
        )
    vocab = vocabulary(tokenizer)
    types = {i: UNUSED for i, piece in enumerate(tokenizer.pieces) if not piece}
    types |= {token.id: USER_DEFINED for token in tokenizer.added.values()}
    types |= {i: CONTROL for i in tokenizer.special.values()}
    return _common(tokenizer) | {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": names[0],
        "tokenizer.ggml.tokens": vocab,
        "tokenizer.ggml.token_type": [types.get(i, NORMAL) for i in range(len(vocab))],
        "tokenizer.ggml.merges": [f"{left} {right}" for left, right in ranked_merges(tokenizer, vocab)],
    }


def _common(tokenizer: "Tokenizer") -> dict[str, Any]:
    for token in tokenizer.added.values():
        if token.lstrip or token.rstrip or token.single_word:
            raise ValueError(f"its added token {token.content!r} has options (lstrip, …), which GGUF cannot say")
    fields = {
        "tokenizer.ggml.bos_token_id": tokenizer.bos_id,
        "tokenizer.ggml.padding_token_id": tokenizer.pad_id,
        **stop_fields(tokenizer),
        "tokenizer.ggml.add_bos_token": tokenizer.add_bos,
        "tokenizer.chat_template": tokenizer.chat_template,
    }
    if more := sorted(tokenizer.templates.keys() - {"default"}):
        fields["tokenizer.chat_templates"] = more
        fields |= {f"tokenizer.chat_template.{name}": tokenizer.templates[name] for name in more}
    return {key: value for key, value in fields.items() if value is not None}


def stop_fields(tokenizer: "Tokenizer") -> dict[str, int]:
    """The fields eos, eot and eom. They hold three ids, and none where the vocabulary says by a name that it ends a
    turn: llama.cpp goes by names, too."""
    told = {tokenizer.special.get(name) for name in STOP_NAMES}
    rest = sorted(tokenizer.stop_ids - told - {tokenizer.eos_id})
    ids = [tokenizer.eos_id, *rest] if tokenizer.eos_id is not None else rest
    return dict(zip(STOP_KEYS, ids, strict=False))
