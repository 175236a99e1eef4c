"""Causal grouped-query attention. With n_kv_heads = n_heads it is multi-head attention, with one it is multi-query."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from .cache import LayerCache
from .config import LlamaConfig
from .rope import rotate


def causal_mask(slots: Int[Tensor, " seq"], n_keys: int) -> Bool[Tensor, "seq keys"]:
    """True where a query may attend: the token in slot s to the keys in slots 0 … s.

    slots: of the new tokens, counted from the start of the cache, so the mask is also right after cached tokens.
    """
    return torch.arange(n_keys, device=slots.device) <= slots[:, None]


def attention_weights(
    q: Float[Tensor, "batch heads seq head_dim"],
    k: Float[Tensor, "batch kv_heads keys head_dim"],
    mask: Bool[Tensor, "... seq keys"],
) -> Float[Tensor, "batch heads seq keys"]:
    """softmax(q kᵀ / sqrt(head_dim)), in fp32; query head h reads key head h // (heads / kv_heads).

    The model calls a fused kernel that never stores these weights; this function is for looking at them.
    Source: Vaswani et al., 2017, arXiv 1706.03762, eq. 1; groups: Ainslie et al., 2023, arXiv 2305.13245, section 2.2.
    """
    k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
    scores = q.float() @ k.float().transpose(-1, -2) / q.shape[-1] ** 0.5
    return scores.masked_fill(~mask, float("-inf")).softmax(dim=-1)


class Attention(nn.Module):
    """Grouped-query attention: each token takes a weighted mean of the values of itself and the tokens before it.

    Source: Vaswani et al., 2017, arXiv 1706.03762, section 3.2; groups: Ainslie et al., 2023, arXiv 2305.13245,
    section 2.2.
    """

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        q_dim, kv_dim, bias = (
            config.n_heads * config.head_dim,
            config.n_kv_heads * config.head_dim,
            config.attention_bias,
        )
        self.q_proj = nn.Linear(config.dim, q_dim, bias=bias)
        self.k_proj = nn.Linear(config.dim, kv_dim, bias=bias)
        self.v_proj = nn.Linear(config.dim, kv_dim, bias=bias)
        self.o_proj = nn.Linear(q_dim, config.dim, bias=bias)

    def forward(
        self,
        x: Float[Tensor, "batch seq dim"],
        cos: Float[Tensor, "batch 1 seq half"],
        sin: Float[Tensor, "batch 1 seq half"],
        mask: Bool[Tensor, "... seq keys"] | None,
        cache: LayerCache | None = None,
    ) -> Float[Tensor, "batch seq dim"]:
        """Attention of `x` to the keys in `cache` and to its own, which are appended to the cache.

        mask: True where a query may attend. None: causal, for a text with an empty cache or for one new token.
        """
        q, k, v = (
            projected.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)  # [batch, heads or kv_heads, seq, head_dim]
            for projected in self.project(x)
        )
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        if cache is not None:
            k, v = cache.append(k, v)
        return self.o_proj(self.mix(q, k, v, mask).transpose(1, 2).flatten(2))

    # `fast` overrides these two, and nothing else:
    def project(self, x: Float[Tensor, "batch seq dim"]) -> tuple[Tensor, ...]:
        return self.q_proj(x), self.k_proj(x), self.v_proj(x)

    def mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        which = {"is_causal": q.shape[2] > 1} if mask is None else {"attn_mask": mask}
        return F.scaled_dot_product_attention(q, k, v, **which, enable_gqa=True)
