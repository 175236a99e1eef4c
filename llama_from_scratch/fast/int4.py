"""Weights in 4 bits: neighbours in a row form a group with one scale and one offset, and each is one of 16 steps.

llama.cpp's Q4_1 stores a matrix in the same way, in groups of 32, so weights from such a file keep their codes.
"""

import torch
import torch.nn.functional as F
from jaxtyping import BFloat16, Float, UInt8
from torch import Tensor, nn

from .int8 import WIDE, as_parameter, quantise_rows, repack
from .int8_matmul import Int8Matmul, has_int8_products

GROUP = 32  # weights in a group, where we choose
GROUPS = (32, 64, 128, 256)  # sizes that PyTorch's kernels know
TILE = 16  # rows that PyTorch's kernels compute together


def check_shape(rows: int, columns: int, group: int) -> None:
    """Whether PyTorch's kernels can multiply such a matrix.

    Raises:
        ValueError: if not.
    """
    if group not in GROUPS:
        raise ValueError(f"groups have {group} weights; they must have one of {', '.join(map(str, GROUPS))}")
    if rows % TILE:
        raise ValueError(f"a matrix of this model has {rows} rows, and int4 needs a multiple of {TILE}; use int8")
    if columns % group:
        raise ValueError(
            f"a matrix of this model has rows of {columns} weights, and int4 needs a multiple of {group}; use int8"
        )


def quantise_groups(
    weight: Float[Tensor, "out inp"],
) -> tuple[UInt8[Tensor, "out inp"], BFloat16[Tensor, "groups out 2"]]:
    """Codes 0 … 15 and, for each group of `GROUP`, scale and middle in bf16: weight ≈ (code - 8) · scale + middle.

    Scale and middle are rounded before the codes are chosen.

    Raises:
        ValueError: if the number of rows is not a multiple of `TILE`, or that of columns not one of `GROUP`.
    """
    rows, columns = weight.shape
    check_shape(rows, columns, GROUP)
    groups = weight.float().view(rows, -1, GROUP)
    low, high = groups.aminmax(dim=-1)
    scale = ((high - low) / 15).clamp(min=torch.finfo(torch.bfloat16).tiny)
    scale_and_middle = torch.stack((scale, low + 8 * scale), dim=-1).bfloat16()  # [out, groups, 2]
    scale, middle = scale_and_middle.float().unbind(dim=-1)
    codes = ((groups - middle[..., None]) / scale[..., None]).round().add(8).clamp(0, 15)
    return codes.to(torch.uint8).view(rows, columns), scale_and_middle.transpose(0, 1).contiguous()


def pack(codes: UInt8[Tensor, "out inp"]) -> UInt8[Tensor, "out half"]:
    """Two codes in a byte, the first in the upper half."""
    return codes[:, ::2] << 4 | codes[:, 1::2]


def unpack(pairs: UInt8[Tensor, "out half"]) -> UInt8[Tensor, "out inp"]:
    """The inverse of `pack`."""
    return torch.stack((pairs >> 4, pairs & 15), dim=-1).flatten(1)


