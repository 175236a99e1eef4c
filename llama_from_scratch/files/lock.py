"""One program at a time writes to a folder."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout


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
