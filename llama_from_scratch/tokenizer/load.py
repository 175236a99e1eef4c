"""Finding a model's tokenizer."""

from pathlib import Path

from ..checkpoint.embedded import EMBEDDED, embedded_path
from .tokenizer import Tokenizer


def load_tokenizer(name: str | Path) -> Tokenizer:
    """The tokenizer of a model: "SmolLM2-135M-Instruct" (embedded), or a GGUF file."""
    from .gguf import read_gguf_tokenizer

    return read_gguf_tokenizer(embedded_path() if name == EMBEDDED else Path(name))
