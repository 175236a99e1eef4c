"""tokenizer.model, the tokenizer in Meta's folders: SentencePiece's for Llama 1 and 2, tiktoken's from Llama 3 on."""

from pathlib import Path

from ...files.model_files import NOTHING, ModelFiles
from ..base import Tokenizer
from ..sentencepiece import SentencePieceTokenizer
from .sentencepiece_file import read_sentencepiece, sentencepiece_file
from .tiktoken import read_tiktoken, tiktoken_file


def read_tokenizer_model(path: Path, beside: ModelFiles = NOTHING) -> Tokenizer:
    """Read a tokenizer.model of either kind; they are told apart by their content.

    beside: what the files in its folder say.

    Raises:
        ValueError: if it is neither, or damaged.
    """
    with path.open("rb") as file:
        first = file.read(1)
    if not first:
        raise ValueError(f"{path} is empty; copy it again from where you got the model")
    # A SentencePiece model begins with a field 1 of bytes, whose head is the byte 10; base64 has no such character.
    return (read_sentencepiece if first == b"\n" else read_tiktoken)(path, beside)


def tokenizer_model(tok: Tokenizer) -> bytes:
    """The content of a tokenizer.model from which `read_tokenizer_model` and Meta's code read the same tokenizer.

    Raises:
        ValueError: if it is neither of SentencePiece's kind nor of Llama 3's.
    """
    try:
        return sentencepiece_file(tok) if isinstance(tok, SentencePieceTokenizer) else tiktoken_file(tok)
    except ValueError as error:
        raise ValueError(
            f"this tokenizer cannot be written as a tokenizer.model: {error}; tokenizer.json can hold it"
        ) from None
