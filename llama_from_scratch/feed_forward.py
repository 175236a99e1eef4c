"""SwiGLU: the feed-forward layer, in which one projection gates another."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .config import LlamaConfig


class FeedForward(nn.Module):
    """down(silu(gate(x)) · up(x)), for each token on its own; three matrices, without bias in every released Llama.

    Source: Shazeer, GLU Variants Improve Transformer, 2020, arXiv 2002.05202, eq. 6.
    """

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.dim, config.ffn_dim, bias=config.ffn_bias)
        self.up_proj = nn.Linear(config.dim, config.ffn_dim, bias=config.ffn_bias)
        self.down_proj = nn.Linear(config.ffn_dim, config.dim, bias=config.ffn_bias)

    def forward(self, x: Float[Tensor, "batch seq dim"]) -> Float[Tensor, "batch seq dim"]:
        gate, up = self.project(x)
        return self.down_proj(F.silu(gate) * up)

    def project(self, x: Float[Tensor, "batch seq dim"]) -> tuple[Tensor, ...]:  # `fast` overrides it with one product
        return self.gate_proj(x), self.up_proj(x)
