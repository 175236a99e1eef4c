"""The errors that readers and writers of models raise, and words for their messages."""

from collections.abc import Callable
from pathlib import Path

import torch


class CheckpointError(ValueError):
    """A checkpoint cannot be found, read or written. The message: what is wrong, a semicolon, what to do.

    Names in a damaged file hold anything; what cannot be printed, a new line first of all, is shown as an escape.
    """

    def __init__(self, message: str) -> None:
        super().__init__("".join(c if c.isprintable() else ascii(c)[1:-1] for c in message))

    @property
    def problem(self) -> str:
        """The message without what to do."""
        return str(self).partition("; ")[0]


class ArgumentError(ValueError):
    """An argument has a wrong value. Callers can know it by another name: the command line writes --batch-size for
    batch_size.

    template: the message, with each name of an argument in braces, and each of `values`, too.
    """

    def __init__(self, template: str, **values: object) -> None:
        self.template, self.values = template, values
        super().__init__(self.message(str))

    def message(self, spell: Callable[[str], str]) -> str:
        """The message with each name of an argument as `spell` writes it."""

        class Names(dict[str, object]):
            def __missing__(self, name: str) -> str:
                return spell(name)

        return self.template.format_map(Names(self.values))


class ExistsError(CheckpointError):
    """The target exists, and `overwrite` was not given.

    found: what is there. otherwise: what to do instead of overwriting.
    """

    def __init__(self, found: str, otherwise: str) -> None:
        super().__init__(f"{found}; pass overwrite=True to replace it, or {otherwise}")
        self.found, self.otherwise = found, otherwise


class WriteError(CheckpointError):
    """The system refuses to write; `reason` is its word for it."""

    def __init__(self, path: Path, reason: str, kind: str = "place") -> None:
        super().__init__(f"{path} cannot be written ({reason}); make room, or choose another {kind}")
        self.reason = reason


def being_written(path: Path) -> CheckpointError:
    """For a place that another program holds the lock of."""
    return CheckpointError(
        f"another program is saving to {path} now; wait until it has finished, or choose another place"
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python or PyTorch could not allocate memory. For a CPU, PyTorch has no exception of its own for that."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def said(value: object) -> str:
    """What a config says, for an error message."""
    return "missing" if value is None else repr(value)


def to_float(key: str, number: int | float) -> float:
    """A number of a config, which JSON may write with any number of digits.

    Raises:
        ValueError: if it is too large.
    """
    try:
        return float(number)
    except OverflowError:
        raise ValueError(f"{key} has {len(str(number))} digits and is too large; it must be below 1e308") from None


def reason(error: OSError) -> str:
    """Why the system refused, without the number and without the path, which the message has named already."""
    return error.strerror or str(error)


def shortened(text: str) -> str:
    """Text from a file, cut to a length that a message can have."""
    return text if len(text) <= 200 else text[:197] + "..."
