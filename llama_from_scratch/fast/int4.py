"""Weights in 4 bits: 32 neighbours in a row share a scale and a smallest value, and each is one of 16 steps above it.

This is also how llama.cpp stores a matrix as Q4_1, so what was stored that way keeps its 4-bit codes here.
"""

import torch
import torch.nn.functional as F
from jaxtyping import BFloat16, Float, UInt8
from torch import Tensor, nn

from .int8 import WIDE, Int8Linear, quantise_rows
from .int8_matmul import WholeNumbers, is_quick_here

GROUP = 32
TILE = 16  # rows that PyTorch's kernel computes together


def quantise_groups(
    weight: Float[Tensor, "out inp"],
) -> tuple[UInt8[Tensor, "out inp"], BFloat16[Tensor, "groups out 2"]]:
    """Codes 0 … 15, and for each group its scale and its middle, in bf16: weight ≈ (code - 8) · scale + middle.

    Raises:
        ValueError: if a row is not made of whole groups, or there are more rows than whole tiles of the kernel.
    """
    rows, columns = weight.shape
    if rows % TILE:
        raise ValueError(f"a matrix of this model has {rows} rows, and int4 needs a multiple of {TILE}; use int8")
    if columns % GROUP:
        raise ValueError(
            f"a matrix of this model has rows of {columns} weights, and int4 needs a multiple of {GROUP}; use int8"
        )
    groups = weight.float().view(rows, -1, GROUP)
    low, high = groups.aminmax(dim=-1)
    scale = ((high - low) / 15).clamp(min=torch.finfo(torch.bfloat16).tiny)
    packed = torch.stack((scale, low + 8 * scale), dim=-1).bfloat16()  # [out, groups, 2]
    scale, middle = packed.float().unbind(dim=-1)
    codes = ((groups - middle[..., None]) / scale[..., None]).round().add(8).clamp(0, 15)
    return codes.to(torch.uint8).view(rows, columns), packed.transpose(0, 1).contiguous()


def pack(codes: UInt8[Tensor, "out inp"]) -> UInt8[Tensor, "out half"]:
    """Two codes in a byte, the first in the upper half."""
    return codes[:, ::2] << 4 | codes[:, 1::2]


def unpack(pairs: UInt8[Tensor, "out half"]) -> UInt8[Tensor, "out inp"]:
    """The inverse of `pack`."""
    return torch.stack((pairs >> 4, pairs & 15), dim=-1).flatten(1)


class Int4Linear(nn.Module):
    """A linear layer from `quantise_groups`. Reads 0.625 bytes for each weight, and computes in bf16 with fp32 sums.

    PyTorch's kernel wants the codes in an order of its own, which differs between processors; they are kept in that
    order, and as plain pairs for long prompts, for which weights are written out once for many tokens. On a CPU that
    multiplies bytes quickly, prompts have weights of 8 bits of their own instead, made from the same originals. It is
    made from a layer and not changed later: saved is the model that it was made from.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        codes, scale_and_middle = quantise_groups(linear.weight.detach())
        self.register_buffer("scale_and_middle", scale_and_middle)
        self.register_buffer("pairs", pack(codes))
        if codes.device.type == "cpu":
            self.register_buffer("packed", torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes.int(), 1))
        else:
            tiles = next((n for n in (8, 4, 2) if linear.in_features % (16 * n) == 0), 2)
            self.register_buffer("packed", torch.ops.aten._convert_weight_to_int4pack(self.pairs, tiles))
        quick = is_quick_here(codes.device)
        self.whole_numbers = WholeNumbers(*quantise_rows(linear.weight.detach())) if quick else None
        self.bias = linear.bias

    _load_from_state_dict = Int8Linear._load_from_state_dict

    def weight(self, dtype: torch.dtype) -> Float[Tensor, "out inp"]:
        """The weights that the codes stand for."""
        scale, middle = self.scale_and_middle.float().transpose(0, 1)[..., None, :].unbind(dim=-1)
        groups = unpack(self.pairs).float().unflatten(1, (-1, GROUP))
        return torch.addcmul(middle - 8 * scale, groups, scale).flatten(1).to(dtype)

    def forward(self, x: Float[Tensor, "*batch inp"]) -> Float[Tensor, "*batch out"]:
        rows = x.reshape(-1, x.shape[-1])
        if len(rows) > WIDE and self.whole_numbers is not None:
            y = self.whole_numbers(rows)
        elif len(rows) > WIDE:
            y = F.linear(rows, self.weight(x.dtype))
        elif x.device.type == "cpu":
            y = torch.ops.aten._weight_int4pack_mm_for_cpu(rows.bfloat16(), self.packed, GROUP, self.scale_and_middle)
        else:
            y = torch.ops.aten._weight_int4pack_mm(rows.bfloat16(), self.packed, GROUP, self.scale_and_middle)
        y = y.to(x.dtype).view(*x.shape[:-1], -1)
        return y if self.bias is None else y + self.bias
