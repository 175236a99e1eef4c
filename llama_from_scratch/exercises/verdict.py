"""How every check speaks: it runs a learner's answer, prints one verdict, and never raises for a wrong answer.

A check is an ordinary function. Where the answer is wrong it raises `NotYet(because, hint)`; where it is right it
returns the praise. `@exercise` makes it print. `tensor_of` refuses what is not a tensor of the expected shape.

    @exercise
    def check_double(fn):
        y = tensor_of(fn(x.clone()), x.shape)
        if torch.equal(y, x + 2):
            raise NotYet("2 is added", "Multiply by 2 instead.")
        return "each number is twice as large."
"""

import textwrap
import traceback
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path

import torch
from torch import Tensor

LINE = 76  # characters, so that a verdict needs no sideways scrolling on the page


class NotYet(Exception):
    """Why an answer is not right yet, and what to try next: both for a learner to read."""

    def __init__(self, because: str, hint: str = "") -> None:
        super().__init__(f"{because.rstrip('.')}. {hint}".strip())


def exercise(check: Callable[..., str]) -> Callable[..., None]:
    """Make a check print "Correct: ..." or "Not yet: ..." and return None, whatever the learner's code does."""

    @wraps(check)
    def run(*answer) -> None:
        try:
            say("Correct: " + check(*answer))
        except NotYet as reason:
            say(f"Not yet: {reason}")
        except Exception as error:
            say(f"Not yet: {_explain(error)}")

    return run


def say(text: str) -> None:
    print(textwrap.fill(text, LINE, break_long_words=False, break_on_hyphens=False))


def tensor_of(result: object, shape: Sequence[int]) -> Tensor:
    """`result`, if it is a finite tensor of this shape; else NotYet says what it is."""
    if result is None or result is ...:
        raise NotYet("the function returns None", "Write its body and end it with `return`.")
    if not isinstance(result, Tensor):
        raise NotYet(f"the function returns a {type(result).__name__}", "Return a torch tensor.")
    if tuple(result.shape) != tuple(shape):
        raise NotYet(f"the result has shape {list(result.shape)}, and {list(shape)} is expected", "Look at the axes.")
    if not torch.isfinite(result).all():
        raise NotYet("the result holds inf or nan", "Look for a division by zero or the root of a negative number.")
    return result


def four_numbers(answer: object) -> list[float]:
    """`answer` as four numbers; else NotYet says what is wanted."""
    try:
        numbers = [float(x) for x in answer]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) != 4:
        raise NotYet("a list of four numbers is wanted, such as [0.1, 0.2, 0.3, 0.4]")
    return numbers


def _explain(error: Exception) -> str:
    """The error in one sentence, with the line of the learner's own code that it came from."""
    here, torch_home = Path(__file__).parent, Path(torch.__file__).parent
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if not {here, torch_home} & set(Path(f.filename).parents)]
    where = f" at `{own[-1].line}`" if own and own[-1].line else ""
    message = str(error).split("\n")[0]
    return f"the code stopped{where} with {type(error).__name__}: {message}"
