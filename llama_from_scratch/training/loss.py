"""The loss: how surprised the model is by each next token, in nats."""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..model import Llama

IGNORE = -100  # a target that does not count: padding, or a token that is not to be learned
NO_TARGET = f"no target counts, so there is no mean loss; give at least one that is not {IGNORE}"

# Tokens, and the token that follows each. (With _ the sizes of two micro-batches may differ.)
MicroBatch = tuple[Int[Tensor, "_batch _seq"], Int[Tensor, "_batch _seq"]]


def next_token_loss(logits: Float[Tensor, "*tokens vocab"], targets: Int[Tensor, "*tokens"]) -> Float[Tensor, ""]:
    """-log p(target), summed over all positions whose target is not `IGNORE`; in fp32 whatever type the logits have.

    A sum, because means over different numbers of targets cannot be averaged: divide it by the targets that count.
    """
    return F.cross_entropy(logits.float().flatten(0, -2), targets.flatten(), ignore_index=IGNORE, reduction="sum")


class NextTokenLoss(nn.Module):
    """A model and its loss as one module: tokens and targets in, `next_token_loss` out.

    With a large vocabulary the logits take far more memory than all activations: 128,256 for each of 4 · 4096 tokens
    are 8.4 GB in fp32, and their gradient as much again. So they are computed for a part of the tokens at a time, and
    backpropagated before the next part: about `max_logits` are in memory at once.
    """

    def __init__(self, model: Llama, max_logits: int = 2**28) -> None:
        super().__init__()
        self.model, self.max_logits = model, max_logits
        self.loss_of_logits = next_token_loss  # `compile_training` puts a compiled one here

    def forward(self, tokens: Int[Tensor, "batch seq"], targets: Int[Tensor, "batch seq"]) -> Float[Tensor, ""]:
        x, targets = self.model.hidden(tokens).flatten(0, 1), targets.flatten()
        n_parts = -(-len(x) * self.model.config.vocab_size // self.max_logits)
        if n_parts == 1:
            return self._loss(x, targets)
        parts = list(zip(x.chunk(n_parts), targets.chunk(n_parts), strict=True))
        if not x.requires_grad:
            return torch.stack([self._loss(*part) for part in parts]).sum()
        head = self.model.embedding if self.model.lm_head is None else self.model.lm_head
        weights = (weight for weight in head.parameters() if weight.requires_grad)
        return _SumOfLosses.apply(self._loss, parts, x, *weights)

    def _loss(self, x: Float[Tensor, "part dim"], targets: Int[Tensor, " part"]) -> Float[Tensor, ""]:
        return self.loss_of_logits(self.model.logits(x), targets)


class _SumOfLosses(torch.autograd.Function):
    """The sum of loss(part, targets) over all parts of x, each of which is freed as soon as its gradient is computed.

    The gradients of x and of the weights are ready after the forward pass: `torch.utils.checkpoint` would need as
    little memory, but compute all logits a second time. Those of the weights are accumulated in fp32. Only one backward
    pass is possible: it scales the gradients in place, and they are not differentiable.
    """

    @staticmethod
    def forward(context, loss, parts, x, *weights):
        total, gradient = 0.0, torch.empty_like(x)
        sums = [torch.zeros_like(weight, dtype=torch.float32) for weight in weights]
        for (part, targets), place in zip(parts, gradient.chunk(len(parts)), strict=True):
            with torch.enable_grad():
                part = part.detach().requires_grad_()
                found = loss(part, targets)
            of_part, *of_weights = torch.autograd.grad(found, (part, *weights))
            place.copy_(of_part)
            for so_far, more in zip(sums, of_weights, strict=True):
                so_far += more
            total = total + found.detach()
        context.save_for_backward(gradient, *sums)
        return total

    @staticmethod
    @once_differentiable
    def backward(context, of_sum):
        return None, None, *(gradient.mul_(of_sum) for gradient in context.saved_tensors)


def backward(
    objective: NextTokenLoss, micro_batches: Sequence[MicroBatch], precision: AbstractContextManager
) -> Float[Tensor, ""]:
    """Add the gradient of the mean loss over all micro-batches together to `.grad`; returns that loss.

    Each micro-batch's sum is divided by the count of all, so the gradient is that of one big batch even where they
    hold different numbers of targets. `precision` is a context for the forward pass, such as torch.autocast. There is
    no host sync in here.

    Raises:
        ValueError: if no target counts. On a GPU, where checking would be a host sync, the loss is NaN instead.
    """
    count = sum((targets != IGNORE).sum() for _, targets in micro_batches)
    if isinstance(count, int) or (count.device.type == "cpu" and not count):
        raise ValueError(NO_TARGET)
    losses = []
    for tokens, targets in micro_batches:
        with precision:
            loss = objective(tokens, targets) / count
        loss.backward()
        losses.append(loss.detach())
    return torch.stack(losses).sum()


@torch.no_grad()
def mean_loss(
    objective: NextTokenLoss, micro_batches: Iterable[MicroBatch], precision: AbstractContextManager
) -> float:
    """The mean loss over all targets of all micro-batches, in nats a token.

    Raises:
        ValueError: if no target counts.
    """
    total, count = 0.0, 0
    for tokens, targets in micro_batches:
        with precision:
            total += float(objective(tokens, targets))
        count += int((targets != IGNORE).sum())
    if not count:
        raise ValueError(NO_TARGET)
    return total / count
