"""Finding a model's tokenizer."""

from pathlib import Path

from ..checkpoint import resolve
from .gguf import read_gguf_tokenizer
from .hugging_face import read_hugging_face_tokenizer
from .tokenizer import Tokenizer


def load_tokenizer(name: str | Path) -> Tokenizer:
    """The tokenizer of a model, which is named as for `checkpoint.load_model`.

    Raises:
        ValueError: if there is no such model, or its tokenizer is missing, damaged or of a kind that is not known here.
    """
    path = resolve(name, weights=False)
    if path.suffix == ".safetensors":
        path = path.parent
    return read_hugging_face_tokenizer(path) if path.is_dir() else read_gguf_tokenizer(path)
