"""Writing so that whoever looks, at any moment and after any crash, finds the old content or the new, whole."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Gives a path beside `path` to write a file or folder to, and moves it there once it is complete and on the disk.

    If the block raises, nothing is left behind. A folder must not exist yet; a file is replaced.
    """
    staging = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=path.parent))
    try:
        unfinished = staging / path.name
        yield unfinished
        for part in [*unfinished.rglob("*"), unfinished]:
            sync(part)
        os.replace(unfinished, path)
        sync(path.parent)  # the name is on the disk, too
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def remove_unfinished(folder: Path, name: str | None = None) -> None:
    """Clear away what a process that was killed was writing in a folder: all of it, or what was to become `name`."""
    for staging in folder.glob(".unfinished-*"):
        if name is None or (staging / name).exists():
            shutil.rmtree(staging, ignore_errors=True)


def sync(path: Path) -> None:
    """Wait until a file, or the list of names in a folder, is on the disk."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
