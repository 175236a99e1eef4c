"""A cache for one program that runs again and again: nothing in it is allocated, moved or counted in Python."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..cache import KVCache, LayerCache
from ..config import LlamaConfig
from .compile import Scope


class FixedLayerCache(LayerCache):
    """Stores keys and values in the slots that a tensor names, and shows the first few slots, whatever they hold."""

    slots: Int[Tensor, " seq"]
    shown_keys: Float[Tensor, "batch kv_heads keys head_dim"]
    shown_values: Float[Tensor, "batch kv_heads keys head_dim"]

    def append(
        self, k: Float[Tensor, "batch kv_heads seq head_dim"], v: Float[Tensor, "batch kv_heads seq head_dim"]
    ) -> tuple[Float[Tensor, "batch kv_heads keys head_dim"], Float[Tensor, "batch kv_heads keys head_dim"]]:
        """Store the new tokens; returns all that is shown. What lies behind the newest is for the mask to hide."""
        self.shown_keys[:, :, self.slots] = k
        self.shown_values[:, :, self.slots] = v
        return self.shown_keys, self.shown_values


class FixedCache(KVCache):
    """A `KVCache` whose every layer is a `FixedLayerCache`. Call `aim` before each pass."""

    _layer_type = FixedLayerCache

    def __init__(
        self,
        config: LlamaConfig,
        batch: int,
        capacity: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        compiled: Scope | None = None,
    ) -> None:
        super().__init__(config, batch, capacity, dtype, device)
        self.capacity, self.compiled = capacity, compiled
        if compiled == "step":  # CUDA graphs then read and write these buffers where they are, without a copy
            for layer in self.layers:
                torch._dynamo.mark_static_address(layer.keys)
                torch._dynamo.mark_static_address(layer.values)

    def aim(self, slots: Int[Tensor, " seq"], shown: int | None) -> None:
        """The next pass writes to `slots` and sees the first `shown` slots; None: all of them, the same for any step.

        Raises:
            ValueError: if there are not so many.
        """
        if shown is not None and shown > self.capacity:
            raise ValueError(
                f"the cache holds {self.capacity} tokens and {shown} are needed; make it with a larger capacity"
            )
        for layer in self.layers:
            layer.slots = slots
            layer.shown_keys, layer.shown_values = layer.keys, layer.values
            if shown is not None:
                layer.shown_keys, layer.shown_values = layer.keys[:, :, :shown], layer.values[:, :, :shown]
                if self.compiled is not None:  # one program for every length
                    torch._dynamo.maybe_mark_dynamic(layer.shown_keys, 2)
                    torch._dynamo.maybe_mark_dynamic(layer.shown_values, 2)