class Int4Linear(nn.Module):
    """A linear layer of weights (code - 8) · scale + middle, with codes in 4 bits and scale and middle for each group.

    Reads 0.625 bytes for each weight (in groups of 32), and computes in bf16 with fp32 sums. PyTorch's kernel wants the
    codes in an order that differs between processors; they are kept in that order, and as plain pairs. For a prompt the
    weights are written out in full, once for all its tokens, or, on a CPU with fast products of bytes, rounded to 8
    bits. The state dict holds the pairs, scales, middles and the bias, is the same on every processor, and loads into a
    layer of the same shape. A new layer is all zeros: use `from_linear`, `from_codes` or `load_state_dict`.

    Raises:
        ValueError: for a shape that the kernels do not know, see `check_shape`.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = False,
        group: int = GROUP,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__()
        check_shape(out_features, in_features, group)
        shape = (in_features // group, out_features, 2)
        self.register_buffer("scale_and_middle", torch.zeros(shape, dtype=torch.bfloat16, device=device))
        self.register_buffer("pairs", torch.zeros(out_features, in_features // 2, dtype=torch.uint8, device=device))
        self.register_buffer("packed", None, persistent=False)  # made of `pairs`
        self.bias = nn.Parameter(torch.zeros(out_features, device=device)) if bias else None
        self.group, self.matmul = group, None
        self.register_load_state_dict_post_hook(repack)
        if torch.device(device).type != "meta":
            self.pack()

    @classmethod
    def from_linear(cls, linear: nn.Linear) -> "Int4Linear":
        """Quantise a layer with `quantise_groups`; its bias is shared. Raises ValueError as that does."""
        return cls._of(*quantise_groups(linear.weight.detach()), linear.bias)

    @classmethod
    def from_codes(
        cls,
        codes: UInt8[Tensor, "out inp"],
        scale: Float[Tensor, "out groups"],
        zero: Float[Tensor, "out groups"] | None = None,
        bias: Float[Tensor, " out"] | None = None,
    ) -> "Int4Linear":
        """A layer of codes that were chosen elsewhere, as by GPTQ or AWQ: weight = (code - zero) · scale.

        zero: the code that stands for 0; None is 8 in every group. Scale and (8 - zero) · scale are rounded to bf16, in
        which the kernels read them.

        Raises:
            ValueError: for codes that are not torch.uint8 from 0 to 15, for scales and zeros that are not one for each
                of equally long groups, and for a shape that the kernels do not know.
        """
        if codes.dim() != 2 or codes.dtype != torch.uint8 or codes.max() > 15:
            raise ValueError(
                f"codes have shape {list(codes.shape)} and type {codes.dtype}; "
                "give torch.uint8 from 0 to 15 in [out, inp]"
            )
        zero = torch.full_like(scale, 8) if zero is None else zero
        fits = scale.dim() == 2 and len(scale) == len(codes) and codes.shape[1] % scale.shape[1] == 0
        if not fits or zero.shape != scale.shape:
            raise ValueError(
                f"scale has shape {list(scale.shape)} and zero {list(zero.shape)} for codes in {list(codes.shape)}; "
                "give both in [out, groups], where the groups of a row are equally long"
            )
        middle = (8 - zero.float()) * scale.float()
        scale_and_middle = torch.stack((scale.float(), middle), dim=-1).bfloat16().transpose(0, 1).contiguous()
        return cls._of(codes, scale_and_middle, bias)

    @classmethod
    def _of(cls, codes: Tensor, scale_and_middle: Tensor, bias: Tensor | None) -> "Int4Linear":
        rows, columns = codes.shape
        layer = cls(columns, rows, group=columns // len(scale_and_middle), device="meta")
        layer.pairs, layer.scale_and_middle, layer.bias = pack(codes), scale_and_middle, as_parameter(bias)
        layer.pack()
        return layer

    def pack(self) -> None:
        """Rearrange the codes for the kernel. Call it again after any change of pairs or scales."""
        device = self.pairs.device
        if device.type == "cpu":
            self.packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(unpack(self.pairs).int(), 1)
        else:
            tiles = next((n for n in (8, 4, 2) if 2 * self.pairs.shape[1] % (16 * n) == 0), 2)
            self.packed = torch.ops.aten._convert_weight_to_int4pack(self.pairs, tiles)
        has_products = has_int8_products(device)
        self.matmul = Int8Matmul(*quantise_rows(self.weight(torch.float32))) if has_products else None

    def weight(self, dtype: torch.dtype) -> Float[Tensor, "out inp"]:
        """The weights that the codes stand for."""
        scale, middle = self.scale_and_middle.float().transpose(0, 1)[..., None, :].unbind(dim=-1)
        groups = unpack(self.pairs).float().unflatten(1, (-1, self.group))
        return torch.addcmul(middle - 8 * scale, groups, scale).flatten(1).to(dtype)

    def forward(self, x: Float[Tensor, "*batch inp"]) -> Float[Tensor, "*batch out"]:
        rows = x.reshape(-1, x.shape[-1])
        if len(rows) > WIDE:
            y = self.matmul(rows) if self.matmul is not None else F.linear(rows, self.weight(x.dtype))
        else:  # these kernels have no public names in PyTorch
            on_cpu = x.device.type == "cpu"
            multiply = torch.ops.aten._weight_int4pack_mm_for_cpu if on_cpu else torch.ops.aten._weight_int4pack_mm
            y = multiply(rows.bfloat16(), self.packed, self.group, self.scale_and_middle)
        y = y.to(x.dtype).view(*x.shape[:-1], -1)
        return y if self.bias is None else y + self.bias
