"""Parameters, floating-point operations (FLOPs) and bytes of a model, part by part, computed from its config.

Every count is a dictionary from a part of the model to a number, so that a total is `sum(count.values())`.
A multiplication and an addition are two FLOPs. The FLOPs of norms, rotations, activations and softmax are not counted:
they are less than one per cent of those of the matrix products.
"""

from typing import Literal

from ..config import LlamaConfig

Number = int | float

# The products that are computed again in the backward pass, so that they need not be kept from the forward pass.
# "selective" recomputes every second product, counted in the order of execution, and all that is not a product; it
# keeps the other products and the result of attention. That is the rule of torchtitan (Liang et al., 2024,
# arXiv 2410.06511), whose published runs test the calculator.
Recompute = Literal["none", "selective", "full"]
RECOMPUTED: dict[str, tuple[str, ...]] = {
    "none": (),
    "selective": ("k", "o", "up"),
    "full": ("q", "k", "v", "o", "gate", "up", "down"),
}


def matrices(config: LlamaConfig) -> dict[str, tuple[int, int]]:
    """(inputs, outputs) of each matrix of one block, in the order in which they are used."""
    q_dim, kv_dim = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    return {
        "q": (config.dim, q_dim),
        "k": (config.dim, kv_dim),
        "v": (config.dim, kv_dim),
        "o": (q_dim, config.dim),
        "gate": (config.dim, config.ffn_dim),
        "up": (config.dim, config.ffn_dim),
        "down": (config.ffn_dim, config.dim),
    }


def parameters(config: LlamaConfig) -> dict[str, int]:
    """Parameters of each part, all blocks together: `LlamaConfig.n_params_by_part`, beside the other counts."""
    return config.n_params_by_part


def cache_bytes_per_token(config: LlamaConfig, cache_bytes: Number = 2) -> Number:
    """Bytes that one token of one sequence keeps in the cache; `cache_bytes` for each number (2 for bf16)."""
    return 2 * config.n_layers * config.n_kv_heads * config.head_dim * cache_bytes


def decode_bytes(
    config: LlamaConfig, context: int, batch: int = 1, weight_bytes: Number = 2, cache_bytes: Number = 2
) -> dict[str, Number]:
    """Bytes read to decode one token for each of `batch` sequences.

    The weights are read once for the whole batch, the cache of `context` tokens once for each sequence. Of the
    embedding table only a row for each sequence is read; the output projection is read in full, tied or not.
    `weight_bytes`: bytes for each weight: 4 for fp32, 2 for bf16, 1 for int8, and with the scales of its groups 0.5625
    for int4 in groups of 32 with 2-byte scales.
    """
    count = parameters(config)
    return {
        "embedding": batch * config.dim * weight_bytes,
        "attention": count["attention"] * weight_bytes,
        "feed-forward": count["feed-forward"] * weight_bytes,
        "norms": count["norms"] * weight_bytes,
        "output projection": config.vocab_size * config.dim * weight_bytes,
        "keys and values": batch * context * cache_bytes_per_token(config, cache_bytes),
    }


def forward_flops(config: LlamaConfig, keys: Number) -> dict[str, Number]:
    """FLOPs of the forward pass for one token that attends to `keys` tokens, itself included.

    A weight is used once for each token: one multiplication, one addition. "keys and values" is q·k and the weighted
    mean of v: for each of them, 2 FLOPs for each key and each of the n_heads · head_dim numbers of the queries.
    With a causal mask the mean number of keys over a text of T tokens is (T + 1) / 2.
    Source: Kaplan et al., 2020, arXiv 2001.08361, section 2.1, here for GQA and SwiGLU.
    """
    size = {name: inputs * outputs for name, (inputs, outputs) in matrices(config).items()}
    return {
        "attention": 2 * config.n_layers * sum(size[m] for m in ("q", "k", "v", "o")),
        "feed-forward": 2 * config.n_layers * sum(size[m] for m in ("gate", "up", "down")),
        "output projection": 2 * config.vocab_size * config.dim,
        "keys and values": 4 * config.n_layers * config.n_heads * config.head_dim * keys,
    }


def training_flops(config: LlamaConfig, seq: int, recompute: Recompute = "none", causal: bool = False) -> Number:
    """FLOPs for each token of a training step on texts of `seq` tokens: forward, backward and recomputation.

    Backward is two products for each one forward: the gradient of its input and that of its weight. "full" computes
    every block a second time, which makes four passes of three (the output projection is not computed again).
    causal: False counts every query with every key, as the usual definition of MFU does (Chowdhery et al., 2022,
    arXiv 2204.02311, appendix B); True counts the half that a causal kernel computes.
    """
    forward = forward_flops(config, (seq + 1) / 2 if causal else seq)
    size = {name: inputs * outputs for name, (inputs, outputs) in matrices(config).items()}
    again = 2 * config.n_layers * sum(size[m] for m in RECOMPUTED[recompute])
    if recompute == "full":
        again += forward["keys and values"]
    return 3 * sum(forward.values()) + again


def decode_intensity(
    config: LlamaConfig, context: int, batch: int = 1, weight_bytes: Number = 2, cache_bytes: Number = 2
) -> Number:
    """FLOPs for each byte read while decoding."""
    read = decode_bytes(config, context, batch, weight_bytes, cache_bytes)
    return batch * sum(forward_flops(config, context).values()) / sum(read.values())


def prefill_intensity(
    config: LlamaConfig, seq: int, batch: int = 1, weight_bytes: Number = 2, cache_bytes: Number = 2
) -> Number:
    """FLOPs for each byte that must move to read prompts of `seq` tokens: all weights once, keys and values out.

    Activations that go to memory and back come on top, so this is an upper bound.
    """
    tokens = batch * seq
    moved = decode_bytes(config, 0, tokens, weight_bytes)  # embedding: one row for each token
    moved["keys and values"] = tokens * cache_bytes_per_token(config, cache_bytes)
    return tokens * sum(forward_flops(config, (seq + 1) / 2).values()) / sum(moved.values())
