"""The metadata keys of a GGUF Llama, read into our config and written from it.

Format: ggml/docs/gguf.md in the llama.cpp repository.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ...config import LlamaConfig, RopeScaling
from ...files.errors import CheckpointError
from ...rope import rope_frequencies, scaled_frequencies, yarn_attention_factor
from ..numbers import read_number, read_whole

SCALING = "llama.rope.scaling."
SETTINGS = {  # of linear and yarn: GGUF's words and ours
    "factor": "factor",
    "original_context_length": "original_max_seq_len",
    "yarn_beta_fast": "beta_fast",
    "yarn_beta_slow": "beta_slow",
    "attn_factor": "attention_factor",
}
LLAMA3_CONTEXT = 8192  # tokens that Llama 3.1 was trained on; the files of Llama 3.1 to 3.3 do not say so


def config_from_fields(
    path: Path,
    fields: Mapping[str, Any],
    vocab_size: int,
    tensors: Collection[str],
    divisors: Float[Tensor, " any_half"] | None,
) -> LlamaConfig:
    """Our config, from all keys that begin with "llama.", the names of the tensors, and `rope_freqs.weight` if any.

    Raises:
        CheckpointError: naming the key, if no Llama can have it.
    """

    def whole(key: str, default: int | None = None) -> int:
        return read_whole(fields, f"llama.{key}", default)

    def number(key: str, default: float | None = None) -> float:
        return _short(read_number(fields, f"llama.{key}", default))

    def biased(part: str) -> bool:
        return any(name.endswith(".bias") and f".{part}_" in name for name in tensors)

    try:
        dim, n_heads = whole("embedding_length"), whole("attention.head_count")
        head_dim = whole("attention.key_length", whole("rope.dimension_count", dim // n_heads))
        for key in ("attention.value_length", "rope.dimension_count"):
            if whole(key, head_dim) != head_dim:
                raise ValueError(f"llama.{key} is {whole(key)} and heads are {head_dim} wide; they must be equal")
        config = LlamaConfig(
            vocab_size=vocab_size,
            dim=dim,
            n_layers=whole("block_count"),
            n_heads=n_heads,
            n_kv_heads=whole("attention.head_count_kv", n_heads),
            head_dim=head_dim,
            ffn_dim=whole("feed_forward_length"),
            norm_eps=number("attention.layer_norm_rms_epsilon"),
            rope_theta=number("rope.freq_base", 10000.0),
            max_seq_len=whole("context_length"),
            tie_embeddings="output.weight" not in tensors,
            attention_bias=biased("attn"),
            ffn_bias=biased("ffn"),
        )
        return replace(config, rope_scaling=_scaling(path, fields, divisors, config))
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None


def _short(number: Any) -> Any:
    """The shortest decimal with this fp32 value: 1e-5, not 9.999999747378752e-06."""
    return float(str(np.float32(number))) if isinstance(number, float) else number


def _scaling(
    path: Path, fields: Mapping[str, Any], divisors: Float[Tensor, " any_half"] | None, config: LlamaConfig
) -> RopeScaling | None:
    prefix = "llama.rope.scal"  # catches the older llama.rope.scale_linear, too
    given = {key.rsplit(".", 1)[-1]: _short(value) for key, value in fields.items() if key.startswith(prefix)}
    given.pop("finetuned", None)
    kind = given.pop("type", "none")
    if divisors is not None and kind == "none":
        return _llama3_scaling(path, divisors, config, given.get("original_context_length", LLAMA3_CONTEXT))
    if kind == "none" and not given:
        return None
    known = all(key in SETTINGS and type(number) in (int, float) for key, number in given.items())
    if divisors is not None or kind not in ("linear", "yarn") or "factor" not in given or not known:
        raise CheckpointError(
            f"{path}: RoPE scaling {kind!r} with {given or 'no settings'} is not known; "
            f"known are rope_freqs.weight alone, and 'linear' or 'yarn' with {', '.join(SETTINGS)}"
        )
    scaling = RopeScaling(kind, **{SETTINGS[key]: number for key, number in given.items()})
    if scaling.attention_factor is None:
        return scaling
    # `attn_factor` in the file comes on top of YaRN's own.
    return replace(
        scaling, attention_factor=float(f"{scaling.attention_factor * yarn_attention_factor(scaling.factor):.7g}")
    )


def _llama3_scaling(
    path: Path, divisors: Float[Tensor, " any_half"], config: LlamaConfig, training_context: Any
) -> RopeScaling:
    """Llama 3.1 and later store no rule, only the number that each frequency is divided by. The slowest are divided by
    `factor`, which gives the rule; it is accepted if it explains all the others."""
    if len(divisors) == config.head_dim // 2 and type(training_context) is int:
        scaling = RopeScaling("llama3", float(divisors[-1]), original_max_seq_len=training_context)
        expected, _ = scaled_frequencies(config.head_dim, config.rope_theta, scaling)
        if torch.allclose(rope_frequencies(config.head_dim, config.rope_theta) / divisors, expected, rtol=1e-4, atol=0):
            return scaling
    raise CheckpointError(
        f"{path}: rope_freqs.weight does not follow the rule of Llama 3.1 for a training context "
        f"of {training_context}, the only rule that can be read from it; use the Hugging Face version of this model"
    )


def config_to_fields(config: LlamaConfig) -> dict[str, int | float | str]:
    """The keys that llama.cpp's converter writes for this config. Floats are stored in fp32."""
    fields = {
        "llama.vocab_size": config.vocab_size,
        "llama.context_length": config.max_seq_len,
        "llama.embedding_length": config.dim,
        "llama.block_count": config.n_layers,
        "llama.feed_forward_length": config.ffn_dim,
        "llama.attention.head_count": config.n_heads,
        "llama.attention.head_count_kv": config.n_kv_heads,
        "llama.attention.key_length": config.head_dim,
        "llama.attention.value_length": config.head_dim,
        "llama.attention.layer_norm_rms_epsilon": config.norm_eps,
        "llama.rope.dimension_count": config.head_dim,
        "llama.rope.freq_base": config.rope_theta,
    }
    scaling = config.rope_scaling
    if scaling is None:
        return fields
    if scaling.kind == "llama3":  # the divisors say the rest
        return fields | {SCALING + "original_context_length": scaling.original_max_seq_len}
    fields[SCALING + "type"] = scaling.kind
    settings = asdict(scaling)
    if scaling.attention_factor is not None:
        settings["attention_factor"] /= yarn_attention_factor(scaling.factor)
    for key, ours in SETTINGS.items():
        if settings[ours] is not None and (scaling.kind == "yarn" or ours in ("factor", "original_max_seq_len")):
            fields[SCALING + key] = settings[ours]
    return fields


