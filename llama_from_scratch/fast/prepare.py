"""A copy of a model with the changes that are made once, when it is loaded."""

from copy import deepcopy

from torch import Tensor, nn

from ..model import Llama
from .fused import fuse as fuse_blocks
from .quantised import Bits
from .quantised import quantise as quantise_weights


def prepare(model: Llama, *, fuse: bool = True, quantise: Bits | None = None) -> Llama:
    """A model that gives the same (quantised: nearly the same) logits in less time, for every use but training.

    `model` stays as it is, and shares with the result the weights that did not change; drop it to save memory.
    Quantise a model that was loaded in fp32: then its weights are rounded once only.

    Raises:
        ValueError: as `quantise`.
    """
    shared: dict[int, Tensor] = {id(buffer): buffer for buffer in model.buffers()}
    shared |= {id(weight): nn.Parameter(weight.detach(), requires_grad=False) for weight in model.parameters()}
    fast = deepcopy(model, memo=shared)
    if fuse:
        fuse_blocks(fast)
    if quantise is not None:
        quantise_weights(fast, quantise)
    return fast.eval()
