"""Weights in 8 bits: one scale for each row of a matrix, and for each weight an integer from -127 to 127."""

import torch
import torch.nn.functional as F
from jaxtyping import BFloat16, Float, Int8
from torch import Tensor, nn

from .int8_matmul import Int8Matmul, has_int8_products

WIDE = 64  # inputs of more rows than this, such as a prompt, are multiplied in another way than those of a few tokens


def quantise_rows(weight: Float[Tensor, "out inp"]) -> tuple[Int8[Tensor, "out inp"], BFloat16[Tensor, " out"]]:
    """Codes and scales with weight ≈ code · scale; no weight is off by more than half the scale of its row.

    The scale is rounded to bf16, in which the kernels read it, before the codes are chosen, so that its rounding adds
    no error; it is rounded up where the largest weight of the row would otherwise not fit. Source: symmetric
    quantisation with absolute maxima, Dettmers et al., 2022, arXiv 2208.07339, section 2.1.
    """
    weight = weight.float()
    largest = weight.abs().amax(dim=1)
    scale = (largest / 127).clamp(min=torch.finfo(torch.bfloat16).tiny).bfloat16()
    scale = torch.where(scale.float() * 127 < largest, _next_up(scale), scale)
    return (weight / scale.float()[:, None]).round().clamp(-127, 127).to(torch.int8), scale


def _next_up(x: BFloat16[Tensor, " n"]) -> BFloat16[Tensor, " n"]:
    """The next larger number in bf16, for positive ones: as integers, their bits have the same order."""
    return (x.view(torch.int16) + 1).view(torch.bfloat16)


class Int8Linear(nn.Module):
    """A linear layer of weights code · scale, with codes in 8 bits and one scale for each row.

    Reads 1 byte for each weight, and computes in bf16 with fp32 sums. A CPU with fast products of bytes uses those
    instead, which are more exact; the weights are then in memory twice, as they are and in oneDNN's order. Elsewhere
    the weights are written out in full for a prompt. The state dict holds codes, scale and bias; it loads into a layer
    of the same shape. A new layer is all zeros: use `from_linear`, `from_codes` or `load_state_dict`.
    """

    def __init__(
        self, in_features: int, out_features: int, bias: bool = False, device: torch.device | str = "cpu"
    ) -> None:
        super().__init__()
        self.register_buffer("codes", torch.zeros(out_features, in_features, dtype=torch.int8, device=device))
        self.register_buffer("scale", torch.zeros(out_features, dtype=torch.bfloat16, device=device))
        self.bias = nn.Parameter(torch.zeros(out_features, device=device)) if bias else None
        self.matmul: Int8Matmul | None = None
        self.register_load_state_dict_post_hook(repack)
        if torch.device(device).type != "meta":
            self.pack()

    @classmethod
    def from_linear(cls, linear: nn.Linear) -> "Int8Linear":
        """Quantise a layer with `quantise_rows`; its bias is shared."""
        return cls.from_codes(*quantise_rows(linear.weight.detach()), linear.bias)

    @classmethod
    def from_codes(
        cls,
        codes: Int8[Tensor, "out inp"],
        scale: Float[Tensor, " out"],
        bias: Float[Tensor, " out"] | None = None,
    ) -> "Int8Linear":
        """A layer of codes that were chosen elsewhere; `scale` is rounded to bf16, in which the kernels read it.

        Raises:
            ValueError: if there is not one scale for each row of codes.
        """
        if codes.dim() != 2 or codes.dtype != torch.int8 or scale.shape != codes.shape[:1]:
            raise ValueError(
                f"codes have shape {list(codes.shape)} and type {codes.dtype}, and scale has shape "
                f"{list(scale.shape)}; give torch.int8 in [out, inp], and one scale for each of the out rows"
            )
        layer = cls(codes.shape[1], codes.shape[0], device="meta")
        layer.codes, layer.scale = codes, scale.bfloat16()
        layer.bias = as_parameter(bias)
        layer.pack()
        return layer

    def pack(self) -> None:
        """Rearrange the codes for the kernel. Call it again after any change of codes or scale."""
        self.matmul = Int8Matmul(self.codes, self.scale) if has_int8_products(self.codes.device) else None

    def forward(self, x: Float[Tensor, "*batch inp"]) -> Float[Tensor, "*batch out"]:
        rows = x.reshape(-1, x.shape[-1])
        if x.device.type != "cpu":  # compiled, the conversion is fused into the product: no bf16 weights are written
            y = F.linear(rows.bfloat16(), self.codes.bfloat16()) * self.scale
        elif self.matmul is not None:
            y = self.matmul(rows)
        elif len(rows) > WIDE:
            y = F.linear(rows, self.codes.to(x.dtype) * self.scale[:, None].to(x.dtype))
        else:  # this kernel is fast with bf16 inputs only; it has no public name in PyTorch
            y = torch.ops.aten._weight_int8pack_mm(rows.bfloat16(), self.codes, self.scale)
        y = y.to(x.dtype).view(*x.shape[:-1], -1)
        return y if self.bias is None else y + self.bias


def repack(layer: nn.Module, _keys: object) -> None:
    """Hook to run after weights were loaded into a quantised layer."""
    layer.pack()


def as_parameter(bias: Tensor | None) -> nn.Parameter | None:
    """The bias of another layer as it is, any other tensor as a parameter without a gradient."""
    return bias if bias is None or isinstance(bias, nn.Parameter) else nn.Parameter(bias, requires_grad=False)
