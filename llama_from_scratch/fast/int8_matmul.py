"""Many rows at once, on a CPU, in whole numbers: weights of 8 bits times inputs of nearly 16.

A processor with VNNI multiplies bytes several times as fast as fp32 numbers. One byte is too coarse for what goes into
a layer, where a few numbers are far larger than the rest: it changes the model ten times as much as 8-bit weights do.
So an input is two bytes, a coarse one and a fine one, each of which is multiplied with the weights: twice the work, and
what is lost is only what 8-bit weights lose.
"""

import torch
from jaxtyping import BFloat16, Float, Int8
from torch import Tensor

FINE = 254  # steps of the fine byte in one of the coarse byte
ZERO = 128  # the byte that stands for 0: the kernel is quick with unsigned inputs only


def is_quick_here(device: torch.device) -> bool:
    """Whether this processor multiplies bytes itself (VNNI); without that, sums of products of bytes may not fit."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    can = torch.cpu.get_capabilities()
    return bool(can.get("avx512_vnni") or can.get("avx_vnni"))


# An operator of our own, so that the compiler calls it as it is: it cannot look into packed weights.
@torch.library.custom_op("llama_from_scratch::multiply_bytes", mutates_args=())
def multiply_bytes(x: Tensor, packed: Tensor, scale: Tensor) -> Tensor:
    """(x - ZERO) · (codes · scale)ᵀ in fp32, from bytes x [rows, inp] and what `qlinear_prepack` made of the codes."""
    zeros = torch.zeros(len(scale), dtype=torch.int)
    return torch.ops.onednn.qlinear_pointwise(
        x, 1.0, ZERO, packed, scale, zeros, None, 1.0, 0, torch.float32, "none", [], ""
    )


@multiply_bytes.register_fake
def _(x: Tensor, packed: Tensor, scale: Tensor) -> Tensor:
    return x.new_empty(len(x), len(scale), dtype=torch.float32)


class WholeNumbers:
    """x → x · (codes · scale)ᵀ. No module: its weights are in an order of oneDNN's own, which only oneDNN can read."""

    def __init__(self, codes: Int8[Tensor, "out inp"], scale: BFloat16[Tensor, " out"]) -> None:
        self.packed = torch.ops.onednn.qlinear_prepack(codes, None)
        self.scale = scale.float()

    def __deepcopy__(self, memo: dict) -> "WholeNumbers":
        return self  # nothing in it ever changes, and packed weights cannot be copied

    def __call__(self, x: Float[Tensor, "rows inp"]) -> Float[Tensor, "rows out"]:
        x = x.float()
        step = x.abs().amax(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny) / 127
        shifted = x / step + (ZERO + 0.5)  # from 1.5 up to 255.5; rounding is now rounding down
        coarse = shifted.floor()
        fine = (shifted - coarse) * FINE + (ZERO - FINE / 2 + 0.5)  # what coarse leaves over, in the same way
        both = torch.cat((coarse, fine)).to(torch.uint8)  # as so many more rows: weights are read once
        coarse, fine = multiply_bytes(both, self.packed, self.scale).chunk(2)
        return torch.add(coarse, fine, alpha=1 / FINE) * step
