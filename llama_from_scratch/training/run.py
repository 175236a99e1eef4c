"""A run folder: the recipe, the texts as tokens, the log and the saves. It needs nothing outside itself to go on.

run.json     the recipe, and the versions that it began with
tokenizer/   tokenizer.json
data/        train.npy, held_out.npy, data.json
log.jsonl    a line of JSON for each step, evaluation and sample
saves/       step-00000500/ …, each a model that any program can load, and beside it what training needs to go on
"""

import json
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import safetensors
import torch

from ..tokenizer import Tokenizer, load_tokenizer, train_bpe
from .corpora import Progress
from .files import written_whole
from .recipe import Recipe
from .texts import read_texts
from .tokens import write_tokens

Step = Callable[[str, int, int | None], object]  # what is done, how much of it, of how much


@dataclass(frozen=True)
class Run:
    folder: Path
    recipe: Recipe

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def log(self) -> Path:
        return self.folder / "log.jsonl"

    @property
    def saves(self) -> Path:
        return self.folder / "saves"

    def tokenizer(self) -> Tokenizer:
        return load_tokenizer(self.folder / "tokenizer")


def begin(folder: Path, recipe: Recipe, progress: Progress | None = None) -> Run:
    """Make a run folder: read the texts, learn the tokenizer or load it, encode. The folder appears once all is there.

    Raises:
        ValueError: if the folder is taken, or for texts that cannot be used.
    """
    if (folder / "run.json").exists():
        raise ValueError(f"{folder} already holds a run; give --resume to go on with it, or another folder")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} already exists and is no run; give the name of a new folder")
    train, held_out = read_texts(recipe.data, progress)
    if recipe.tokenizer is None:
        report = progress and (lambda n: progress("learning the vocabulary", n, recipe.vocab_size))
        tokenizer = train_bpe((document.text for document in train), recipe.vocab_size, progress=report)
    else:
        tokenizer = load_tokenizer(recipe.tokenizer)
        recipe = replace(recipe, vocab_size=len(tokenizer))
    total = sum(len(document.text.encode()) for document in train + held_out)
    report = progress and (lambda n: progress("encoding the texts", n, total))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(folder) as unfinished:
        unfinished.mkdir()
        (unfinished / "tokenizer").mkdir()
        tokenizer.save(unfinished / "tokenizer")
        write_tokens(unfinished / "data", {"train": train, "held_out": held_out}, tokenizer, report)
        write_recipe(unfinished, recipe)
        (unfinished / "saves").mkdir()
        (unfinished / "log.jsonl").touch()
    return Run(folder, recipe)


def reopen(folder: Path) -> Run:
    """The run in a folder.

    Raises:
        ValueError: if there is none, or run.json is damaged.
    """
    file = folder / "run.json"
    if not file.is_file():
        raise ValueError(f"there is no run in {folder}; leave --resume out to begin one there")
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))["recipe"]
        return Run(folder, Recipe(**{**stored, "data": tuple(stored["data"])}))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is damaged ({error}); bring it back, or begin a new run") from None


def write_recipe(folder: Path, recipe: Recipe) -> None:
    versions = {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}
    versions |= {"safetensors": safetensors.__version__, "machine": platform.machine()}
    content = {"recipe": asdict(recipe), "versions": versions}
    with written_whole(folder / "run.json") as unfinished:
        unfinished.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
