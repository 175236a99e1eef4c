"""Vocabulary files for tests of the tokenizer."""

import base64
import importlib.metadata
import tempfile
from functools import cache
from pathlib import Path

from llama_from_scratch.tokenizer import Tokenizer
from llama_from_scratch.tokenizer.formats.tokenizer_model import read_tokenizer_model


@cache
def mistral() -> bytes:
    """The SentencePiece model of Mistral 7B: 32,000 pieces with byte fallback. It is of Llama 2's kind, but it is not
    Llama 2's: the ids differ. It lies in the package mistral_common, which is found but never imported."""
    files = importlib.metadata.files("mistral_common") or []
    (file,) = [file for file in files if file.name == "tokenizer.model.v1"]
    return file.read_binary()


def tiktoken_lines(tokens: list[bytes]) -> bytes:
    """Tokens in tiktoken's format, in the order of their ranks."""
    return b"".join(base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens))


def read(data: bytes) -> Tokenizer:
    """What `read_tokenizer_model` makes of a file with this content."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        return read_tokenizer_model(Path(file.name))
