"""Output to a terminal or a pipe."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import rich.console

# A model can write any byte, also those that command a terminal. There they are shown, not obeyed; a pipe gets them.
_SHOWN = {code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\n\t"} | {0x7F: "\u2421"}
_SHOWN |= {code: "\ufffd" for code in range(0x80, 0xA0)}


def write(text: str, faint: bool = False, replace: bool = False) -> None:
    """Text to stdout, at once; faint on a terminal that can show it.

    replace: write ? for a character that stdout's encoding lacks.

    Raises:
        OSError: if stdout's encoding lacks a character and `replace` is False.
    """
    if replace and (encoding := sys.stdout.encoding):
        text = text.encode(encoding, "replace").decode(encoding)
    if sys.stdout.isatty():
        text = text.translate(_SHOWN)
        if faint and text and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb":
            text = f"\x1b[2m{text}\x1b[22m"
    try:
        sys.stdout.write(text)
    except UnicodeEncodeError as error:
        raise OSError(
            f"{ascii(text[error.start])} cannot be written in {error.encoding}, the encoding of this terminal or pipe; "
            "set the environment variable PYTHONUTF8=1"
        ) from None
    sys.stdout.flush()


def note(text: str) -> None:
    """One line on stderr, for a remark that is not part of the result."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def loading(name: str) -> Iterator[None]:
    """A spinner on stderr, if it is a terminal; it is erased at the end."""
    if not sys.stderr.isatty():
        yield
        return
    with console(stderr=True).status(f"Loading {name} ..."):
        yield


@contextmanager
def progress(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr, if it is a terminal. Returns a function that takes how much is done."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    screen = console(stderr=True)
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=screen, transient=True) as bars:
        bar = bars.add_task(title, total=total)
        yield lambda done: bars.update(bar, completed=done)


def console(**options: bool) -> "rich.console.Console":
    """Rich's console, which knows the width and abilities of the terminal."""
    try:
        from rich.console import Console
    except ImportError:
        raise ImportError("the command line needs the package rich; run: pip install rich") from None
    return Console(**options)


class Stopwatch:
    """Counts tokens as they come, and reports the speed."""

    def __init__(self) -> None:
        self.start, self.first, self.n = time.perf_counter(), 0.0, 0

    def tick(self) -> None:
        self.n += 1
        if self.n == 1:
            self.first = time.perf_counter()

    def report(self, n_prompt: int) -> str:
        if self.n == 0:
            return f"{n_prompt} tokens of prompt, 0 new tokens"
        waited, wrote = self.first - self.start, time.perf_counter() - self.first
        line = f"{n_prompt} tokens of prompt and the first new one in {waited:.2f} s"
        if self.n > 1:
            line += f"; {self.n - 1} more in {wrote:.2f} s, {(self.n - 1) / wrote:.1f} tokens a second"
        return line
