"""Replacing a model folder by a new one atomically."""

import ctypes
import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .atomic import staging_folder, sync
from .errors import CheckpointError, ExistsError, WriteError, being_written, reason
from .layout import MODEL_FILE, TOKENIZER_FILE


@contextmanager
def replacing(folder: Path, overwrite: bool, with_tokenizer: bool) -> Iterator[Path]:
    """An empty folder to write a new model to; after the block it becomes `folder`.

    That is one step for the file system: a program killed at any moment leaves the old model or the new one, never a
    mixture. Other files in `folder` stay there; its tokenizer stays too, unless the new model brings its own. If the
    block raises, nothing has changed.

    Raises:
        CheckpointError: if `folder` is a file, a training run or the current folder, is being written by another
            program, or cannot be written (`WriteError`), or holds a model and `overwrite` is False (`ExistsError`).
    """
    name = folder
    try:
        folder = _place(name)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with staging_folder(folder, being_written(name)) as staging:
            aside = folder.with_name(f".{folder.name}.old")
            if aside.exists() and not folder.exists():  # killed between the two renames of `_exchange`
                aside.rename(folder)
            if folder.exists():
                _check_old(folder, name, overwrite)
            new = staging / folder.name
            new.mkdir()
            yield new
            for file in new.iterdir():
                file.chmod(new.stat().st_mode & 0o666)  # as the umask says; safetensors: the owner only
                sync(file)
            if folder.exists():
                for entry in folder.iterdir():  # as it is now: files may have come since the writing began
                    tokenizer = with_tokenizer and TOKENIZER_FILE.fullmatch(entry.name)
                    if not (MODEL_FILE.fullmatch(entry.name) or tokenizer or (new / entry.name).exists()):
                        _link(entry, new / entry.name)
                shutil.copymode(folder, new)
                _exchange(new, folder, aside)
            else:
                new.rename(folder)
    except OSError as error:
        raise WriteError(name, reason(error), "folder") from None


def _place(name: Path) -> Path:
    """The real path of a folder that may be replaced."""
    try:
        name.stat()
    except OSError as error:
        if error.errno == errno.ELOOP:
            message = f"{name} is a link that leads to itself; remove it, or choose another folder"
            raise CheckpointError(message) from None
    folder = name.resolve()  # a link stays a link; what it points to is replaced
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{name} is a file; give the name of a folder")
    if (folder / "run.json").is_file():
        raise CheckpointError(f"{name} is the folder of a training run; choose another folder")
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


def _check_old(folder: Path, name: Path, overwrite: bool) -> None:
    """Raise CheckpointError if the content of the folder may not or cannot be replaced."""
    old = sorted(entry.name for entry in folder.iterdir() if MODEL_FILE.fullmatch(entry.name))
    if old and not overwrite:
        raise ExistsError(f"{name} already holds a model ({old[0]})", "choose another folder")

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
