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
    """Two sub-layers. Each reads a normalised copy of the residual stream and adds what it found to the stream."""

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
        """Random matrices; those that write to the residual stream are smaller, since 2 · n_layers of them add up."""
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
        real: Bool[Tensor, "batch keys"] | None = None,
    ) -> Float[Tensor, "batch seq vocab"]:
        """Logits for the token after each of `tokens`.

        cache: holds the tokens before these and takes these in; None if these are the first.
        real: False where a token is only padding (on the left), cached tokens included; None if there is none.
        Raises ValueError for tokens outside the vocabulary (checked on the CPU) and beyond the context length or the
        cache's capacity, and for arguments whose type or shape does not fit.
        """
        return self.logits(self.hidden(tokens, cache, real))

    def hidden(
        self,
        tokens: Int[Tensor, "batch seq"],
        cache: KVCache | None = None,
        real: Bool[Tensor, "batch keys"] | None = None,
    ) -> Float[Tensor, "batch seq dim"]:
        """The stream behind the last norm, which `logits` reads; the same arguments and errors as `forward`.

        Whoever needs the logits of a few tokens only, or of a few at a time, calls the two one after the other.
        """
        start = cache.length if cache is not None else 0
        self._check(tokens, start, real)
        end = start + tokens.shape[1]
        slots = torch.arange(start, end, device=tokens.device)
        # With nothing before a text no mask need be written out: kernels that know the causal one are quicker.
        mask = None if start == 0 and real is None else causal_mask(slots, end)
        positions = slots.expand(tokens.shape[0], -1)
        if real is not None:
            mask = mask & real[:, None, None, :]
            positions = (real.cumsum(dim=-1) - 1).clamp(min=0)[:, start:]
        return self.norm(self.run_blocks(self.embedding(tokens), positions, mask, cache))

    def run_blocks(
        self,
        x: Float[Tensor, "batch seq dim"],
        positions: Int[Tensor, "batch seq"],
        mask: Bool[Tensor, "... seq keys"] | None = None,
        cache: KVCache | None = None,
        stop: int | None = None,
    ) -> Float[Tensor, "batch seq dim"]:
        """The residual stream after the blocks 0 to `stop` - 1, or after all of them, before the last norm.

        x: embedded tokens, or any other vectors. mask: None as in `Attention`. Nothing is checked.
        """
        cos, sin = self.rope(positions)
        for i, block in enumerate(self.blocks):
            if i == stop:
                break
            x = block(x, cos, sin, mask, cache.layers[i] if cache is not None else None)
        return x

    def logits(self, x: Float[Tensor, "... dim"]) -> Float[Tensor, "... vocab"]:
        """The output projection of what `hidden` gives."""
        return F.linear(x, self.embedding.weight) if self.lm_head is None else self.lm_head(x)

    def _check(self, tokens: Tensor, start: int, real: Tensor | None) -> None:
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
        if real is not None and (real.dtype != torch.bool or real.shape != (tokens.shape[0], end)):
            raise ValueError(
                f"real has shape {list(real.shape)} and type {real.dtype}; it must be torch.bool in "
                f"{[tokens.shape[0], end]}: one entry for each token, cached ones included"
            )
