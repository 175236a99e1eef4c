"""Attention weights, which the model itself never stores."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..attention import attention_weights, causal_mask
from ..model import Llama
from ..rope import rotate
from .recorder import record


@torch.no_grad()
def attention_maps(model: Llama, tokens: Int[Tensor, "batch seq"]) -> Float[Tensor, "layers batch heads seq seq"]:
    """The weight of each token (last axis) for each query (second-last axis), in fp32; rows add up to 1.

    Computed beside the model's fused attention, from the same inputs: n_layers · n_heads · seq² numbers for each text.

    Raises:
        ValueError: as the model does.
    """
    recorded = record(model, tokens, "blocks.*.attention")
    positions = torch.arange(tokens.shape[1], device=tokens.device)
    mask, maps = causal_mask(positions, len(positions)), []
    cos, sin = model.rope(positions.expand(tokens.shape))
    for block, (x, _) in zip(model.blocks, recorded.values(), strict=True):
        projected = block.attention.project(x)[:2]
        q, k = (
            rotate(part.unflatten(-1, (-1, block.attention.head_dim)).transpose(1, 2), cos, sin) for part in projected
        )
        maps.append(attention_weights(q, k, mask))
    return torch.stack(maps)
