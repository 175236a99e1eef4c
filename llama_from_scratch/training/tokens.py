"""Texts as tokens: encoded once, kept in a file that is mapped into memory and read where it is needed."""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ..files.atomic import written_whole
from ..files.errors import reason
from ..files.strict_json import strict_json
from ..tokenizer import Tokenizer
from .texts import Document

PARTS = ("train", "held_out")


def write_tokens(
    folder: Path,
    texts: dict[str, Sequence[Document]],
    tokenizer: Tokenizer,
    progress: Callable[[int], object] | None = None,
) -> None:
    """Write a folder with one .npy for each part ("train", "held_out") and data.json, which says what it was made of.

    The documents lie one behind the other, the tokenizer's end token behind each. Ids take 2 bytes where the vocabulary
    allows it, else 4. `progress` is called with the bytes of text that are done.

    Raises:
        ValueError: if the tokenizer has no end token, or a text cannot be spelled in it.
    """
    if tokenizer.eos_id is None:
        raise ValueError("this tokenizer has no token for the end of a text; choose another one")
    dtype = np.uint16 if len(tokenizer) <= 1 << 16 else np.uint32
    facts, done = {}, 0
    with written_whole(folder) as unfinished:
        unfinished.mkdir()
        for part, documents in texts.items():
            rows, entries = [], []
            for document in documents:
                raw = document.text.encode("utf-8")
                rows.append(np.array([*tokenizer.encode(document.text), tokenizer.eos_id], dtype))
                entries.append(
                    {
                        "name": document.name,
                        "bytes": len(raw),
                        "tokens": len(rows[-1]),
                        "sha256": hashlib.sha256(raw).hexdigest(),
                    }
                )
                done += len(raw)
                if progress:
                    progress(done)
            tokens = np.concatenate(rows)
            np.save(unfinished / f"{part}.npy", tokens)
            facts[part] = {"sha256": hashlib.sha256(tokens).hexdigest(), "documents": entries}
        (unfinished / "data.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def read_tokens(folder: Path, part: str) -> np.ndarray:
    """The tokens of one part, mapped into memory.

    Raises:
        ValueError: if the file is missing, damaged or not the one that data.json describes.
    """
    try:
        tokens = np.load(folder / f"{part}.npy", mmap_mode="r", allow_pickle=False)
        expected = facts(folder)[part]["sha256"]
    except OSError as error:
        raise ValueError(f"{folder / part}.npy cannot be read ({reason(error)}); begin a new run") from None
    except Exception:  # the head of a .npy file is a piece of Python, and can be wrong in any way
        raise ValueError(f"{folder / part}.npy cannot be read (it or data.json is damaged); begin a new run") from None
    whole = isinstance(tokens, np.ndarray) and tokens.ndim == 1 and tokens.dtype.kind == "u"  # a zip makes no array
    if not whole or hashlib.sha256(tokens).hexdigest() != expected:
        raise ValueError(f"{folder / part}.npy is not what was written there; begin a new run")
    return tokens


def facts(folder: Path) -> dict:
    """What data.json says: for each part its documents with name, bytes, tokens and sha256."""
    return strict_json(folder / "data.json")
