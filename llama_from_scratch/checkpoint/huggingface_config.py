"""config.json of a Hugging Face Llama, read into our config and written from it."""

import math
from pathlib import Path
from typing import Any

import torch

from ..config import LlamaConfig, RopeScaling
from .stored import CheckpointError

# What our model does; any other value is another model. A missing key means the first value.
REQUIRED = {
    "model_type": ("llama",),
    "hidden_act": ("silu", "swish"),
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "quantization_config": (None,),
}


def config_from_json(content: dict[str, Any], path: Path) -> LlamaConfig:
    """Our config. Missing keys mean what they mean to transformers, e.g. 1e-6 for rms_norm_eps.

    Both spellings of RoPE are read: `rope_theta` beside `rope_scaling` (transformers 4; the rule is its `type` or
    `rope_type`), and `rope_parameters` with everything in it (transformers 5).

    Raises:
        CheckpointError: naming the key, if this is not a Llama or has a part that we do not model.
    """
    for key, allowed in REQUIRED.items():
        if (value := content.get(key, allowed[0])) not in allowed:
            raise CheckpointError(f"{path}: {key} is {value!r}; only {allowed[0]!r} can be loaded")

    def number(key: str, default: Any = None, section: dict = content) -> Any:
        value = default if section.get(key) is None else section[key]
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise CheckpointError(f"{path}: {key} is {value!r}; it must be a number")
        return value

    rope = content.get("rope_parameters") or content.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        raise CheckpointError(f"{path}: its RoPE settings are {rope!r}; they must be an object in braces")
    max_seq_len = number("max_position_embeddings", 2048)
    n_heads, dim = number("num_attention_heads"), number("hidden_size")
    try:
        scaling = _scaling(rope, number, content.get("original_max_position_embeddings") or max_seq_len)
        if (
            scaling and scaling.kind == "dynamic"
        ):  # transformers keeps the training length here, and stretches without limit
            max_seq_len = int(scaling.factor * max_seq_len)
        return LlamaConfig(
            vocab_size=number("vocab_size"),
            dim=dim,
            n_layers=number("num_hidden_layers"),
            n_heads=n_heads,
            n_kv_heads=number("num_key_value_heads", n_heads),
            head_dim=number("head_dim", dim // max(n_heads, 1)),
            ffn_dim=number("intermediate_size"),
            norm_eps=number("rms_norm_eps", 1e-6),
            rope_theta=number("rope_theta", number("rope_theta", 10000.0), rope),
            rope_scaling=scaling,
            max_seq_len=max_seq_len,
            tie_embeddings=bool(content.get("tie_word_embeddings", False)),
        )
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None


def _scaling(rope: dict[str, Any], number: Any, max_seq_len: int) -> RopeScaling | None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if rope.get("partial_rotary_factor", 1.0) != 1.0 or rope.get("truncate", True) is not True:
        raise ValueError("RoPE with partial_rotary_factor or without truncate is not modelled here")
    if kind == "default":
        return None
    given = {"factor": number("factor", section=rope)}
    if kind == "dynamic":
        given["original_max_seq_len"] = max_seq_len
    if kind in ("llama3", "yarn"):
        given["original_max_seq_len"] = number("original_max_position_embeddings", max_seq_len, rope)
        for key in ("low_freq_factor", "high_freq_factor") if kind == "llama3" else ("beta_fast", "beta_slow"):
            if rope.get(key) is not None:
                given[key] = number(key, section=rope)
    if kind == "yarn":
        given["attention_factor"] = _attention_factor(rope, number)
    return RopeScaling(kind, **given)


def _attention_factor(rope: dict[str, Any], number: Any) -> float | None:
    """Given as such, or as a ratio of two temperatures (DeepSeek's `mscale`), or left to YaRN's formula."""
    if rope.get("attention_factor") is not None:
        return number("attention_factor", section=rope)
    if not (rope.get("mscale") and rope.get("mscale_all_dim")):
        return None
    log = 0.1 * math.log(max(number("factor", section=rope), 1))
    return (number("mscale", section=rope) * log + 1) / (number("mscale_all_dim", section=rope) * log + 1)


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
        "attention_bias": False,
        "mlp_bias": False,
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
        "original_max_position_embeddings": scaling.original_max_seq_len,
    }
    if scaling.kind == "llama3":
        return section | {"low_freq_factor": scaling.low_freq_factor, "high_freq_factor": scaling.high_freq_factor}
    section |= {"beta_fast": scaling.beta_fast, "beta_slow": scaling.beta_slow}
    return section | ({} if scaling.attention_factor is None else {"attention_factor": scaling.attention_factor})
