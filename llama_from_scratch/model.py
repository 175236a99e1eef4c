"""The whole model: tokens in, logits out."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from .attention import Attention, causal_mask
from .cache import KVCache, LayerCache
from .config import LlamaConfig
from .feed_forward import FeedForward
from .norm import RMSNorm
from .rope import Rope


class Block(nn.Module):
    """Two sub-layers. Each reads a normalised copy of the residual stream and adds its output to the stream."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.dim, config.norm_eps)
        self.attention = Attention(config)
        self.ffn_norm = RMSNorm(config.dim, config.norm_eps)
        self.feed_forward = FeedForward(config)

    def forward(
        self,
        x: Float[Tensor, "batch seq dim"],
        cos: Float[Tensor, "batch 1 seq half"],
        sin: Float[Tensor, "batch 1 seq half"],
        mask: Bool[Tensor, "... seq keys"] | None,
        cache: LayerCache | None = None,
    ) -> Float[Tensor, "batch seq dim"]:
        x = x + self.attention(self.attention_norm(x), cos, sin, mask, cache)
        return x + self.feed_forward(self.ffn_norm(x))


class Llama(nn.Module):
    """A Llama of any size. `Llama(config)` has random weights; `Llama.from_pretrained(name)` has learned ones."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.dim)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = RMSNorm(config.dim, config.norm_eps)
        self.lm_head = None if config.tie_embeddings else nn.Linear(config.dim, config.vocab_size, bias=False)
        self.rope = Rope(config)
        self.init_weights()

    @classmethod
    def from_pretrained(
        cls, name: str, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> "Llama":
        """Released weights: "SmolLM2-135M-Instruct" (embedded), a file, a folder, or a hub name. See `checkpoint`."""
        from .checkpoint import load_model  # the one arrow that points outwards, kept out of import time

        return load_model(name, dtype=dtype, device=device)

    @torch.no_grad()
    def init_weights(self, std: float = 0.02) -> None:
        """Normal weights of deviation `std`, over sqrt(2 · n_layers) where a matrix writes to the residual stream.

        2 · n_layers such outputs add up. Source: Radford et al., 2019, Language Models are Unsupervised Multitask
        Learners (GPT-2), section 2.3.
        """
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                writes = name.endswith(("o_proj.weight", "down_proj.weight"))
                weight.normal_(0.0, std / (2 * self.config.n_layers) ** 0.5 if writes else std)
            elif name.endswith("bias"):
                weight.zero_()

    def forward(
        self,
        tokens: Int[Tensor, "batch seq"],
        cache: KVCache | None = None,
        attention_mask: Bool[Tensor, "batch keys"] | None = None,
    ) -> Float[Tensor, "batch seq vocab"]:
        """Logits for the token after each of `tokens`, in the dtype of the weights.

        cache: holds the tokens before these, and stores these too; None if these are the first.
        attention_mask: True for a token, False for padding (which must be on the left), cached tokens included; None
            if nothing is padding. The same as in transformers.

        Raises:
            ValueError: for tokens outside the vocabulary (checked on the CPU only), more tokens than the context or
                the cache holds, and arguments of the wrong dtype or shape.
        """
        return self.logits(self.hidden(tokens, cache, attention_mask))

    def hidden(
        self,
        tokens: Int[Tensor, "batch seq"],
        cache: KVCache | None = None,
        attention_mask: Bool[Tensor, "batch keys"] | None = None,
    ) -> Float[Tensor, "batch seq dim"]:
        """The residual stream after the last norm, which `logits` reads; arguments and errors are those of `forward`.

        Call `hidden` and then `logits` to compute the logits of only some tokens, or of a few at a time.
        """
        start = cache.length if cache is not None else 0
        self._check(tokens, start, attention_mask)
        end = start + tokens.shape[1]
        slots = torch.arange(start, end, device=tokens.device)
        # Without cache and padding the mask is plainly causal; kernels are faster if it is not written out.
        mask = None if start == 0 and attention_mask is None else causal_mask(slots, end)
        positions = slots.expand(tokens.shape[0], -1)
        if attention_mask is not None:
            mask = mask & attention_mask[:, None, None, :]
            positions = (attention_mask.cumsum(dim=-1) - 1).clamp(min=0)[:, start:]
        return self.norm(self.run_blocks(self.embedding(tokens), positions, mask, cache))

    def run_blocks(
        self,
        x: Float[Tensor, "batch seq dim"],
        positions: Int[Tensor, "batch seq"],
        mask: Bool[Tensor, "... seq keys"] | None = None,
        cache: KVCache | None = None,
        stop: int | None = None,
    ) -> Float[Tensor, "batch seq dim"]:
        """The residual stream after blocks 0 … stop - 1, before the last norm; `stop` None runs all blocks.

        x: embedded tokens, or any other vectors, as for soft prompts, images or integrated gradients.
        positions: of each vector, counted from 0. mask: as in `Attention.forward`. Nothing is checked.
        """
        cos, sin = self.rope(positions)
        for i, block in enumerate(self.blocks):
            if i == stop:
                break
            x = block(x, cos, sin, mask, cache.layers[i] if cache is not None else None)
        return x

    def logits(self, x: Float[Tensor, "... dim"]) -> Float[Tensor, "... vocab"]:
        """The output projection, of what `hidden` returns."""
        return F.linear(x, self.embedding.weight) if self.lm_head is None else self.lm_head(x)

    def new_cache(self, batch: int, capacity: int, kind: type[KVCache] = KVCache) -> KVCache:
        """An empty cache for `batch` sequences of up to `capacity` tokens, in this model's dtype and on its device."""
        weight = self.embedding.weight
        return kind(self.config, batch, capacity, weight.dtype, weight.device)

    def _check(self, tokens: Tensor, start: int, attention_mask: Tensor | None) -> None:
        if tokens.dim() != 2 or tokens.dtype not in (torch.int32, torch.int64):
            raise ValueError(
                f"tokens have shape {list(tokens.shape)} and type {tokens.dtype}; give torch.long in [batch, seq]"
            )
        if tokens.numel() == 0:
            raise ValueError("there are no tokens; give at least one")
        end = start + tokens.shape[1]
        if end > self.config.max_seq_len:
            raise ValueError(
                f"{end} tokens are more than this model's context of {self.config.max_seq_len}; shorten the text"
            )
        if tokens.device.type == "cpu" and not 0 <= tokens.min() <= tokens.max() < self.config.vocab_size:
            raise ValueError(
                f"token ids run from {tokens.min()} to {tokens.max()}; "
                f"this model knows 0 to {self.config.vocab_size - 1}"
            )
        mask, shape = attention_mask, (tokens.shape[0], end)
        if mask is not None and (mask.dtype != torch.bool or mask.shape != shape):
            raise ValueError(
                f"attention_mask has shape {list(mask.shape)} and type {mask.dtype}; it must be torch.bool in "
                f"{list(shape)}: one entry for each token, cached ones included"
            )