def rope_divisors(config: LlamaConfig) -> Float[Tensor, " half"] | None:
    """rope_freqs.weight: what each frequency is divided by, if the scaling is that of Llama 3.1."""
    if config.rope_scaling is None or config.rope_scaling.kind != "llama3":
        return None
    scaled, _ = scaled_frequencies(config.head_dim, config.rope_theta, config.rope_scaling)
    return rope_frequencies(config.head_dim, config.rope_theta) / scaled


def check_sayable(path: Path, config: LlamaConfig, tensors: Collection[str]) -> None:
    """Refuse a config that would be another one when it is read back; what fp32 rounds counts as the same.

    `tensors` are the names of the tensors that the file will hold.

    Raises:
        CheckpointError: naming what a GGUF file cannot say.
    """
    advice = "write safetensors to keep this config"
    if config.rope_scaling and config.rope_scaling.kind == "dynamic":
        raise CheckpointError(f"{path}: a GGUF file cannot say that RoPE scaling is 'dynamic'; {advice}")
    fields = {key: _as_stored(value) for key, value in config_to_fields(config).items()}
    try:
        told = config_from_fields(path, fields, config.vocab_size, tensors, rope_divisors(config))
    except CheckpointError as error:
        raise CheckpointError(f"{error}; {advice}") from None
    for (name, value), other in zip(_flat(config).items(), _flat(told).values(), strict=True):
        if other != value and not (isinstance(value, float) and math.isclose(value, other, rel_tol=1e-6)):
            raise CheckpointError(f"{path}: {name} is {value!r}, and a GGUF file would say {other!r}; {advice}")


def _as_stored(value: int | float | str) -> int | float | str:
    if isinstance(value, float):
        with np.errstate(over="ignore"):
            return float(np.float32(value))
    return min(value, 2**32 - 1) if isinstance(value, int) else value


def _flat(config: LlamaConfig) -> dict[str, Any]:
    fields = asdict(config)
    return fields | (fields.pop("rope_scaling") or {})
