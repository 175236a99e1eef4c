"""From one long row of tokens to batches, in an order that follows from the seed alone."""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import torch

from .loss import IGNORE, MicroBatch


class Batches:
    """Micro-batches of windows of `context` tokens, without end: in each epoch every window once, in a new order.

    Which windows make up micro-batch i follows from (seed, i) alone, so the position in the data is one whole number,
    and whoever stops at i can go on at i without having counted anything. The windows of each epoch are cut at another
    offset, so that the same text comes with other beginnings.

    Raises:
        ValueError: if there are not tokens enough for one micro-batch.
    """

    def __init__(self, tokens: np.ndarray, context: int, batch_size: int, seed: int) -> None:
        self.tokens, self.context, self.batch_size, self.seed = tokens, context, batch_size, seed
        self.windows = (len(tokens) - context) // context  # in one epoch, whatever its offset
        if self.windows < batch_size:
            raise ValueError(
                f"the text has {len(tokens):,} tokens, and a batch of {batch_size} windows of {context} needs "
                f"{(batch_size + 1) * context:,}; give more text, a smaller batch or a shorter context"
            )
        self._epoch = lru_cache(maxsize=2)(self._shuffle)  # a micro-batch can lie across two

    def __getitem__(self, index: int) -> MicroBatch:
        """Micro-batch `index`, counted from 0 at the start of training."""
        rows = [self._window(i) for i in range(index * self.batch_size, (index + 1) * self.batch_size)]
        both = torch.from_numpy(np.stack(rows).astype(np.int64))
        return both[:, :-1], both[:, 1:]

    def _window(self, i: int) -> np.ndarray:
        """Window i as context + 1 tokens: each of the first `context` has its successor beside it."""
        epoch, place = divmod(i, self.windows)
        offset, order = self._epoch(epoch)
        start = offset + order[place] * self.context
        return self.tokens[start : start + self.context + 1]

    def _shuffle(self, epoch: int) -> tuple[int, np.ndarray]:
        chance = np.random.default_rng([self.seed, epoch])
        return int(chance.integers(self.context)), chance.permutation(self.windows)


def in_order(tokens: np.ndarray, context: int, batch_size: int, limit: int | None = None) -> Iterator[MicroBatch]:
    """Every token but the first as a target once, window after window; what fills up the last one is ignored.

    limit: at most about so many tokens, in windows spread evenly over the text.
    """
    starts = np.arange(0, len(tokens) - 1, context)
    if limit is not None and limit < len(tokens):
        starts = starts[np.linspace(0, len(starts) - 1, max(1, limit // context)).astype(int)]
    for group in np.array_split(starts, -(-len(starts) // batch_size)):
        inputs = np.zeros((len(group), context), np.int64)
        targets = np.full((len(group), context), IGNORE, np.int64)
        for row, start in enumerate(group):
            window = tokens[start : start + context + 1]
            inputs[row, : len(window) - 1], targets[row, : len(window) - 1] = window[:-1], window[1:]
        yield torch.from_numpy(inputs), torch.from_numpy(targets)
