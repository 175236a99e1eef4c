"""Which files make up a model's folder, in Hugging Face's layout and in Meta's."""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

PICKLES = (".bin", ".pth", ".pt", ".pickle", ".pkl", ".ckpt")  # endings of files whose content may be code
PICKLED = "pytorch_model.bin"  # of these, only tensors are read
CONFIG, PARAMS = "config.json", "params.json"  # what tells a Hugging Face folder and one of Meta's
# Everything in a folder that belongs to its model, in either layout, and would be wrong beside another one.
MODEL_FILE = re.compile(
    r"config\.json|model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json"
    r"|pytorch_model(-\d{5}-of-\d{5})?\.bin|pytorch_model\.bin\.index\.json"
    r"|params\.json|consolidated\.\d\d\.pth"
)
TOKENIZER_FILE = re.compile(
    r"(tokenizer|tokenizer_config|special_tokens_map|added_tokens|generation_config|vocab)\.json"
    r"|tokenizer\.model|chat_template\.(jinja|json)|merges\.txt"
)


def is_meta(folder: Path) -> bool:
    """Whether a folder is in Meta's layout; one that also has a config.json is read as Hugging Face's."""
    return (folder / PARAMS).is_file() and not (folder / CONFIG).is_file()


def tokenizer_in(folder: Path) -> str | None:
    """The kind of tokenizer in a folder, in words."""
    kinds = {
        "tokenizer.json": "Hugging Face tokenizer.json",
        "tokenizer.model": "SentencePiece or tiktoken tokenizer.model",
    }
    return next((kind for file, kind in kinds.items() if (folder / file).is_file()), None)


@runtime_checkable
class CanSave(Protocol):
    """A tokenizer to be written beside weights: a `Tokenizer`, or the files of one."""

    def save(self, folder: Path) -> None: ...


@dataclass(frozen=True)
class TokenizerFiles:
    """The tokenizer of a folder, whatever kind it is, to be saved in another folder as it is."""

    files: tuple[Path, ...]

    @classmethod
    def of(cls, folder: Path) -> "TokenizerFiles":
        return cls(tuple(file for file in folder.iterdir() if TOKENIZER_FILE.fullmatch(file.name)))

    def save(self, folder: Path) -> None:
        for file in self.files:
            shutil.copyfile(file, folder / file.name)
