"""Atomic writing: at any moment, and after any crash, a place holds its old content or its new content, complete."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .lock import exclusive_lock


@contextmanager
def staging_folder(place: Path, refusal: Exception | None = None) -> Iterator[Path]:
    """An empty folder on the same disk as `place`, to write in before renaming; it is removed at the end.

    A lock lets one program at a time write to a place, so a staging folder that is already there was left by a program
    that was killed, and is removed first.
    refusal: raised if another program is writing to `place`; None waits for it.

    Raises:
        OSError: if the folder cannot be made.
    """
    with exclusive_lock(place.with_name(f".{place.name}.lock"), refusal):
        staging = place.with_name(f".{place.name}.saving")
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir()
        try:
            yield staging
        finally:
            shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def atomic_write(path: Path, refusal: Exception | None = None) -> Iterator[Path]:
    """A path to write a file or folder to; after the block it is synced to the disk and renamed to `path`.

    If the block raises, nothing has changed. A folder must not exist yet; a file is replaced.
    refusal: as in `staging_folder`.

    Raises:
        OSError: if the system refuses.
    """
    with staging_folder(path, refusal) as staging:
        unfinished = staging / path.name
        yield unfinished
        for part in [*unfinished.rglob("*"), unfinished]:
            sync(part)
        os.replace(unfinished, path)
        sync(path.parent)  # the new name, too


def remove_unfinished(folder: Path) -> None:
    """Remove what killed programs left in a folder. Only for a caller that no other program writes there beside."""
    for staging in folder.glob(".*.saving"):
        shutil.rmtree(staging, ignore_errors=True)


def remove_atomically(folder: Path) -> None:
    """Remove a folder so that half of it is never found under its name.

    Raises:
        OSError: if the system refuses.
    """
    shutil.rmtree(folder.rename(folder.with_name(f".{folder.name}.saving")))


def sync(path: Path) -> None:
    """Wait until a file, or the list of names in a folder, is on the disk."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
