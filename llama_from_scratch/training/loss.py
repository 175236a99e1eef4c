"""The loss: how surprised the model is by each next token, in nats."""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

IGNORE = -100  # a target that does not count: padding, or a part of the text that is not to be learned

# Tokens, and the token that follows each. (With _ the sizes of two micro-batches may differ.)
MicroBatch = tuple[Int[Tensor, "_batch _seq"], Int[Tensor, "_batch _seq"]]


def next_token_loss(logits: Float[Tensor, "batch seq vocab"], targets: Int[Tensor, "batch seq"]) -> Float[Tensor, ""]:
    """-log p(target), summed over all positions whose target is not `IGNORE`; in fp32 whatever type the logits have.

    A sum and not a mean, because means of unequal many cannot be averaged: divide by the targets that count.
    """
    return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORE, reduction="sum")


def backward(model: nn.Module, micro_batches: Sequence[MicroBatch], precision: AbstractContextManager) -> float:
    """Add the gradient of the mean loss over all micro-batches together to `.grad`; gives that loss.

    Each micro-batch's sum is divided by the count of all, so the gradient is that of one big batch even where they
    hold unequally many targets. `precision` is a context for the forward pass, such as torch.autocast.
    """
    count = sum(int((targets != IGNORE).sum()) for _, targets in micro_batches)
    total = 0.0
    for tokens, targets in micro_batches:
        with precision:
            logits = model(tokens)
        loss = next_token_loss(logits, targets) / count
        loss.backward()
        total += float(loss.detach())
    return total


@torch.no_grad()
def mean_loss(model: nn.Module, micro_batches: Iterable[MicroBatch], precision: AbstractContextManager) -> float:
    """The mean loss over all targets of all micro-batches, in nats a token."""
    total, count = 0.0, 0
    for tokens, targets in micro_batches:
        with precision:
            logits = model(tokens)
        total += float(next_token_loss(logits, targets))
        count += int((targets != IGNORE).sum())
    return total / count
