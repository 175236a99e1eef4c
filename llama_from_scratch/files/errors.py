"""The one error that readers and writers of models raise, and the words for its message."""


class CheckpointError(ValueError):
    """A checkpoint cannot be found, read or written; the message says which, what is wrong and what to do."""


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
