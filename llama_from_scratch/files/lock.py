"""One program at a time writes to a place."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def exclusive_lock(file: Path, refusal: Exception | None = None) -> Iterator[None]:
    """Hold the lock file `file`, which is removed at the end. The system releases the lock of a program that dies.

    refusal: raised if another program holds the lock; None waits for it.

    Raises:
        OSError: if the file cannot be made.
    """
    lock = FileLock(file, timeout=-1 if refusal is None else 0)
    try:
        lock.acquire()
    except Timeout:
        raise refusal from None
    try:
        yield
    finally:
        with suppress(OSError):  # Windows does not remove an open file
            os.unlink(lock.lock_file)  # while we still hold it
        lock.release()
