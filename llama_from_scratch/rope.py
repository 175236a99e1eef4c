"""Rotary position embedding: turn each pair of numbers in a query or key by an angle that grows with its position."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from .config import LlamaConfig, RopeScaling


def rope_frequencies(head_dim: int, theta: float, factor: float = 1.0) -> Float[Tensor, " half"]:
    """Radians per token of each pair: f_i = theta^(-2i / head_dim) / factor, i = 0 … head_dim/2 - 1; fp32, on the CPU.

    Source: Su et al., RoFormer, 2021, arXiv 2104.09864, section 3.2.2 (theta is 10000 there).
    """
    return 1.0 / (factor * theta ** (torch.arange(0, head_dim, 2, device="cpu").float() / head_dim))


def yarn_attention_factor(factor: float) -> float:
    """The factor by which YaRN multiplies cos and sin, for a context that is `factor` times as long.

    Queries and keys both carry it, so it makes the scores larger by its square.
    Source: Peng et al., 2023, arXiv 2309.00071, section 3.4, eq. 22, where it is the square root of 1/t.
    """
    return 0.1 * math.log(factor) + 1


def scaled_frequencies(
    head_dim: int, theta: float, scaling: RopeScaling | None, length: int = 0
) -> tuple[Float[Tensor, " half"], float]:
    """Frequencies after context extension, and the factor that multiplies cos and sin (1 except for YaRN).

    length: the positions in use, in tokens; only dynamic NTK reads it.

    Sources: linear: Chen et al., 2023, arXiv 2306.15595, section 2.3; yarn: Peng et al., 2023, arXiv 2309.00071,
    section 3; dynamic: the same, section 3.3; llama3: `apply_scaling` in Meta's llama-models.
    """
    freqs = rope_frequencies(head_dim, theta)
    if scaling is None:
        return freqs, 1.0
    factor, original = scaling.factor, scaling.original_max_seq_len
    if scaling.kind == "linear":
        return freqs / factor, 1.0
    if scaling.kind == "dynamic":
        stretch = factor * max(length, original) / original - (factor - 1)
        return rope_frequencies(head_dim, theta * stretch ** (head_dim / (head_dim - 2))), 1.0
    if scaling.kind == "llama3":
        wavelengths = 2 * math.pi / freqs
        low, high = scaling.low_freq_factor, scaling.high_freq_factor
        keep = ((original / wavelengths - low) / (high - low)).clamp(0, 1)
        return (1 - keep) * freqs / factor + keep * freqs, 1.0

    def pair_that_turns(turns: float) -> float:  # index of the pair with this many turns in the training context
        return head_dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))

    first = max(math.floor(pair_that_turns(scaling.beta_fast)), 0)
    last = min(math.ceil(pair_that_turns(scaling.beta_slow)), head_dim - 1)
    keep = 1 - ((torch.arange(head_dim // 2, device="cpu") - first) / max(last - first, 0.001)).clamp(0, 1)
    attention_factor = scaling.attention_factor or yarn_attention_factor(factor)
    return rope_frequencies(head_dim, theta, factor) * (1 - keep) + freqs * keep, attention_factor


class Rope(nn.Module):
    """Computes cos and sin of every angle from the positions. Has no parameters and adds nothing to the state dict."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.head_dim, self.theta, self.scaling = config.head_dim, config.rope_theta, config.rope_scaling
        freqs, self.attention_factor = scaled_frequencies(self.head_dim, self.theta, self.scaling)
        self.register_buffer("freqs", freqs, persistent=False)

    def _apply(self, fn, recurse=True):
        # Angles need fp32: in bf16 the integers beyond 256 are no longer exact. So `.to(bfloat16)` moves this
        # buffer to the device but leaves its type alone.
        freqs = self.freqs
        super()._apply(fn, recurse)
        self.freqs = freqs.to(self.freqs.device)
        return self

    def forward(
        self, positions: Int[Tensor, "batch seq"]
    ) -> tuple[Float[Tensor, "batch 1 seq half"], Float[Tensor, "batch 1 seq half"]]:
        """cos and sin of position x frequency in fp32; positions are absolute, the first token is 0."""
        freqs = self.freqs
        if self.scaling and self.scaling.kind == "dynamic":
            length = int(positions.max()) + 1
            freqs = scaled_frequencies(self.head_dim, self.theta, self.scaling, length)[0].to(positions.device)
        angles = positions[:, None, :, None].float() * freqs
        return angles.cos() * self.attention_factor, angles.sin() * self.attention_factor


def rotate(
    x: Float[Tensor, "batch any_heads seq head_dim"],
    cos: Float[Tensor, "... seq half"],
    sin: Float[Tensor, "... seq half"],
) -> Float[Tensor, "batch any_heads seq head_dim"]:
    """Rotate the pairs (x_i, x_(i+half)): the half-split layout of Hugging Face files and of this package's weights.

    Done in fp32 and rounded once to the type of x.
    """
    a, b = x.float().chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1).to(x.dtype)


def rotate_adjacent(
    x: Float[Tensor, "batch any_heads seq head_dim"],
    cos: Float[Tensor, "... seq half"],
    sin: Float[Tensor, "... seq half"],
) -> Float[Tensor, "batch any_heads seq head_dim"]:
    """Rotate the pairs (x_2i, x_(2i+1)): the layout of the paper, of Meta's checkpoints and of GGUF files."""
    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((a * cos - b * sin, b * cos + a * sin), dim=-1).flatten(-2).to(x.dtype)


def adjacent_to_halves(weight: Float[Tensor, "rows ..."], n_heads: int) -> Float[Tensor, "rows ..."]:
    """Reorder the rows of a q or k weight (or bias) from adjacent pairs to halves; n_heads is n_kv_heads for k.

    Within each head, rows 0 1 2 3 … become 0 2 4 … 1 3 5 …
    """
    return weight.unflatten(0, (n_heads, -1, 2)).transpose(1, 2).reshape(weight.shape)


def halves_to_adjacent(weight: Float[Tensor, "rows ..."], n_heads: int) -> Float[Tensor, "rows ..."]:
    """The inverse of `adjacent_to_halves`."""
    return weight.unflatten(0, (n_heads, 2, -1)).transpose(1, 2).reshape(weight.shape)
