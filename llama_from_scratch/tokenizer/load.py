"""Finding a model's tokenizer."""

from pathlib import Path

from ..files.model_files import read_model_files
from ..files.resolve import resolve
from .base import Tokenizer
from .formats.gguf import read_gguf_tokenizer
from .formats.huggingface import read_hugging_face_tokenizer
from .formats.tokenizer_model import read_tokenizer_model


def load_tokenizer(name: str | Path) -> Tokenizer:
    """The tokenizer of a model, which is named as for `checkpoint.load_model`.

    In a folder it is tokenizer.json, or else tokenizer.model: SentencePiece's, or tiktoken's as Llama 3 has it. See
    `files/model_files.py` for what the files beside it say, and which of them counts where they differ.

    Raises:
        ValueError: if there is no such model, or its tokenizer is missing, damaged or of a kind that is not known here.
    """
    path = resolve(name, weights=False)
    if path.suffix == ".safetensors":
        path = path.parent
    if not path.is_dir():
        return read_gguf_tokenizer(path)
    if (path / "tokenizer.json").is_file():
        return read_hugging_face_tokenizer(path)
    if (path / "tokenizer.model").is_file():
        return read_tokenizer_model(path / "tokenizer.model", read_model_files(path))
    raise ValueError(f"{path} has no tokenizer.json and no tokenizer.model; put the one of its model there")
