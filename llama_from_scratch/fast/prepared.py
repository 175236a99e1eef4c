"""Make a faster copy of a model, once after loading."""

from copy import deepcopy

from torch import Tensor, nn

from ..model import Llama
from .fused import fuse as fuse_blocks
from .quantised import Bits
from .quantised import quantise as quantise_weights


def prepare(model: Llama, *, fuse: bool = True, quantise: Bits | None = None) -> Llama:
    """A copy that computes the same logits (quantised: nearly the same) in less time, for every use but training.

    `model` is unchanged. Both share the weights that are the same, so delete `model` to save memory.
    Quantise a model that was loaded in fp32, so that its weights are rounded only once.

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
