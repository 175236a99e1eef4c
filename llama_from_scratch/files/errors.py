"""The one error that readers and writers of models raise, and the words for its message."""


class CheckpointError(ValueError):
    """A checkpoint cannot be found, read or written; the message says which, what is wrong and what to do.

    Names in a damaged file hold anything; what cannot be printed, a new line first of all, is shown as an escape.
    """

    def __init__(self, message: str) -> None:
        super().__init__("".join(c if c.isprintable() else ascii(c)[1:-1] for c in message))


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
