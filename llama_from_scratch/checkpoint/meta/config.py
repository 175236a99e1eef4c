"""params.json of a Meta checkpoint, read into our config and written from it.

Source: ModelArgs and FeedForward in Meta's repositories llama, llama3 and llama-models.
"""

import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ...config import PRESETS, LlamaConfig, RopeScaling
from ...files.errors import CheckpointError
from ..numbers import read_number, read_whole

KNOWN = {"dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "multiple_of", "ffn_dim_multiplier", "norm_eps"}
KNOWN |= {"rope_theta", "use_scaled_rope", "rope_scaling_factor", "max_seq_len", "max_batch_size"}
# Ours, and not Meta's: its loader passes max_seq_len itself, and stumbles over a second one.
CONTEXT = "context_length"

LLAMA_3_VOCAB = 128_000  # Llama 3 and later have at least so many tokens, the older ones 32,000
TRAINED_ON = 8192  # tokens; fixed in Meta's code, as are the two factors of the bands, 1 and 4


def ffn_dim(dim: int, multiple_of: int, multiplier: float | None) -> int:
    """Two thirds of 4 dim, times the multiplier, rounded up to a multiple; each step cuts off the fraction."""
    hidden = int(2 * (4 * dim) / 3)
    if multiplier is not None:
        hidden = int(multiplier * hidden)
    return multiple_of * math.ceil(hidden / multiple_of)


def config_from_params(params: dict[str, Any], vocab_size: int, tied: bool, path: Path) -> LlamaConfig:
    """Our config. A params.json leaves much unsaid; what it leaves out follows from the family.

    vocab_size: rows of the embedding; params.json may say -1 or, older still, nothing. tied: whether the output
    projection is the embedding.
    Raises:
        CheckpointError: naming the key, if it is missing, wrong or not known.
    """
    if unknown := params.keys() - KNOWN - {CONTEXT}:
        raise CheckpointError(
            f"{path}: {sorted(unknown)[0]} is not known, and may change what the weights mean; "
            f"known are {', '.join(sorted(KNOWN))}"
        )
    try:
        return _config(params, vocab_size, tied)
    except (ValueError, ArithmeticError) as error:
        raise CheckpointError(f"{path}: {error}") from None


def _config(params: dict[str, Any], vocab_size: int, tied: bool) -> LlamaConfig:
    whole, number = partial(read_whole, params), partial(read_number, params)
    if params.get("vocab_size", -1) not in (-1, vocab_size):
        raise ValueError(
            f"vocab_size is {params['vocab_size']!r}, and the embedding has {vocab_size} rows; "
            "both must be of one model"
        )
    if params.get("use_scaled_rope") not in (None, False, True):
        raise ValueError(f"use_scaled_rope is {params['use_scaled_rope']!r}; it must be true or false")
    dim, n_heads = whole("dim"), whole("n_heads")
    if dim % n_heads:
        raise ValueError(f"dim is {dim} and n_heads is {n_heads}; dim must be a multiple of n_heads")
    multiplier = None if params.get("ffn_dim_multiplier") is None else number("ffn_dim_multiplier")
    config = LlamaConfig(
        vocab_size=vocab_size,
        dim=dim,
        n_layers=whole("n_layers"),
        n_heads=n_heads,
        n_kv_heads=whole("n_kv_heads", n_heads),
        head_dim=dim // n_heads,
        ffn_dim=ffn_dim(dim, whole("multiple_of", 256), multiplier),
        norm_eps=number("norm_eps", 1e-5),
        rope_theta=number("rope_theta", 500_000.0 if vocab_size >= LLAMA_3_VOCAB else 10_000.0),
        tie_embeddings=tied,
    )
    scaled = bool(params.get("use_scaled_rope"))
    if scaled:
        factor = number("rope_scaling_factor", _factor(config))
        config = replace(config, rope_scaling=RopeScaling("llama3", factor, original_max_seq_len=TRAINED_ON))
    elif params.get("rope_scaling_factor") is not None:
        raise ValueError(
            "rope_scaling_factor is given, and use_scaled_rope is not true; set it, or take the factor out"
        )
    return replace(config, max_seq_len=whole(CONTEXT, whole("max_seq_len", _max_seq_len(config))))


def _factor(config: LlamaConfig) -> float:
    """8, except for the two small models of Llama 3.2, whose params.json says no more than the others do."""
    small = [PRESETS["Llama-3.2-1B"], PRESETS["Llama-3.2-3B"]]
    sizes = (config.dim, config.n_layers, config.n_heads, config.n_kv_heads, config.ffn_dim)
    return 32.0 if sizes in [(c.dim, c.n_layers, c.n_heads, c.n_kv_heads, c.ffn_dim) for c in small] else 8.0


def _max_seq_len(config: LlamaConfig) -> int:
    """That of the released model with these numbers, else of the first model of its family."""
    for known in PRESETS.values():
        if replace(config, max_seq_len=known.max_seq_len) == known:
            return known.max_seq_len
    if config.rope_scaling:
        return 131_072
    return TRAINED_ON if config.vocab_size >= LLAMA_3_VOCAB else 2048


def params_from_config(config: LlamaConfig) -> dict[str, Any]:
    """A params.json that gives this config back.

    Raises:
        CheckpointError: for what Meta's model does not have.
    """
    scaling = config.rope_scaling
    missing = {
        "biases": config.attention_bias or config.ffn_bias,
        f"heads that are {config.head_dim} wide": config.head_dim * config.n_heads != config.dim,
        "RoPE scaling by another rule than llama3": scaling and scaling.kind != "llama3",
    }
    rule = scaling and RopeScaling("llama3", scaling.factor, original_max_seq_len=TRAINED_ON)
    missing[f"RoPE scaling with other numbers than {rule}"] = scaling != rule
    for what, there in missing.items():
        if there:
            raise CheckpointError(
                f"a Meta checkpoint cannot say {what}, which this model has; write the Hugging Face format instead"
            )
    multiple_of, multiplier = _ffn_rule(config.dim, config.ffn_dim)
    params = {
        "dim": config.dim,
        "n_layers": config.n_layers,
        "n_heads": config.n_heads,
        "n_kv_heads": config.n_kv_heads,
        "vocab_size": config.vocab_size,
        "multiple_of": multiple_of,
        "ffn_dim_multiplier": multiplier,
        "norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "use_scaled_rope": scaling is not None,
    }
    if multiplier is None:
        del params["ffn_dim_multiplier"]
    if scaling:
        params["rope_scaling_factor"] = scaling.factor
    if _max_seq_len(config) != config.max_seq_len:
        params[CONTEXT] = config.max_seq_len
    return params


def _ffn_rule(dim: int, wanted: int) -> tuple[int, float | None]:
    """The plainest multiple_of and multiplier from which `ffn_dim` gives the wanted width."""
    multiple_of = math.gcd(wanted, 256)
    if ffn_dim(dim, multiple_of, None) == wanted:
        return multiple_of, None
    ratio = (wanted + 0.5) / int(2 * (4 * dim) / 3)  # half a number more, lest rounding fall below
    shorter = (round(ratio, digits) for digits in range(1, 17))
    return multiple_of, next((short for short in shorter if ffn_dim(dim, multiple_of, short) == wanted), ratio)
