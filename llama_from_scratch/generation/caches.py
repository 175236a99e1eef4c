"""What generation does with the cache: let it grow, and copy it for several continuations of one text."""

from collections.abc import Sequence
from copy import copy

import torch
import torch.nn.functional as F

from ..cache import KVCache, LayerCache
from ..config import LlamaConfig


class GrowingLayerCache(LayerCache):
    """A `LayerCache` that makes its buffers twice as long when they are full, but not longer than `limit` tokens.

    Doubling means that each token is moved about once, however long the text becomes.
    """

    limit: int

    def make_room(self, needed: int) -> None:
        capacity = self.keys.shape[2]
        more = max(needed, min(2 * capacity, self.limit)) - capacity
        with torch.inference_mode(False):  # buffers made within that mode could not be written to outside
            self.keys, self.values = F.pad(self.keys, (0, 0, 0, more)), F.pad(self.values, (0, 0, 0, more))


class GrowingCache(KVCache):
    """A `KVCache` that needs no capacity, for texts whose length nobody knows beforehand: a conversation, say.

    It begins empty and never reserves more than twice what it has held. A `KVCache` reserves everything at once and
    never moves what it holds; the numbers that they give back are the same.
    """

    _layer_type = GrowingLayerCache

    def __init__(
        self,
        config: LlamaConfig,
        batch: int = 1,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(config, batch, 0, dtype, device)
        for layer in self.layers:
            layer.limit = config.max_seq_len


def fan_out(cache: KVCache, n: int) -> KVCache:
    """A copy in which every sequence stands n times in a row: n continuations of what was computed once.

    The original stays as it is.

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
    """Keep of a cache that was given the tokens `held` what is of use for the text `ids`: those with which both begin.

    At least the last token of `ids` is left to compute, since what follows it is not in the cache.
    """
    pairs = enumerate(zip(held, ids, strict=False))
    shared = next((i for i, (one, other) in pairs if one != other), min(len(held), len(ids)))
    cache.rewind(max(0, min(shared, cache.length, len(ids) - 1)))


def is_same_in_pieces(config: LlamaConfig) -> bool:
    """Whether a text gives the same numbers in one pass and in several, each behind the cache of those before.

    It does for every model but one with dynamic NTK scaling, where each pass rotates its keys by frequencies that
    depend on how long the text is by then, and keys in a cache keep the rotation that they were given.
    """
    return config.rope_scaling is None or config.rope_scaling.kind != "dynamic"
