"""GGUF and Meta files for tests, written without our own code, and what it costs to load a file.

Our own tables of names and permutations take no part.
"""

import json
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import torch
import transformers
from reference import to_meta_rows

TYPES = gguf.GGMLQuantizationType


def hf_weights(theirs: transformers.LlamaForCausalLM) -> dict[str, torch.Tensor]:
    """Every weight under its name in transformers; a tied lm_head is left out."""
    return {name: weight.detach().clone() for name, weight in theirs.named_parameters()}


def write_gguf(
    path: Path,
    config: transformers.LlamaConfig,
    weights: dict[str, torch.Tensor],  # by their names in transformers; what is no Llama's keeps its name
    stored_type: gguf.GGMLQuantizationType = TYPES.F32,
    *,
    architecture: str = "llama",
    extra: dict[str, int | float | str | list] | None = None,  # metadata to add or change; None removes a key
    endian: gguf.GGUFEndian = gguf.GGUFEndian.LITTLE,
    raw: dict[str, tuple[np.ndarray, gguf.GGMLQuantizationType]] | None = None,  # bytes and type instead of a weight
) -> Path:
    """A GGUF file as llama.cpp's converter writes it: q and k rows in adjacent pairs, norms in F32."""
    writer = gguf.GGUFWriter(path, architecture, endianess=endian)
    metadata = {
        "llama.block_count": config.num_hidden_layers,
        "llama.context_length": config.max_position_embeddings,
        "llama.embedding_length": config.hidden_size,
        "llama.feed_forward_length": config.intermediate_size,
        "llama.attention.head_count": config.num_attention_heads,
        "llama.attention.head_count_kv": config.num_key_value_heads,
        "llama.attention.key_length": config.head_dim,
        "llama.attention.value_length": config.head_dim,
        "llama.attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "llama.rope.freq_base": config.rope_parameters["rope_theta"],
        "llama.rope.dimension_count": config.head_dim,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": [f"token {i}" for i in range(config.vocab_size)],
        "tokenizer.ggml.token_type": list(range(config.vocab_size)),
        **(extra or {}),
    }
    for key, value in metadata.items():
        if isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, list):
            writer.add_array(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif value is not None:
            writer.add_uint32(key, value)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, weight in weights.items():
        if ".q_proj." in name or ".k_proj." in name:
            weight = to_meta_rows(weight, config.head_dim)
        theirs = names.get_name(name, try_suffixes=(".weight", ".bias")) or name
        if name in (raw or {}):
            writer.add_tensor(theirs, raw[name][0], raw_dtype=raw[name][1])
            continue
        kind = stored_type if weight.dim() == 2 else TYPES.F32
        data = weight.numpy()
        if data.dtype == np.float32:
            with np.errstate(all="ignore"):  # some tests want NaN
                data = gguf.quants.quantize(data, kind)
        writer.add_tensor(theirs, data, raw_dtype=None if kind in (TYPES.F32, TYPES.F16) else kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


META_NAMES = {
    "embed_tokens": "tok_embeddings",
    "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
    "lm_head": "output",
}


def write_meta(
    folder: Path,
    config: transformers.LlamaConfig,
    weights: dict[str, torch.Tensor],  # by their names in transformers
    params: dict,  # content of params.json, beside the sizes
    *,
    n_shards: int = 1,
    embedding_dimension: int = 1,  # that is divided among the files: 1 in Llama 1 and 2, 0 in Llama 3
) -> Path:
    """A folder as Meta publishes its models: one .pth file for each GPU, q and k rows in adjacent pairs."""
    folder.mkdir(parents=True, exist_ok=True)
    sizes = {"dim": config.hidden_size, "n_layers": config.num_hidden_layers, "n_heads": config.num_attention_heads}
    (folder / "params.json").write_text(json.dumps(sizes | {"norm_eps": config.rms_norm_eps} | params))
    shards = [{"rope.freqs": torch.ones(config.head_dim // 2)} for _ in range(n_shards)]
    for name, weight in weights.items():
        if "q_proj" in name or "k_proj" in name:
            weight = to_meta_rows(weight, config.head_dim)
        layer = name.removeprefix("model.").removesuffix(".weight")
        for theirs, metas in META_NAMES.items():
            layer = layer.replace(theirs, metas)
        dimension = embedding_dimension if layer == "tok_embeddings" else int(layer.endswith((".wo", ".w2")))
        parts = [weight] * n_shards if weight.dim() == 1 else weight.chunk(n_shards, dimension)
        for shard, part in zip(shards, parts, strict=True):
            shard[f"{layer}.weight"] = part.clone()
    for i, shard in enumerate(shards):
        torch.save(shard, folder / f"consolidated.0{i}.pth")
    return folder


PEAK = """
import sys, torch
from pathlib import Path
from llama_from_scratch.checkpoint import describe, load_model
peak = lambda: int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
found = describe(sys.argv[1])
before = peak()
dtype = getattr(torch, sys.argv[2])
model = load_model(sys.argv[1], dtype=dtype)
print(peak() - before, found.memory(dtype), found.n_bytes)
"""


def memory_of_loading(name, dtype: str = "float32") -> tuple[int, int, int]:
    """Bytes: what loading adds to the peak of its own process, the parameters in `dtype`, the tensors in the file."""
    run = subprocess.run([sys.executable, "-c", PEAK, str(name), dtype], capture_output=True, text=True, check=True)
    taken, parameters, stored = map(int, run.stdout.split())
    return taken, parameters, stored
