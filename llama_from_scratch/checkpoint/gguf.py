"""GGUF, the file format of llama.cpp."""

from pathlib import Path

import torch
from torch import Tensor

from ..config import LlamaConfig
from ..rope import adjacent_to_halves

# GGUF name -> our name; {} is the number of the block.
NAMES = {
    "token_embd.weight": "embedding.weight",
    "blk.{}.attn_norm.weight": "blocks.{}.attention_norm.weight",
    "blk.{}.attn_q.weight": "blocks.{}.attention.q_proj.weight",
    "blk.{}.attn_k.weight": "blocks.{}.attention.k_proj.weight",
    "blk.{}.attn_v.weight": "blocks.{}.attention.v_proj.weight",
    "blk.{}.attn_output.weight": "blocks.{}.attention.o_proj.weight",
    "blk.{}.ffn_norm.weight": "blocks.{}.ffn_norm.weight",
    "blk.{}.ffn_gate.weight": "blocks.{}.feed_forward.gate_proj.weight",
    "blk.{}.ffn_up.weight": "blocks.{}.feed_forward.up_proj.weight",
    "blk.{}.ffn_down.weight": "blocks.{}.feed_forward.down_proj.weight",
    "output_norm.weight": "norm.weight",
    "output.weight": "lm_head.weight",
}


def read_gguf(path: Path, dtype: torch.dtype = torch.float32) -> tuple[LlamaConfig, dict[str, Tensor]]:
    import gguf

    reader = gguf.GGUFReader(path)
    value = lambda key, default=None: reader.fields[key].contents() if key in reader.fields else default
    n_heads, dim = value("llama.attention.head_count"), value("llama.embedding_length")
    tensors = {t.name: t for t in reader.tensors}
    config = LlamaConfig(
        vocab_size=len(reader.fields["tokenizer.ggml.tokens"].data),
        dim=dim,
        n_layers=value("llama.block_count"),
        n_heads=n_heads,
        n_kv_heads=value("llama.attention.head_count_kv", n_heads),
        head_dim=value("llama.rope.dimension_count", dim // n_heads),
        ffn_dim=value("llama.feed_forward_length"),
        norm_eps=round(value("llama.attention.layer_norm_rms_epsilon"), 10),
        rope_theta=value("llama.rope.freq_base", 10000.0),
        max_seq_len=value("llama.context_length"),
        tie_embeddings="output.weight" not in tensors,
    )
    weights = {}
    for name, t in tensors.items():
        parts = name.split(".")
        number = parts[1] if parts[0] == "blk" else ""
        ours = NAMES[name.replace(f"blk.{number}.", "blk.{}.", 1)].format(number)
        weight = torch.from_numpy(gguf.quants.dequantize(t.data, t.tensor_type)).to(dtype)
        if ours.endswith("q_proj.weight"):
            weight = adjacent_to_halves(weight, config.n_heads)
        if ours.endswith("k_proj.weight"):
            weight = adjacent_to_halves(weight, config.n_kv_heads)
        weights[ours] = weight
    return config, weights
