"""Several texts at once: prompts of unequal length in one tensor, and rows that stop before others."""

from collections.abc import Collection, Iterable, Iterator, Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from ..model import Llama
from .prompt import as_tokens


def left_padded(
    model: Llama, prompts: Sequence[Sequence[int]]
) -> tuple[Int[Tensor, "batch seq"], Int[Tensor, "batch 1"] | None]:
    """The prompts as one tensor, and how much padding each has on its left; None if no prompt has any.

    With padding on the left, all prompts end in the same column, where generation continues.
    """
    longest = max(map(len, prompts))
    pads = [longest - len(prompt) for prompt in prompts]
    tokens = as_tokens(model, [[0] * pad + list(prompt) for pad, prompt in zip(pads, prompts, strict=True)])
    return tokens, torch.tensor(pads, device=tokens.device)[:, None] if any(pads) else None


def until_stopped(steps: Iterable[Sequence[int]], stop_ids: Collection[int]) -> Iterator[list[int | None]]:
    """The tokens of each step, None for rows that have drawn one of `stop_ids`; ends when all rows have.

    steps: one token for each row, stopped rows included.
    """
    stop_ids, stopped = frozenset(stop_ids), set()
    for drawn in steps:
        stopped |= {row for row, token in enumerate(drawn) if token in stop_ids}
        if len(stopped) == len(drawn):
            return
        yield [None if row in stopped else token for row, token in enumerate(drawn)]


def collect(steps: Iterable[Sequence[int | None]], n: int) -> list[list[int]]:
    """The tokens of each of n rows, from what `until_stopped` yields."""
    rows: list[list[int]] = [[] for _ in range(n)]
    for step in steps:
        for row, token in zip(rows, step, strict=True):
            if token is not None:
                row.append(token)
    return rows
