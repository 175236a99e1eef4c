"""One table of names: each weight in our model, in Hugging Face files and in GGUF files."""

import re

# {} stands for the number of the block.
# fmt: off
# ruff: noqa: E501
NAMES = [
    # ours                                        Hugging Face                                         GGUF
    ("embedding.weight",                          "model.embed_tokens.weight",                        "token_embd.weight"),
    ("blocks.{}.attention_norm.weight",           "model.layers.{}.input_layernorm.weight",           "blk.{}.attn_norm.weight"),
    ("blocks.{}.attention.q_proj.weight",         "model.layers.{}.self_attn.q_proj.weight",          "blk.{}.attn_q.weight"),
    ("blocks.{}.attention.k_proj.weight",         "model.layers.{}.self_attn.k_proj.weight",          "blk.{}.attn_k.weight"),
    ("blocks.{}.attention.v_proj.weight",         "model.layers.{}.self_attn.v_proj.weight",          "blk.{}.attn_v.weight"),
    ("blocks.{}.attention.o_proj.weight",         "model.layers.{}.self_attn.o_proj.weight",          "blk.{}.attn_output.weight"),
    ("blocks.{}.ffn_norm.weight",                 "model.layers.{}.post_attention_layernorm.weight",  "blk.{}.ffn_norm.weight"),
    ("blocks.{}.feed_forward.gate_proj.weight",   "model.layers.{}.mlp.gate_proj.weight",             "blk.{}.ffn_gate.weight"),
    ("blocks.{}.feed_forward.up_proj.weight",     "model.layers.{}.mlp.up_proj.weight",               "blk.{}.ffn_up.weight"),
    ("blocks.{}.feed_forward.down_proj.weight",   "model.layers.{}.mlp.down_proj.weight",             "blk.{}.ffn_down.weight"),
    ("norm.weight",                               "model.norm.weight",                                "output_norm.weight"),
    ("lm_head.weight",                            "lm_head.weight",                                   "output.weight"),
]
# fmt: on
FROM_HUGGING_FACE = {theirs: ours for ours, theirs, _ in NAMES}
TO_HUGGING_FACE = {ours: theirs for ours, theirs, _ in NAMES}
FROM_GGUF = {theirs: ours for ours, _, theirs in NAMES}


def translate(name: str, table: dict[str, str]) -> str:
    """The name in the other column, block number carried over; a name that the table lacks is returned as it is."""
    block = re.search(r"\.(\d+)\.", name)
    if block is None:
        return table.get(name, name)
    pattern = name[: block.start(1)] + "{}" + name[block.end(1) :]
    return table[pattern].format(block[1]) if pattern in table else name
