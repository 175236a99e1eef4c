"""Where each token looked: the attention weights, which the model itself never stores."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..attention import Attention, attention_weights, causal_mask
from ..model import Llama
from ..rope import rotate


@torch.no_grad()
def attention_maps(model: Llama, tokens: Int[Tensor, "batch seq"]) -> Float[Tensor, "layers batch heads seq seq"]:
    """The weight that each token (second-last axis) gives to each token (last axis), in fp32; rows add up to 1.

    Computed beside the model's own fused attention, from the same inputs: n_layers · n_heads · seq² numbers a text.

    Raises:
        ValueError: as the model does.
    """
    maps: list[Tensor] = []
    mask = causal_mask(torch.arange(tokens.shape[-1], device=tokens.device), tokens.shape[-1])

    def look(attention: Attention, arguments: tuple) -> None:
        x, cos, sin, _mask, _cache = arguments
        q, k, _v = (
            projected.unflatten(-1, (-1, attention.head_dim)).transpose(1, 2) for projected in attention.project(x)
        )
        maps.append(attention_weights(rotate(q, cos, sin), rotate(k, cos, sin), mask))

    hooks = [block.attention.register_forward_pre_hook(look) for block in model.blocks]
    try:
        model.hidden(tokens)
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack(maps)
