"""One table of names: each layer that holds weights in our model, in Hugging Face, Meta and GGUF files.

In all four, a weight is called by its layer and ".weight", and a bias by its layer and ".bias".
"""

import re

from ..config import LlamaConfig

# {} stands for the number of the block.
# fmt: off
# ruff: noqa: E501
NAMES = [
    # ours                                 Hugging Face                                  Meta                          GGUF
    ("embedding",                          "model.embed_tokens",                         "tok_embeddings",             "token_embd"),
    ("blocks.{}.attention_norm",           "model.layers.{}.input_layernorm",            "layers.{}.attention_norm",   "blk.{}.attn_norm"),
    ("blocks.{}.attention.q_proj",         "model.layers.{}.self_attn.q_proj",           "layers.{}.attention.wq",     "blk.{}.attn_q"),
    ("blocks.{}.attention.k_proj",         "model.layers.{}.self_attn.k_proj",           "layers.{}.attention.wk",     "blk.{}.attn_k"),
    ("blocks.{}.attention.v_proj",         "model.layers.{}.self_attn.v_proj",           "layers.{}.attention.wv",     "blk.{}.attn_v"),
    ("blocks.{}.attention.o_proj",         "model.layers.{}.self_attn.o_proj",           "layers.{}.attention.wo",     "blk.{}.attn_output"),
    ("blocks.{}.ffn_norm",                 "model.layers.{}.post_attention_layernorm",   "layers.{}.ffn_norm",         "blk.{}.ffn_norm"),
    ("blocks.{}.feed_forward.gate_proj",   "model.layers.{}.mlp.gate_proj",              "layers.{}.feed_forward.w1",  "blk.{}.ffn_gate"),
    ("blocks.{}.feed_forward.up_proj",     "model.layers.{}.mlp.up_proj",                "layers.{}.feed_forward.w3",  "blk.{}.ffn_up"),
    ("blocks.{}.feed_forward.down_proj",   "model.layers.{}.mlp.down_proj",              "layers.{}.feed_forward.w2",  "blk.{}.ffn_down"),
    ("norm",                               "model.norm",                                 "norm",                       "output_norm"),
    ("lm_head",                            "lm_head",                                    "output",                     "output"),
]
# fmt: on
FROM_HUGGING_FACE = {theirs: ours for ours, theirs, _, _ in NAMES}
TO_HUGGING_FACE = {ours: theirs for ours, theirs, _, _ in NAMES}
FROM_META = {theirs: ours for ours, _, theirs, _ in NAMES}
TO_META = {ours: theirs for ours, _, theirs, _ in NAMES}
FROM_GGUF = {theirs: ours for ours, _, _, theirs in NAMES}
TO_GGUF = {ours: theirs for ours, _, _, theirs in NAMES}


def translate(name: str, table: dict[str, str]) -> str:
    """The name in the other column, block number and ending carried over; a name that the table lacks stays as it is."""
    layer, dot, kind = name.rpartition(".")
    number = re.search(r"\.(\d+)\.", layer)
    if number:
        layer = layer[: number.start(1)] + "{}" + layer[number.end(1) :]
    if layer not in table:
        return name
    return table[layer].format(number and number[1]) + dot + kind


def rotated_heads(name: str, config: LlamaConfig) -> int | None:
    """Heads in this weight or bias, if it is of queries or keys: their rows stand in adjacent pairs in
    Meta's and in GGUF files."""
    heads = {".q_proj.": config.n_heads, ".k_proj.": config.n_kv_heads}
    return next((n for part, n in heads.items() if part in name), None)
