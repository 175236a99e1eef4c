"""Caches during generation: one that grows, and copies of one for several continuations of one text."""

from collections.abc import Sequence
from copy import copy

import torch
import torch.nn.functional as F

from ..cache import KVCache, LayerCache
from ..config import LlamaConfig


class GrowingLayerCache(LayerCache):
    """A `LayerCache` that doubles its buffers when they are full, up to `limit` tokens.

    With doubling each token is copied about once, however long the text becomes.
    """

    limit: int

    def make_room(self, needed: int) -> None:
        capacity = self.keys.shape[2]
        more = max(needed, min(2 * capacity, self.limit)) - capacity
        with torch.inference_mode(False):  # buffers made in that mode could not be written outside it
            self.keys, self.values = F.pad(self.keys, (0, 0, 0, more)), F.pad(self.values, (0, 0, 0, more))


class GrowingCache(KVCache):
    """A `KVCache` whose buffers grow, for texts of unknown length such as a conversation.

    It starts with room for `capacity` tokens and doubles when full, up to the context of the model. A `KVCache`
    reserves everything at once and never copies what it holds; both return the same keys and values.
    """

    _layer_type = GrowingLayerCache

    def __init__(
        self,
        config: LlamaConfig,
        batch: int = 1,
        capacity: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(config, batch, capacity, dtype, device)
        for layer in self.layers:
            layer.limit = config.max_seq_len


def fan_out(cache: KVCache, n: int) -> KVCache:
    """A copy in which every sequence is repeated n times, for n continuations of one prompt. `cache` is unchanged.

    Raises:
        ValueError: if n is below 1.
    """
    if n < 1:
        raise ValueError(f"n is {n}; a cache can be fanned out to 1 or more copies of each sequence")
    wide = copy(cache)
    wide.layers = [copy(layer) for layer in cache.layers]
    for layer in wide.layers:
        layer.keys, layer.values = layer.keys.repeat_interleave(n, dim=0), layer.values.repeat_interleave(n, dim=0)
    return wide


def rewind_to_shared(cache: KVCache, held: Sequence[int], ids: Sequence[int]) -> None:
    """Rewind a cache that was filled with the tokens `held` to the prefix that it shares with the text `ids`.

    At most all but the last token of `ids` are kept: its logits are still needed, and the cache has none.
    """
    pairs = enumerate(zip(held, ids, strict=False))
    shared = next((i for i, (one, other) in pairs if one != other), min(len(held), len(ids)))
    cache.rewind(max(0, min(shared, cache.length, len(ids) - 1)))


def is_same_in_pieces(config: LlamaConfig) -> bool:
    """Whether a text gives the same logits in one pass and in several passes with a cache.

    False only for dynamic NTK scaling: each pass rotates its keys by frequencies that depend on the length of the text
    so far, and keys in the cache keep the rotation of their pass.
    """
    return config.rope_scaling is None or config.rope_scaling.kind != "dynamic"
