"""The folder of a model: its JSON files, and how a new model takes the place of an old one at a single stroke."""

import ctypes
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from filelock import FileLock, Timeout  # torch brings it along

from .stored import CheckpointError

CONFIG, PARAMS = "config.json", "params.json"  # what tells a Hugging Face folder and one of Meta's
# Everything in a folder that belongs to its model, in either layout, and would be wrong beside another one.
MODEL_FILE = re.compile(
    r"config\.json|model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json"
    r"|params\.json|consolidated\.\d\d\.pth"
)
TOKENIZER_FILE = re.compile(
    r"(tokenizer|tokenizer_config|special_tokens_map|added_tokens|generation_config|vocab)\.json"
    r"|tokenizer\.model|chat_template\.jinja|merges\.txt"
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


@contextmanager
def replacing(folder: Path, overwrite: bool, with_tokenizer: bool) -> Iterator[Path]:
    """Gives an empty folder to write a new model into; when the block ends well, it becomes `folder`.

    That is one step for the file system, so whoever is killed, at whatever moment, leaves the old model or the new one,
    never a mixture. What else is in `folder` stays there; its tokenizer stays too, unless the new model brings its own.
    If the block fails, nothing has changed.

    Raises:
        CheckpointError: if `folder` is a file, a training run or the current folder, holds a model and `overwrite` is
            False, is being written by another program, or cannot be written.
    """
    name = folder
    try:
        folder = _place(name)
        folder.parent.mkdir(parents=True, exist_ok=True)
        refusal = CheckpointError(
            f"another program is saving to {name} now; wait until it has finished, or choose another folder"
        )
        with alone(folder.with_name(f".{folder.name}.lock"), refusal):
            # Siblings: on the same disk, so that renaming is one step.
            staging, aside = folder.with_name(f".{folder.name}.saving"), folder.with_name(f".{folder.name}.old")
            if aside.exists() and not folder.exists():  # killed between the two renames of `_exchange`
                aside.rename(folder)
            if folder.exists():
                _check_old(folder, name, overwrite)
            shutil.rmtree(staging, ignore_errors=True)  # of a save that was killed
            staging.mkdir()
            try:
                yield staging
                for file in staging.iterdir():
                    file.chmod(staging.stat().st_mode & 0o666)  # as the umask says; safetensors: the owner only
                    with file.open("rb") as written:
                        os.fsync(written.fileno())  # also a power cut finds whole files under the new names
                if folder.exists():
                    for entry in folder.iterdir():  # as it is now: files may have come since the writing began
                        tokenizer = with_tokenizer and TOKENIZER_FILE.fullmatch(entry.name)
                        if not (MODEL_FILE.fullmatch(entry.name) or tokenizer or (staging / entry.name).exists()):
                            _link(entry, staging / entry.name)
                    shutil.copymode(folder, staging)
                    _exchange(staging, folder, aside)
                else:
                    staging.rename(folder)
            finally:
                shutil.rmtree(staging, ignore_errors=True)  # by now the old model, or the new one, not finished
    except OSError as error:
        raise CheckpointError(
            f"{name} cannot be written ({reason(error)}); make room, or choose another folder"
        ) from None


def _place(name: Path) -> Path:
    """Where the folder is that is to be replaced, if it is one that can be."""
    try:
        folder = name.resolve()  # a link stays a link; what it points to is replaced
    except RuntimeError:
        raise CheckpointError(f"{name} is a link that leads to itself; remove it, or choose another folder") from None
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{name} is a file; give the name of a folder")
    if (folder / "run.json").is_file():
        raise CheckpointError(f"{name} is the folder of a training run, and stays one; choose another folder")
    if Path.cwd().is_relative_to(folder):
        raise CheckpointError(
            f"{name} is the current folder or holds it, and a folder is replaced as a whole; "
            "save to a folder inside it, such as ./model"
        )
    if folder.is_mount():
        raise CheckpointError(
            f"{folder} is where a disk begins, and a folder is replaced as a whole; save to a folder inside it"
        )
    return folder


@contextmanager
def alone(file: Path, refusal: Exception) -> Iterator[None]:
    """Hold the lock that is called `file`: two programs that write to one folder would mix their files.

    The system lifts the lock when a program dies. Raises `refusal` if another program has it.
    """
    lock = FileLock(file, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise refusal from None
    try:
        yield
    finally:
        with suppress(OSError):  # Windows keeps what is open
            os.unlink(lock.lock_file)  # while it is still ours
        lock.release()


def _check_old(folder: Path, name: Path, overwrite: bool) -> None:
    """Whether what is in the folder may be replaced, and can be."""
    old = sorted(entry.name for entry in folder.iterdir() if MODEL_FILE.fullmatch(entry.name))
    if old and not overwrite:
        raise CheckpointError(
            f"{name} already holds a model ({old[0]}); pass overwrite=True to replace it, or choose another folder"
        )

    def stop(error: OSError) -> None:
        raise error

    for place, _, _ in os.walk(folder, onerror=stop):
        if os.stat(place).st_dev != folder.stat().st_dev:  # what is on it would be copied, and then deleted there
            raise CheckpointError(
                f"{place} is on another disk than {name}, which is replaced as a whole; choose another folder"
            )


def _link(source: Path, target: Path) -> None:
    """A second name for the same file, or for each file of a folder; a copy where the file system has no such names."""

    def link(old: str | Path, new: str | Path) -> None:
        try:
            os.link(old, new, follow_symlinks=False)
        except OSError:
            shutil.copy2(old, new, follow_symlinks=False)

    if source.is_dir() and not source.is_symlink():
        shutil.copytree(source, target, symlinks=True, copy_function=link)
    else:
        link(source, target)


def _exchange(new: Path, old: Path, aside: Path) -> None:
    """Swap two folders: in one step where Linux and the file system can, else by moving the old one aside."""
    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(libc, "renameat2"):
        here, exchange = -100, 2  # AT_FDCWD and RENAME_EXCHANGE in renameat2(2)
        if libc.renameat2(here, os.fsencode(new), here, os.fsencode(old), exchange) == 0:
            return
    shutil.rmtree(aside, ignore_errors=True)  # of a save that was killed after both renames
    old.rename(aside)
    try:
        new.rename(old)
    except BaseException:  # Ctrl-C, too
        aside.rename(old)
        raise
    aside.rename(new)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        CheckpointError: if there is no such file, or something else is in it.
    """
    try:
        content = strict_json(path)
    except FileNotFoundError:
        raise CheckpointError(
            f"{path} is missing; give a folder with config.json and safetensors, or with params.json and "
            "consolidated.00.pth, or the path of a GGUF file"
        ) from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({reason(error)}); make it a file that you may read") from None
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON ({error}); download it again") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} must hold a JSON object in braces; download it again")
    return content


def strict_json(path: Path) -> Any:
    """What a JSON file holds, if it can be understood in one way only.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is no JSON in UTF-8, names something twice in one object, or is nested too deeply.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in pairs:
            if name in found:
                raise ValueError(f"it names {name!r} twice")
            found[name] = value
        return found

    def whole(digits: str) -> int:
        if len(digits) > 1000:
            raise ValueError(f"it holds a number of {len(digits)} digits")
        return int(digits)

    try:
        return json.loads(path.read_bytes().decode(), object_pairs_hook=once, parse_int=whole)
    except UnicodeDecodeError as error:
        raise ValueError(f"its byte {error.start} is not UTF-8") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def reason(error: OSError) -> str:
    """Why the system refused, without the number and without the path, which the message has named already."""
    return error.strerror or str(error)


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
