"""Products of 8-bit weights and inputs of nearly 16 bits, in integers, on a CPU.

A processor with VNNI multiplies bytes several times as fast as fp32 numbers. One byte is too coarse for the inputs of a
layer, a few of which are far larger than the rest: the model changes ten times as much as by 8-bit weights alone. So
each input is two bytes, a coarse and a fine one, and both are multiplied with the weights. That is twice the work, and
leaves hardly more error than the 8-bit weights have.
"""

from functools import cache

import torch
from jaxtyping import BFloat16, Float, Int8
from torch import Tensor

FINE = 254  # steps of the fine byte in one of the coarse byte
ZERO = 128  # the byte that stands for 0: the kernel is fast only with unsigned inputs


def has_int8_products(device: torch.device) -> bool:
    """Whether this CPU has instructions for products of bytes (VNNI), and oneDNN uses them."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    can = torch.cpu.get_capabilities()
    return bool(can.get("avx512_vnni") or can.get("avx_vnni")) and sums_are_exact()


@cache
def sums_are_exact() -> bool:
    """Without VNNI oneDNN adds two products in 16 bits, too few for the largest. ONEDNN_MAX_CPU_ISA can forbid it."""
    packed = torch.ops.onednn.qlinear_prepack(torch.full((16, 64), 127, dtype=torch.int8), None)
    product = multiply_bytes(torch.full((4, 64), 255, dtype=torch.uint8), packed, torch.ones(16))
    return bool((product == 64 * 127 * (255 - ZERO)).all())


# A custom operator, which the compiler calls as it is: it cannot trace into oneDNN's packed weights. The two operators
# of oneDNN here are those that PyTorch's own quantisation compiles to; they have no public names.
@torch.library.custom_op("llama_from_scratch::multiply_bytes", mutates_args=())
def multiply_bytes(x: Tensor, packed: Tensor, scale: Tensor) -> Tensor:
    """(x - ZERO) · (codes · scale)ᵀ in fp32, from uint8 x [rows, inp] and codes packed by `qlinear_prepack`."""
    zeros = torch.zeros(len(scale), dtype=torch.int)
    return torch.ops.onednn.qlinear_pointwise(
        x, 1.0, ZERO, packed, scale, zeros, None, 1.0, 0, torch.float32, "none", [], ""
    )


@multiply_bytes.register_fake
def _(x: Tensor, packed: Tensor, scale: Tensor) -> Tensor:
    return x.new_empty(len(x), len(scale), dtype=torch.float32)


class Int8Matmul:
    """x → x · (codes · scale)ᵀ. Not a module: its weights are in oneDNN's own order, and neither saved nor moved."""

    def __init__(self, codes: Int8[Tensor, "out inp"], scale: BFloat16[Tensor, " out"]) -> None:
        self.packed = torch.ops.onednn.qlinear_prepack(codes, None)
        self.scale = scale.float()

    def __deepcopy__(self, memo: dict) -> "Int8Matmul":
        return self  # it never changes, and packed weights cannot be copied

    def __call__(self, x: Float[Tensor, "rows inp"]) -> Float[Tensor, "rows out"]:
        x = x.float()
        step = x.abs().amax(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny) / 127
        shifted = x / step + (ZERO + 0.5)  # from 1.5 up to 255.5; rounding is now rounding down
        coarse = shifted.floor()
        fine = (shifted - coarse) * FINE + (ZERO - FINE / 2 + 0.5)  # the remainder, in the same way
        both = torch.cat((coarse, fine)).to(torch.uint8)  # in one product, so that weights are read once
        coarse, fine = multiply_bytes(both, self.packed, self.scale).chunk(2)
        return torch.add(coarse, fine, alpha=1 / FINE) * step
