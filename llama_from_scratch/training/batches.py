"""From one long sequence of tokens to batches, in an order that depends on the seed alone."""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import torch

from .loss import IGNORE, MicroBatch


class Batches:
    """Micro-batches of windows of `context` tokens, without end: each epoch has every window once, in a new order.

    Micro-batch i depends on (seed, i) alone, so the position in the data is one integer, and training can go on at i
    without reading what came before. The windows of each epoch start at another offset, so that the same text is cut
    in other places.

    tokens: [n], unsigned integers. mask: [n], bool: the loss counts a token as a target only where it is True, such as
        in the answers of a conversation; None counts every token.

    Raises:
        ValueError: if there are too few tokens for one micro-batch, or the mask has another length.
    """

    def __init__(
        self, tokens: np.ndarray, context: int, batch_size: int, seed: int, mask: np.ndarray | None = None
    ) -> None:
        if mask is not None and mask.shape != tokens.shape:
            raise ValueError(f"the mask has shape {mask.shape} and the tokens {tokens.shape}; give one bool a token")
        self.tokens, self.mask, self.context = tokens, mask, context
        self.batch_size, self.seed = batch_size, seed
        self.windows = (len(tokens) - context) // context  # in one epoch, whatever its offset
        if self.windows < batch_size:
            raise ValueError(
                f"the text has {len(tokens):,} tokens, and a batch of {batch_size} windows of {context} needs "
                f"{(batch_size + 1) * context:,}; give more text, a smaller batch or a shorter context"
            )
        self._epoch = lru_cache(maxsize=2)(self._shuffle)  # a micro-batch can lie across two

    def __getitem__(self, index: int) -> MicroBatch:
        """Micro-batch `index`, counted from 0 at the start of training."""
        rows = range(index * self.batch_size, (index + 1) * self.batch_size)
        windows = [_window(self.tokens, self.mask, self._start(row), self.context) for row in rows]
        inputs, targets = (torch.from_numpy(np.stack(part)) for part in zip(*windows, strict=True))
        return inputs, targets

    def _start(self, i: int) -> int:
        """Where window i of all epochs begins."""
        epoch, place = divmod(i, self.windows)
        offset, order = self._epoch(epoch)
        return offset + int(order[place]) * self.context

    def _shuffle(self, epoch: int) -> tuple[int, np.ndarray]:
        generator = np.random.default_rng([self.seed, epoch])
        return int(generator.integers(self.context)), generator.permutation(self.windows)


def in_order(
    tokens: np.ndarray, context: int, batch_size: int, limit: int | None = None, mask: np.ndarray | None = None
) -> Iterator[MicroBatch]:
    """Every token but the first once as a target, window by window; the padding of the last window has no targets.

    limit: at most about this many tokens, in windows spread evenly over the text. mask: as in `Batches`.
    """
    starts = np.arange(0, len(tokens) - 1, context)
    if limit is not None and limit < len(tokens):
        starts = starts[np.linspace(0, len(starts) - 1, max(1, limit // context)).astype(int)]
    for group in np.array_split(starts, -(-len(starts) // batch_size)):
        windows = [_window(tokens, mask, int(start), context) for start in group]
        inputs, targets = (torch.from_numpy(np.stack(part)) for part in zip(*windows, strict=True))
        yield inputs, targets


def _window(tokens: np.ndarray, mask: np.ndarray | None, start: int, context: int) -> tuple[np.ndarray, np.ndarray]:
    """[context] inputs and their targets, padded at the end of the text."""
    window = tokens[start : start + context + 1].astype(np.int64)
    inputs, targets = np.zeros(context, np.int64), np.full(context, IGNORE, np.int64)
    inputs[: len(window) - 1], targets[: len(window) - 1] = window[:-1], window[1:]
    if mask is not None:
        targets[: len(window) - 1][~mask[start + 1 : start + len(window)]] = IGNORE
    return inputs, targets
