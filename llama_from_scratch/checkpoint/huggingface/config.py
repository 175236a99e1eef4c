"""config.json of a Hugging Face Llama, read into our config and written from it."""

import math
from pathlib import Path
from typing import Any

import torch

from ...config import SCALING_KINDS, LlamaConfig, RopeScaling
from ...files.errors import CheckpointError
from ..numbers import read_number, read_whole

# What our model does; any other value makes another model. A missing key means the first value.
ALLOWED = {
    "model_type": ("llama",),
    "hidden_act": ("silu", "swish"),
    "attention_bias": (False, True, None),
    "mlp_bias": (False, True, None),
    "tie_word_embeddings": (False, True, None),
    "partial_rotary_factor": (1.0, None),
}

ORIGINAL = "original_max_position_embeddings"  # the context length of training


def config_from_json(content: dict[str, Any], path: Path) -> LlamaConfig:
    """Our config. Missing keys mean what they mean to transformers, e.g. 1e-6 for rms_norm_eps.

    Both spellings of RoPE are read: `rope_theta` beside `rope_scaling` (transformers 4; the rule is its `type` or
    `rope_type`), and `rope_parameters` with everything in it (transformers 5).

    Raises:
        CheckpointError: naming the key, if this is not a Llama or has a part that we do not model.
    """
    if content.get("quantization_config") is not None:
        raise CheckpointError(f"{path}: quantization_config is given; use a version of this model in F32, F16 or BF16")
    for key, allowed in ALLOWED.items():
        if (value := content.get(key, allowed[0])) not in allowed:
            raise CheckpointError(f"{path}: {key} is {value!r}; only {' or '.join(map(repr, allowed))} can be loaded")
    # The first that says anything, as in transformers 5.
    rope = content.get("rope_scaling") or content.get("rope_parameters") or {}
    if not isinstance(rope, dict):
        raise CheckpointError(f"{path}: its RoPE settings are {rope!r}; they must be an object in braces")
    if content.get(ORIGINAL) is not None:  # may stand outside its section, and then counts more
        rope = rope | {ORIGINAL: content[ORIGINAL]}
    try:
        return _config(content, rope)
    except (ValueError, ArithmeticError) as error:
        raise CheckpointError(f"{path}: {error}") from None


def _config(content: dict[str, Any], rope: dict[str, Any]) -> LlamaConfig:
    n_heads, dim = read_whole(content, "num_attention_heads"), read_whole(content, "hidden_size")
    max_seq_len = read_whole(content, "max_position_embeddings", 2048)
    scaling = _scaling(rope, max_seq_len)
    if scaling and scaling.kind == "dynamic":  # transformers keeps the training length here and stretches without limit
        max_seq_len = int(scaling.factor * max_seq_len)
    return LlamaConfig(
        vocab_size=read_whole(content, "vocab_size"),
        dim=dim,
        n_layers=read_whole(content, "num_hidden_layers"),
        n_heads=n_heads,
        n_kv_heads=read_whole(content, "num_key_value_heads", n_heads),
        head_dim=read_whole(content, "head_dim", dim // n_heads),
        ffn_dim=read_whole(content, "intermediate_size"),
        norm_eps=read_number(content, "rms_norm_eps", 1e-6),
        rope_theta=read_number(rope, "rope_theta", read_number(content, "rope_theta", 10000.0)),
        rope_scaling=scaling,
        max_seq_len=max_seq_len,
        tie_embeddings=content.get("tie_word_embeddings") is True,
        attention_bias=content.get("attention_bias") is True,
        ffn_bias=content.get("mlp_bias") is True,
    )


def _scaling(rope: dict[str, Any], max_seq_len: int) -> RopeScaling | None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    for key, only in {"truncate": True, "partial_rotary_factor": 1.0}.items():
        if rope.get(key, only) != only:
            raise ValueError(f"RoPE's {key} is {rope[key]!r}; only {only!r} can be loaded")
    if kind == "default":
        return None
    if kind not in SCALING_KINDS:
        raise ValueError(f"RoPE scaling is {kind!r}; known are default, {', '.join(SCALING_KINDS)}")
    given = {"factor": read_number(rope, "factor")}
    if kind == "dynamic":
        given["original_max_seq_len"] = max_seq_len
    if kind in ("llama3", "yarn"):
        given["original_max_seq_len"] = read_whole(rope, ORIGINAL, max_seq_len)
        for key in ("low_freq_factor", "high_freq_factor") if kind == "llama3" else ("beta_fast", "beta_slow"):
            if rope.get(key) is not None:
                given[key] = read_number(rope, key)
    if kind == "yarn":
        given["attention_factor"] = _attention_factor(rope)
    return RopeScaling(kind, **given)


def _attention_factor(rope: dict[str, Any]) -> float | None:
    """Given as such, or as a ratio of two temperatures (DeepSeek's `mscale`), or left to YaRN's formula."""
    if rope.get("attention_factor") is not None:
        return read_number(rope, "attention_factor")
    if not (rope.get("mscale") and rope.get("mscale_all_dim")):
        return None
    log = 0.1 * math.log(max(read_number(rope, "factor"), 1))
    return (read_number(rope, "mscale") * log + 1) / (read_number(rope, "mscale_all_dim") * log + 1)


def config_to_json(config: LlamaConfig, dtype: torch.dtype) -> dict[str, Any]:
    """A config.json that transformers 4 and 5 read, in the spelling of version 4, which both know.

    Raises:
        CheckpointError: for dynamic scaling with max_seq_len other than factor x original_max_seq_len; no key says it.
    """
    max_seq_len, scaling = config.max_seq_len, config.rope_scaling
    if scaling and scaling.kind == "dynamic":
        max_seq_len = scaling.original_max_seq_len
        if int(scaling.factor * max_seq_len) != config.max_seq_len:
            raise CheckpointError(
                f"max_seq_len is {config.max_seq_len}; with dynamic scaling a config.json can only say factor x "
                f"original_max_seq_len, here {int(scaling.factor * max_seq_len)}"
            )
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": config.vocab_size,
        "hidden_size": config.dim,
        "intermediate_size": config.ffn_dim,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        "max_position_embeddings": max_seq_len,
        "rope_theta": config.rope_theta,
        "rope_scaling": _scaling_to_json(scaling),
        "tie_word_embeddings": config.tie_embeddings,
        "attention_bias": config.attention_bias,
        "mlp_bias": config.ffn_bias,
        "bos_token_id": None,  # the tokenizer's business; left out, transformers would assume 1 and 2
        "eos_token_id": None,
        "torch_dtype": str(dtype).removeprefix("torch."),
    }


def _scaling_to_json(scaling: RopeScaling | None) -> dict[str, Any] | None:
    if scaling is None:
        return None
    if scaling.kind in ("linear", "dynamic"):  # the two oldest: early versions want exactly these two keys
        return {"type": scaling.kind, "factor": scaling.factor}
    section = {
        "rope_type": scaling.kind,
        "factor": scaling.factor,
        ORIGINAL: scaling.original_max_seq_len,
    }
    if scaling.kind == "llama3":
        return section | {"low_freq_factor": scaling.low_freq_factor, "high_freq_factor": scaling.high_freq_factor}
    section |= {"beta_fast": scaling.beta_fast, "beta_slow": scaling.beta_slow}
    return section | ({} if scaling.attention_factor is None else {"attention_factor": scaling.attention_factor})
