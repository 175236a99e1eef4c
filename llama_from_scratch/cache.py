"""The key/value cache: keys and values of earlier tokens, kept so that they are computed only once."""

import torch
from jaxtyping import Float
from torch import Tensor

from .config import LlamaConfig


class LayerCache:
    """Keys (already rotated) and values of one layer, in buffers of fixed capacity."""

    def __init__(self, shape: tuple[int, int, int, int], dtype: torch.dtype, device: torch.device | str) -> None:
        self.keys = torch.zeros(shape, dtype=dtype, device=device)  # [batch, kv_heads, capacity, head_dim]
        self.values = torch.zeros_like(self.keys)
        self.length = 0

    def append(
        self, k: Float[Tensor, "batch kv_heads seq head_dim"], v: Float[Tensor, "batch kv_heads seq head_dim"]
    ) -> tuple[Float[Tensor, "batch kv_heads keys head_dim"], Float[Tensor, "batch kv_heads keys head_dim"]]:
        """Store the new tokens after the old ones; returns all keys and values so far, as views.

        Raises ValueError if batch or dtype are not those of the cache, or the tokens exceed its capacity.
        """
        if (k.shape[0], k.dtype) != (self.keys.shape[0], self.keys.dtype):
            raise ValueError(
                f"the cache was made for {self.keys.shape[0]} sequences in {self.keys.dtype}, "
                f"and is given {k.shape[0]} in {k.dtype}; make it for the batch and the type of the model"
            )
        start, end = self.length, self.length + k.shape[2]
        if end > self.keys.shape[2]:
            self.make_room(end)
        self.keys[:, :, start:end] = k
        self.values[:, :, start:end] = v
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def make_room(self, needed: int) -> None:
        """Called when the buffers are too small for `needed` tokens; `generation.GrowingCache` enlarges them here."""
        raise ValueError(
            f"the cache holds {self.keys.shape[2]} tokens and {needed} are needed; make it with a larger capacity"
        )


class KVCache:
    """One `LayerCache` for each block of a model.

    Holds 2 · n_layers · n_kv_heads · head_dim numbers for each token of each sequence; GQA makes n_kv_heads small.
    `Llama.new_cache` makes one in the dtype and on the device of a model.
    """

    _layer_type = LayerCache

    def __init__(
        self,
        config: LlamaConfig,
        batch: int,
        capacity: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        shape = (batch, config.n_kv_heads, capacity, config.head_dim)
        self.layers = [self._layer_type(shape, dtype, device) for _ in range(config.n_layers)]

    @property
    def length(self) -> int:
        """Tokens stored in every layer. The last layer is written last, so an interrupted pass does not count."""
        return self.layers[-1].length

    @property
    def n_bytes(self) -> int:
        """Bytes reserved for keys and values, used or not."""
        return sum(2 * layer.keys.nbytes for layer in self.layers)

    def rewind(self, length: int) -> None:
        """Forget every token from position `length` on. Raises ValueError if fewer than `length` are stored."""
        if not 0 <= length <= self.length:
            raise ValueError(f"the cache holds {self.length} tokens; it cannot be rewound to {length}")
        for layer in self.layers:
            layer.length = length
