"""Fewer and larger matrix products: one for q, k and v, one for gate and up, one for all queries that share a key."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ..attention import Attention
from ..feed_forward import FeedForward
from ..model import Llama


def stack(*linears: nn.Linear) -> nn.Linear:
    """One layer whose output is that of several layers with the same input, side by side."""
    first = linears[0]
    rows = sum(linear.out_features for linear in linears)
    both = nn.Linear(first.in_features, rows, bias=first.bias is not None, device="meta")
    both.weight = nn.Parameter(torch.cat([linear.weight.detach() for linear in linears]))
    if first.bias is not None:
        both.bias = nn.Parameter(torch.cat([linear.bias.detach() for linear in linears]))
    return both


CHUNK, MANY = 128, 1024  # keys in a chunk; from MANY keys on, attention of one new token is a sum over chunks


def in_chunks(
    q: Float[Tensor, "batch kv_heads group_size head_dim"],
    k: Float[Tensor, "batch kv_heads keys head_dim"],
    v: Float[Tensor, "batch kv_heads keys head_dim"],
    mask: Bool[Tensor, " batch #kv_heads #group_size keys"],
) -> Float[Tensor, "batch kv_heads group_size head_dim"]:
    """Attention of a few queries to many keys, a multiple of `CHUNK`, as products that are spread over a full GPU.

    PyTorch's fused kernels give each head to one of more than a hundred multiprocessors, and one text has few heads.
    Here each chunk of values is a separate product, and the products are added at the end, as in Flash-Decoding (Dao et
    al., 2023, pytorch.org/blog/flash-decoding).
    """
    scores = ((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)).float()
    weights = scores.masked_fill(~mask, float("-inf")).softmax(dim=-1).to(v.dtype)
    parts = weights.unflatten(-1, (-1, CHUNK)).transpose(2, 3) @ v.unflatten(2, (-1, CHUNK))
    return parts.float().sum(dim=2).to(v.dtype)


class FusedAttention(Attention):
    """`Attention` with one product for q, k and v, and, for one new token, without a copy of k and v for each query."""

    def __init__(self, plain: Attention) -> None:
        nn.Module.__init__(self)  # the weights are those of `plain`
        self.head_dim = plain.head_dim
        self.widths = [linear.out_features for linear in (plain.q_proj, plain.k_proj, plain.v_proj)]
        self.qkv_proj = stack(plain.q_proj, plain.k_proj, plain.v_proj)
        self.o_proj = plain.o_proj

    def project(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.qkv_proj(x).split(self.widths, dim=-1)

    def mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """With one new token, the queries of a group take the place of a sequence: all attend to the same keys."""
        if q.shape[2] > 1:
            return super().mix(q, k, v, mask)
        grouped = q.view(q.shape[0], k.shape[1], -1, q.shape[3])  # [batch, kv_heads, group_size, head_dim]
        if mask is not None and k.device.type == "cuda" and k.shape[2] >= MANY and k.shape[2] % CHUNK == 0:
            return in_chunks(grouped, k, v, mask).reshape(q.shape)
        # Not `view`: the kernel chooses the memory layout of the result.
        return F.scaled_dot_product_attention(grouped, k, v, attn_mask=mask).reshape(q.shape)


class FusedFeedForward(FeedForward):
    """`FeedForward` with one product for gate and up."""

    def __init__(self, plain: FeedForward) -> None:
        nn.Module.__init__(self)
        self.gate_up_proj = stack(plain.gate_proj, plain.up_proj)
        self.down_proj = plain.down_proj

    def project(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.gate_up_proj(x).chunk(2, dim=-1)


def fuse(model: Llama) -> None:
    """Fuse every block, in place. Results change only by the rounding of another order of additions."""
    for block in model.blocks:
        block.attention = FusedAttention(block.attention)
        block.feed_forward = FusedFeedForward(block.feed_forward)
