"""Weights in 8 bits: for each row of a matrix one scale, for each weight a whole number from -127 to 127."""

import torch
import torch.nn.functional as F
from jaxtyping import BFloat16, Float, Int8
from torch import Tensor, nn

from .int8_matmul import WholeNumbers, is_quick_here

WIDE = 64  # more rows of input than this, such as a prompt, are multiplied in another way than a few


def quantise_rows(weight: Float[Tensor, "out inp"]) -> tuple[Int8[Tensor, "out inp"], BFloat16[Tensor, " out"]]:
    """Codes and scales with weight ≈ code · scale; no weight is off by more than half its row's scale.

    The scale is rounded to bf16, the type in which the kernels read it, before the codes are chosen: so its rounding
    costs nothing. It is rounded up where it must be, so that the largest weight of a row still fits.
    """
    weight = weight.float()
    largest = weight.abs().amax(dim=1)
    scale = (largest / 127).clamp(min=torch.finfo(torch.bfloat16).tiny).bfloat16()
    scale = torch.where(scale.float() * 127 < largest, _next_up(scale), scale)
    return (weight / scale.float()[:, None]).round().clamp(-127, 127).to(torch.int8), scale


def _next_up(x: BFloat16[Tensor, " n"]) -> BFloat16[Tensor, " n"]:
    """The next larger number in bf16, for positive ones: their bits count upwards."""
    return (x.view(torch.int16) + 1).view(torch.bfloat16)


class Int8Linear(nn.Module):
    """A linear layer from `quantise_rows`. Reads 1 byte for each weight, and computes in bf16 with fp32 sums.

    On a CPU that is quick with bytes, in whole numbers, which is more exact; the weights are then there twice, as they
    are and in oneDNN's order. On others, weights are written out for a prompt, once for all of it. It is made from a
    layer and not changed later: saved is the model that it was made from.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        codes, scale = quantise_rows(linear.weight.detach())
        self.register_buffer("codes", codes)
        self.register_buffer("scale", scale)
        self.whole_numbers = WholeNumbers(codes, scale) if is_quick_here(codes.device) else None
        self.bias = linear.bias

    def _load_from_state_dict(self, *_: object) -> None:
        raise RuntimeError("quantised layers are not loaded; load the model and call fast.prepare")

    def forward(self, x: Float[Tensor, "*batch inp"]) -> Float[Tensor, "*batch out"]:
        rows = x.reshape(-1, x.shape[-1])
        if x.device.type != "cpu":  # compiled, the conversion becomes part of the product: no bf16 weights are written
            y = F.linear(rows.bfloat16(), self.codes.bfloat16()) * self.scale
        elif self.whole_numbers is not None:
            y = self.whole_numbers(rows)
        elif len(rows) > WIDE:
            y = F.linear(rows, self.codes.to(x.dtype) * self.scale[:, None].to(x.dtype))
        else:  # this kernel is quick with bf16 input only
            y = torch.ops.aten._weight_int8pack_mm(rows.bfloat16(), self.codes, self.scale)
        y = y.to(x.dtype).view(*x.shape[:-1], -1)
        return y if self.bias is None else y + self.bias
