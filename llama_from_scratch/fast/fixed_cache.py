"""A cache for one program that runs again and again: its buffers stay where they are, and positions are tensors."""

from typing import NoReturn

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..cache import KVCache, LayerCache
from ..config import LlamaConfig
from .compile import mark_any_length


class FixedLayerCache(LayerCache):
    """Writes keys and values to the slots in a tensor, and returns the first slots, filled or not."""

    slots: Int[Tensor, " seq"]  # to write to
    read_keys: Float[Tensor, "batch kv_heads keys head_dim"]  # views of the first slots
    read_values: Float[Tensor, "batch kv_heads keys head_dim"]

    def append(
        self, k: Float[Tensor, "batch kv_heads seq head_dim"], v: Float[Tensor, "batch kv_heads seq head_dim"]
    ) -> tuple[Float[Tensor, "batch kv_heads keys head_dim"], Float[Tensor, "batch kv_heads keys head_dim"]]:
        """Store the new tokens; returns all slots that are read. The mask must hide those that are not filled."""
        self.read_keys[:, :, self.slots] = k
        self.read_values[:, :, self.slots] = v
        return self.read_keys, self.read_values


class FixedCache(KVCache):
    """A `KVCache` of `FixedLayerCache`s, for `Decoder`. Call `select` before each pass.

    It does not count the tokens that it holds, so `length` and `rewind` raise TypeError, as does a `Llama` that is
    called with it.
    """

    _layer_type = FixedLayerCache

    def __init__(
        self,
        config: LlamaConfig,
        batch: int,
        capacity: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(config, batch, capacity, dtype, device)
        self.capacity = capacity
        self.for_any_length = False  # whether one compiled program must serve every number of slots that are read

    @property
    def length(self) -> NoReturn:
        raise TypeError(
            "a FixedCache does not count its tokens: the caller says which slots to use; take a KVCache, or a Decoder"
        )

    def rewind(self, length: int) -> NoReturn:
        _ = self.length

    def select(self, slots: Int[Tensor, " seq"], n_read: int | None) -> None:
        """The next pass writes to `slots` and reads the first `n_read` slots; None: all, which is the same each time.

        Raises:
            ValueError: if there are fewer than `n_read`.
        """
        if n_read is not None and n_read > self.capacity:
            raise ValueError(
                f"the cache holds {self.capacity} tokens and {n_read} are needed; make it with a larger capacity"
            )
        for layer in self.layers:
            layer.slots = slots
            layer.read_keys, layer.read_values = layer.keys, layer.values
            if n_read is not None:
                layer.read_keys, layer.read_values = layer.keys[:, :, :n_read], layer.values[:, :, :n_read]
                if self.for_any_length:
                    mark_any_length(layer.read_keys, 2)
                    mark_any_length(layer.read_values, 2)
