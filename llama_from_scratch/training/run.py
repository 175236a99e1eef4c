"""A run folder: the recipe, the texts as tokens, the log and the saves. Resuming needs nothing else.

run.json     the recipe, and the versions of the software that it began with
tokenizer/   tokenizer.json
data/        train.npy, held_out.npy, data.json
log.jsonl    a line of JSON for each step, evaluation and sample
saves/       step-00000500/ ..., each a Hugging Face model folder, with optimizer state and RNG state in training/
"""

import json
import platform
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
import safetensors
import torch

from ..checkpoint import load_config
from ..files.atomic import atomic_write
from ..files.errors import ArgumentError, CheckpointError, reason
from ..files.run_folder import saves_in
from ..files.strict_json import strict_json
from ..tokenizer import Tokenizer, load_tokenizer, train_bpe
from .batches import Batches
from .corpora import Progress
from .recipe import Recipe
from .texts import read_texts
from .tokens import PARTS, read_tokens, write_tokens


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
    """Make a run folder: read the texts, learn or load the tokenizer, encode. The folder appears when it is complete.

    Raises:
        ValueError: if the folder is not empty, another process begins a run there, or the texts cannot be used.
        OSError: if it cannot be written.
    """
    if (folder / "run.json").exists():
        raise ValueError(f"{folder} already holds a run; resume it, or choose another folder")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} already exists and is not a run; give the name of a new folder")
    train, held_out = read_texts(recipe.data, progress)
    if recipe.tokenizer is None:
        report = progress and (lambda n: progress("learning the vocabulary", n, recipe.vocab_size))
        tokenizer = train_bpe((document.text for document in train), recipe.vocab_size, progress=report)
    else:
        tokenizer = load_tokenizer(recipe.tokenizer)
        recipe = replace(recipe, vocab_size=len(tokenizer))
    total = sum(len(document.text.encode()) for document in train + held_out)
    report = progress and (lambda n: progress("encoding the texts", n, total))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        refusal = ValueError(
            f"another process is beginning a run in {folder} now; wait until it has, or choose another folder"
        )
        with atomic_write(folder, refusal) as unfinished:
            unfinished.mkdir()
            (unfinished / "tokenizer").mkdir()
            tokenizer.save(unfinished / "tokenizer")
            write_tokens(unfinished / "data", {"train": train, "held_out": held_out}, tokenizer, report, recipe.errors)
            tokens, rest = (read_tokens(unfinished / "data", part) for part in PARTS)
            Batches(tokens, recipe.context, recipe.batch_size, recipe.seed)  # raises if there are too few
            if len(rest) < 2:
                raise ValueError("the texts are too short to hold out a twentieth of them; give more text")
            write_recipe(unfinished, recipe)
            (unfinished / "saves").mkdir()
            (unfinished / "log.jsonl").touch()
    except OSError as error:
        raise OSError(f"{folder} cannot be written ({reason(error)}); make room, or choose another folder") from None
    return Run(folder, recipe)


def reopen(folder: Path) -> Run:
    """The run in a folder.

    Raises:
        ValueError: if there is none, or run.json is damaged.
    """
    file = folder / "run.json"
    if not file.is_file():
        raise ValueError(f"there is no run in {folder}; begin one there, or give the folder of a run")
    try:
        recipe = _recipe(strict_json(file))
        _check_save(folder, recipe)
        return Run(folder, recipe)
    except ArgumentError as error:
        raise ArgumentError(
            "{file} is damaged (" + error.template + "); bring it back, or begin a new run", **error.values, file=file
        ) from None
    except OSError as error:
        raise ValueError(f"{file} cannot be read ({reason(error)}); make it a file that you may read") from None
    except ValueError as error:
        raise ValueError(f"{file} is damaged ({error}); bring it back, or begin a new run") from None


def _recipe(content: object) -> Recipe:
    """What `write_recipe` wrote."""
    stored = content.get("recipe") if isinstance(content, dict) else None
    if not isinstance(stored, dict):
        raise ValueError("it holds no recipe")
    if unknown := stored.keys() - {field.name for field in fields(Recipe)}:
        raise ValueError(f"its recipe has the unknown setting {min(unknown)!r}")
    if missing := {"data", "steps"} - stored.keys():  # all others have defaults
        raise ValueError(f"its recipe lacks the setting {min(missing)!r}")
    data = stored["data"]
    if not isinstance(data, list) or not all(isinstance(name, str) for name in data):
        raise ValueError("its data are not a list of names")
    return Recipe(**stored | {"data": tuple(data)})


def _check_save(folder: Path, recipe: Recipe) -> None:
    """Compare the sizes, before a model is made of them: a damaged recipe may say any."""
    with suppress(CheckpointError):  # `restore` says what is wrong with a save
        if saves := saves_in(folder):
            recipe.check_model(load_config(saves[-1]))


def write_recipe(folder: Path, recipe: Recipe) -> None:
    versions = {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}
    versions |= {"safetensors": safetensors.__version__, "machine": platform.machine()}
    content = {"recipe": asdict(recipe), "versions": versions}
    with atomic_write(folder / "run.json") as unfinished:
        unfinished.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
