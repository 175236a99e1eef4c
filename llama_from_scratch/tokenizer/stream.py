"""Text that appears token by token."""

import codecs


class TextStream:
    """Decodes one token at a time and never gives half a character: its bytes wait until the rest has come."""

    def __init__(self, pieces: list[bytes], errors: str = "replace") -> None:
        self._pieces = pieces
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors=errors)

    def push(self, token: int) -> str:
        """The text that `token` completes; empty while a character is unfinished, and for an id without a token.

        Raises:
            ValueError: for a negative id.
        """
        if token < 0:
            raise ValueError(f"token id {token} is negative; ids begin at 0")
        return self._decoder.decode(self._pieces[token]) if token < len(self._pieces) else ""

    def flush(self) -> str:
        """What is left at the end: U+FFFD if a character was never finished, else nothing."""
        return self._decoder.decode(b"", final=True)
