"""Texts as tokens: encoded once, into a file that is memory-mapped."""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ..files.atomic import atomic_write
from ..files.errors import reason
from ..files.strict_json import strict_json
from ..tokenizer import Tokenizer
from ..tokenizer.base import Errors, SpellingError
from .texts import Document

PARTS = ("train", "held_out")


def write_tokens(
    folder: Path,
    texts: dict[str, Sequence[Document]],
    tokenizer: Tokenizer,
    progress: Callable[[int], object] | None = None,
    errors: Errors = "strict",
) -> None:
    """Write a folder with one .npy for each part ("train", "held_out") and data.json, which lists the documents.

    The documents are concatenated, each followed by the tokenizer's eos token. Ids take 2 bytes if the vocabulary has
    at most 2^16 tokens, else 4.
    progress: called with the bytes of text that are done. errors: see `Tokenizer.encode`; data.json counts the
    characters.

    Raises:
        ValueError: if the tokenizer has no eos token, or `errors` is "strict" and it cannot spell a text.
    """
    if tokenizer.eos_id is None:
        raise ValueError("this tokenizer has no token for the end of a text; choose another one")
    dtype = np.uint16 if len(tokenizer) <= 1 << 16 else np.uint32
    facts, done = {}, 0
    with atomic_write(folder) as unfinished:
        unfinished.mkdir()
        for part, documents in texts.items():
            rows, entries = [], []
            for document in documents:
                raw = document.text.encode("utf-8")
                rows.append(np.array([*_encode(document, tokenizer, errors), tokenizer.eos_id], dtype))
                entries.append(
                    {
                        "name": document.name,
                        "bytes": len(raw),
                        "tokens": len(rows[-1]),
                        "sha256": hashlib.sha256(raw).hexdigest(),
                        "unspellable": 0 if errors == "strict" else len(tokenizer.unspellable(document.text)),
                    }
                )
                done += len(raw)
                if progress:
                    progress(done)
            tokens = np.concatenate(rows)
            np.save(unfinished / f"{part}.npy", tokens)
            facts[part] = {"sha256": hashlib.sha256(tokens).hexdigest(), "documents": entries}
        (unfinished / "data.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def _encode(document: Document, tokenizer: Tokenizer, errors: Errors) -> list[int]:
    try:
        return tokenizer.encode(document.text, errors=errors)
    except SpellingError as error:
        raise SpellingError(f"{document.name}: {error.problem}", error.advice) from None


def read_tokens(folder: Path, part: str) -> np.ndarray:
    """The tokens of one part: [n], memory-mapped.

    Raises:
        ValueError: if the file is missing or damaged, or its hash is not that in data.json.
    """
    try:
        tokens = np.load(folder / f"{part}.npy", mmap_mode="r", allow_pickle=False)
        expected = facts(folder)[part]["sha256"]
    except OSError as error:
        raise ValueError(f"{folder / part}.npy cannot be read ({reason(error)}); begin a new run") from None
    except Exception:  # the header of a .npy file is a Python literal, and can be wrong in any way
        raise ValueError(f"{folder / part}.npy cannot be read (it or data.json is damaged); begin a new run") from None
    valid = isinstance(tokens, np.ndarray) and tokens.ndim == 1 and tokens.dtype.kind == "u"  # not so for a zip
    if not valid or hashlib.sha256(tokens).hexdigest() != expected:
        raise ValueError(f"{folder / part}.npy is not what was written there; begin a new run")
    return tokens


def facts(folder: Path) -> dict:
    """The content of data.json: for each part its documents with name, bytes, tokens, sha256 and unspellable."""
    return strict_json(folder / "data.json")


def count_unspellable(folder: Path) -> int:
    """Characters of all documents that were replaced or left out, because the vocabulary cannot spell them."""
    return sum(document["unspellable"] for part in facts(folder).values() for document in part["documents"])
