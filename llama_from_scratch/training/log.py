"""The log: one JSON object a line for each step, evaluation and sample. Each step is in it exactly once."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..files.errors import reason

Record = dict[str, str | int | float]


class Log:
    """Appends records after the first `length` bytes; the rest belongs to steps that were not saved, and is cut off.

    Raises:
        ValueError: if the file is shorter than that.
        OSError: from `write` and `sync`, if the disk is full. The file may end in half a line until the run is resumed.
    """

    def __init__(self, path: Path, length: int) -> None:
        self.path = path
        found = path.stat().st_size if path.exists() else 0
        if found < length:
            raise ValueError(
                f"{path} has {found} bytes and had {length} when the run was last saved; bring back the full file"
            )
        self._file = path.open("ab")
        self._file.truncate(length)

    def write(self, record: Record) -> None:
        with self._named_errors():
            self._file.write(json.dumps(record).encode() + b"\n")
            self._file.flush()

    def sync(self) -> int:
        """Wait until all is on the disk. Returns the length in bytes."""
        with self._named_errors():  # some disks notice only now that they are full
            os.fsync(self._file.fileno())
            return self._file.seek(0, os.SEEK_END)

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        """Raise an error of the disk with the name of the log and what to do."""
        try:
            yield
        except OSError as error:
            raise OSError(f"{self.path} cannot be written ({reason(error)}); make room, then resume") from None

    def close(self) -> None:
        with suppress(OSError):  # `write` or `sync` has reported a full disk
            self._file.close()


def read_log(path: Path) -> Iterator[Record]:
    """The records of a log, also while it is being written: an unfinished last line is left out."""
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield json.loads(line)
