"""Checkpoints that are broken, hostile or not ours: for each format a table, how it is made from a healthy one -> what
the error must say."""

import json
import os
import pickle
import struct
import zipfile
from dataclasses import replace
from functools import cache

import gguf
import torch
from checkpoint_files import hf_weights, write_gguf, write_meta
from reference import random_hf
from safetensors.torch import load_file, save_file

from llama_from_scratch import LlamaConfig
from llama_from_scratch.tokenizer import Tokenizer
from llama_from_scratch.tokenizer.byte_table import to_bytes
from llama_from_scratch.tokenizer.split import GPT2

TINY = LlamaConfig(vocab_size=32, dim=32, n_layers=2, n_heads=2, n_kv_heads=1, head_dim=16, ffn_dim=32)
UP, NORM = "model.layers.1.mlp.up_proj.weight", "model.layers.1.input_layernorm.weight"
SPELLED = [*"abcdefghijklmnopqrstuvwxyzĠĊ.,!", "<|endoftext|>"]
random_model = cache(random_hf)
LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 134515008\n"
WEB_PAGE = b"<!DOCTYPE html>\n<html><head><title>Not found</title></head></html>"


def tiny_tokenizer(**settings):
    """32 tokens, one of them special."""
    pieces = [*map(to_bytes, SPELLED[:-1]), SPELLED[-1].encode()]
    return Tokenizer(pieces, {}, {SPELLED[-1]: 31}, (GPT2,), eos_id=31, **settings)


def healthy_checkpoints(home):
    """model.gguf, hf/ and meta/, which load and write."""
    gguf_with(home)
    random_model(TINY).save_pretrained(home / "hf")
    theirs = random_model(META_TINY)
    write_meta(home / "meta", theirs.config, hf_weights(theirs), META_PARAMS, n_shards=2)
    for folder in ("hf", "meta"):
        tiny_tokenizer(chat_template=TEMPLATE).save(home / folder)


TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"

# GGUF


def gguf_with(folder, weights=None, **options):
    """A GGUF file of a tiny model; `weights` adds or changes some, None removes one."""
    theirs = random_model(TINY)
    tensors = {k: v for k, v in (hf_weights(theirs) | (weights or {})).items() if v is not None}
    tokenizer = {
        key: value for key, value in tiny_tokenizer(chat_template=TEMPLATE).gguf_fields().items() if value != []
    }
    extra = tokenizer | options.pop("extra", {})
    return write_gguf(folder / "model.gguf", theirs.config, tensors, extra=extra, **options)


def metadata(**values):
    """A maker of files with these metadata entries; __ stands for a dot."""
    extra = {"llama." + key.replace("__", "."): value for key, value in values.items()}
    return lambda folder: gguf_with(folder, extra=extra)


def tensors(**weights):
    return lambda folder: gguf_with(folder, weights={name.replace("__", "."): w for name, w in weights.items()})


def bytes_at(position, new):
    def make(folder):
        path = gguf_with(folder)
        content = bytearray(path.read_bytes())
        content[position : position + len(new)] = new
        path.write_bytes(content)
        return path

    return make


def replaced(old, new):
    """A healthy file in which these bytes, which occur once, are others."""

    def make(folder):
        path = gguf_with(folder)
        content = path.read_bytes()
        assert content.count(old) == 1
        path.write_bytes(content.replace(old, new))
        return path

    return make


def content(data):
    def make(folder):
        (folder / "model.gguf").write_bytes(data)
        return folder / "model.gguf"

    return make


def ruined(name, value, kind=gguf.GGMLQuantizationType.F32):
    """One number of one weight is `value`."""

    def make(folder):
        weight = hf_weights(random_model(TINY))[name]
        weight.view(-1)[-1] = value
        return gguf_with(folder, {name: weight}, stored_type=kind)

    return make


U64 = struct.Struct("<Q").pack
UP_DIMENSIONS = b"blk.1.ffn_up.weight" + struct.pack("<IQQ", 2, 32, 32)

GGUF_FILES = {
    "empty": (content(b""), "not a whole GGUF file"),
    "three bytes": (content(b"GGU"), "not a whole GGUF file .*ends after 3 bytes"),
    "a Git LFS pointer": (content(LFS_POINTER), "not a whole GGUF file .it is a Git LFS pointer, .*; run git lfs pull"),
    "a web page": (content(WEB_PAGE), "not a whole GGUF file .it is a web page.; download the file itself"),
    "a safetensors file": (
        content(U64(14) + b'{"a":{"x":[]}}'),
        "not a whole GGUF file .it is a safetensors file.; give it a name that ends in .safetensors",
    ),
    "one part of three": (
        lambda folder: gguf_with(folder, extra={"split.count": 3, "split.no": 0}),
        "is one of 3 parts of a model; run llama.cpp's llama-gguf-split --merge",
    ),
    "wrong magic": (bytes_at(0, b"GGML"), "not a whole GGUF file .*first four bytes are not GGUF"),
    "text": (
        content(b"Once upon a time there was a llama.\n" * 99),
        "not a whole GGUF file .*first four bytes are not GGUF",
    ),
    "version 99": (bytes_at(4, struct.pack("<I", 99)), "its version is 99, and only versions 2 and 3"),
    "big-endian": (lambda folder: gguf_with(folder, endian=gguf.GGUFEndian.BIG), "big-endian"),
    "2^63 tensors": (bytes_at(8, U64(2**63)), "not a whole GGUF file"),
    "2^63 metadata entries": (bytes_at(16, U64(2**63)), "not a whole GGUF file"),
    "2^60 numbers in an array": (
        replaced(b"token_type" + struct.pack("<IIQ", 9, 5, 32), b"token_type" + struct.pack("<IIQ", 9, 5, 2**60)),
        "not a whole GGUF file .*is needed",
    ),
    "2^60 strings in an array": (
        replaced(b"tokens" + struct.pack("<IIQ", 9, 8, 32), b"tokens" + struct.pack("<IIQ", 9, 8, 2**60)),
        "not a whole GGUF file .*is needed",
    ),
    "tensor of 2^40 rows": (
        replaced(UP_DIMENSIONS, b"blk.1.ffn_up.weight" + struct.pack("<IQQ", 2, 32, 2**40)),
        "not a whole GGUF file .*is needed",
    ),
    "tensor whose size overflows": (
        replaced(UP_DIMENSIONS, b"blk.1.ffn_up.weight" + struct.pack("<IQQ", 2, 2**32, 2**32)),
        "not a whole GGUF file",
    ),
    "unknown stored type": (
        replaced(UP_DIMENSIONS + struct.pack("<I", 0), UP_DIMENSIONS + struct.pack("<I", 999)),
        "not a whole GGUF file .*999",
    ),
    "type that cannot be decoded": (
        tensors(**{UP: torch.zeros(32, 32, dtype=torch.int32)}),
        "ffn_up.weight is stored as I32, which the package gguf cannot decode; use a file with F32, F16",
    ),
    "other architecture": (
        lambda folder: gguf_with(folder, architecture="qwen2"),
        "architecture 'qwen2'; only 'llama'",
    ),
    "no embedding": (tensors(**{"model.embed_tokens.weight": None}), "token_embd.weight is missing"),
    "no number of blocks": (metadata(block_count=None), "llama.block_count is missing; it must be a whole number"),
    "no heads": (metadata(attention__head_count=0), "llama.attention.head_count is 0; it must be a whole number"),
    "heads as text": (metadata(attention__head_count="two"), "llama.attention.head_count is 'two'"),
    "heads by layer": (metadata(attention__head_count=[2, 1]), r"head_count is \[2, 1\]"),
    "heads that do not divide": (metadata(attention__head_count_kv=3), "n_heads must be a multiple of n_kv_heads"),
    "odd heads": (
        metadata(attention__key_length=15, attention__value_length=15, rope__dimension_count=15),
        "head_dim is 15; it must be even",
    ),
    "values of another width": (metadata(attention__value_length=8), "value_length is 8 and heads are 16 wide"),
    "half of each head is turned": (metadata(rope__dimension_count=8), "dimension_count is 8 and heads are 16 wide"),
    "no epsilon": (
        metadata(attention__layer_norm_rms_epsilon=None),
        "layer_norm_rms_epsilon is missing; it must be a finite number",
    ),
    "epsilon is NaN": (metadata(attention__layer_norm_rms_epsilon=float("nan")), "rms_epsilon is nan"),
    "theta is text": (metadata(rope__freq_base="big"), "freq_base is 'big'; it must be a finite number"),
    "four billion blocks": (metadata(block_count=2**32 - 1), "4294967295 blocks, but it holds only 21 tensors"),
    "huge width": (metadata(feed_forward_length=2**32 - 1), r"shape \(32, 32\); its config needs \(4294967295, 32\)"),
    "impossible width": (
        metadata(embedding_length=2**31, feed_forward_length=2**32 - 1),
        "impossible model|its config needs",
    ),
    "tensor missing": (tensors(**{UP: None}), "blk.1.ffn_up.weight is missing"),
    "block missing": (metadata(block_count=3), "blk.2.*and 6 more are missing"),
    "tensor too many": (
        tensors(**{"blk.0.attn_sinks.weight": torch.zeros(32)}),
        "blk.0.attn_sinks.weight is not part of a Llama with this config",
    ),
    "name of one word": (tensors(extra=torch.zeros(32)), "extra is not part of a Llama with this config"),
    "one bias of many": (tensors(**{"blk.0.attn_q.bias": torch.zeros(32)}), "attn_k.bias.*and 4 more are missing"),
    "block too many": (metadata(block_count=1), "blk.1.*and 6 more are not part of a Llama"),
    "mis-shaped": (
        tensors(**{UP: torch.zeros(64, 32)}),
        r"ffn_up.weight has shape \(64, 32\); its config needs \(32, 32\)",
    ),
    "transposed by mistake": (
        tensors(**{"model.layers.0.self_attn.v_proj.weight": torch.zeros(32, 16)}),
        r"attn_v.weight has shape \(32, 16\); its config needs \(16, 32\)",
    ),
    "vector for matrix": (tensors(**{UP: torch.zeros(32)}), r"has shape \(32,\); its config needs \(32, 32\)"),
    "embedding is a vector": (tensors(**{"model.embed_tokens.weight": torch.zeros(32)}), "not a matrix"),
    "NaN": (ruined(UP, float("nan")), "ffn_up.weight holds NaN or infinite numbers; download the file again"),
    "NaN in a norm": (
        ruined(NORM, float("nan")),
        "attn_norm.weight holds NaN or infinite numbers; download the file again",
    ),
    "infinity": (ruined(UP, float("inf")), "ffn_up.weight holds NaN or infinite numbers; download the file again"),
    "minus infinity": (
        ruined(UP, float("-inf")),
        "ffn_up.weight holds NaN or infinite numbers; download the file again",
    ),
    "NaN in a quantised block": (
        ruined(UP, float("inf"), gguf.GGMLQuantizationType.Q8_0),
        "ffn_up.weight holds NaN or infinite numbers; download the file again",
    ),
    "frequencies that follow no rule": (
        tensors(**{"rope_freqs.weight": torch.tensor([1.0, 5.0, 2.0, 1, 1, 1, 1, 8])}),
        "rope_freqs.weight does not follow the rule of Llama 3.1",
    ),
    "frequencies of another width": (
        tensors(**{"rope_freqs.weight": torch.ones(4)}),
        "rope_freqs.weight does not follow the rule of Llama 3.1",
    ),
    "frequencies in a matrix": (
        tensors(**{"rope_freqs.weight": torch.ones(2, 4)}),
        "rope_freqs.weight is not a vector",
    ),
    "frequencies divided by zero": (tensors(**{"rope_freqs.weight": torch.zeros(8)}), "factor is 0.0"),
    "unknown scaling": (
        metadata(rope__scaling__type="longrope", rope__scaling__factor=4.0),
        "RoPE scaling 'longrope'.* known are",
    ),
    "scaling without factor": (metadata(rope__scaling__type="linear"), "RoPE scaling 'linear' with no settings"),
    "scaling by text": (
        metadata(rope__scaling__type="linear", rope__scaling__factor="four"),
        "'factor': 'four'.* is not known",
    ),
    "scaling below one": (metadata(rope__scaling__type="linear", rope__scaling__factor=0.5), "factor is 0.5"),
    "yarn without a training length": (
        metadata(rope__scaling__type="yarn", rope__scaling__factor=4.0),
        "'yarn' needs original_max_seq_len",
    ),
    "dynamic scaling": (
        metadata(rope__scaling__type="dynamic", rope__scaling__factor=4.0),
        "RoPE scaling 'dynamic'.* is not known",
    ),
    "yarn that is turned down to nothing": (
        metadata(
            rope__scaling__type="yarn",
            rope__scaling__factor=4.0,
            rope__scaling__original_context_length=32,
            rope__scaling__attn_factor=0.0,
        ),
        "attention_factor is 0.0",
    ),
    "scaling of 2023": (metadata(rope__scale_linear=4.0), "'scale_linear': 4.0.* is not known"),
}


# Hugging Face


def config(**changes):
    """config.json with these changes; None removes a key."""

    def make(folder):
        old = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({k: v for k, v in (old | changes).items() if v is not None}))

    return make


def rope(**section):
    return config(rope_parameters={"rope_theta": 1e4, **section})


def weights(**changes):
    """model.safetensors with these tensors changed; None removes one."""

    def make(folder):
        new = load_file(folder / "model.safetensors") | changes
        save_file({k: v for k, v in new.items() if v is not None}, folder / "model.safetensors")

    return make


def file(name, data):
    return lambda folder: (folder / name).write_bytes(data)


def without(name):
    return lambda folder: (folder / name).unlink()


def index(weight_map, shard="model-00001-of-00001.safetensors"):
    """The weights under a shard's name, and an index."""

    def make(folder):
        (folder / "model.safetensors").rename(folder / shard)
        (folder / "model.safetensors.index.json").write_text(json.dumps(weight_map))

    return make


def duplicate(folder):
    whole = (folder / "model.safetensors").read_bytes()
    index({"weight_map": {"a": "a.safetensors", "b": "b.safetensors"}}, "a.safetensors")(folder)
    (folder / "b.safetensors").write_bytes(whole)


def header(change):
    """The header of model.safetensors after `change`; the numbers behind it stay."""

    def make(folder):
        path = folder / "model.safetensors"
        data = path.read_bytes()
        size = struct.unpack("<Q", data[:8])[0]
        entries = json.loads(data[8 : 8 + size])
        change(entries)
        new = json.dumps(entries).encode()
        path.write_bytes(struct.pack("<Q", len(new)) + new + data[8 + size :])

    return make


def twice_in_header(folder):
    """The norm's entry, and before it another shape under the same name: the library takes the last."""
    path = folder / "model.safetensors"
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    entries = data[8 : 8 + size].rstrip()
    new = b'{"model.norm.weight":{"dtype":"F32","shape":[32],"data_offsets":[0,128]},' + entries[1:]
    path.write_bytes(struct.pack("<Q", len(new)) + new + data[8 + size :])


def truncated(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


class RunsCode:
    def __reduce__(self):
        return os.system, ("touch exploded",)


def emptied(folder):
    for path in folder.iterdir():
        path.unlink()


def pickled(folder):
    (folder / "model.safetensors").unlink()
    torch.save({"weight": torch.zeros(1)}, folder / "weights.pt")


def pickled_weights(change=lambda content: None):
    """The weights in pytorch_model.bin after `change`, in place of model.safetensors."""

    def make(folder):
        content = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").unlink()
        torch.save(change(content) or content, folder / "pytorch_model.bin")

    return make


def renamed(change):
    """model.safetensors with each name changed."""

    def make(folder):
        content = load_file(folder / "model.safetensors")
        save_file({change(name): weight for name, weight in content.items()}, folder / "model.safetensors")

    return make


def sharded(ending):
    """A shard without an index."""

    def make(folder):
        (folder / "model.safetensors").rename(folder / f"{ending[0]}-00001-of-00002{ending[1]}")

    return make


HF_FOLDERS = {
    "empty": (emptied, "config.json is missing"),
    "no config": (without("config.json"), "config.json is missing"),
    "no weights": (without("model.safetensors"), "has neither model.safetensors nor model.safetensors.index.json"),
    "only a pickle": (pickled, "weights.pt is a pickle, which is never opened; use the safetensors version"),
    "code in pytorch_model.bin": (
        pickled_weights(lambda content: content.update({UP: RunsCode()})),
        "pytorch_model.bin asks for posix.system to be run, and holds more than weights; it is not opened",
    ),
    "a list in pytorch_model.bin": (pickled_weights(lambda content: [1]), "must hold a dictionary of weights"),
    "names of torch.compile": (
        renamed(lambda name: "_orig_mod." + name),
        "begin with '_orig_mod.', as with torch.compile; save the model that was given to it",
    ),
    "names of DataParallel": (
        renamed(lambda name: "module." + name),
        "begin with 'module.', as with DataParallel; save the model inside, model.module",
    ),
    "names of PEFT": (
        renamed(lambda name: "base_model.model." + name),
        "begin with 'base_model.model.', as with PEFT; save the model that merge_and_unload.. returns",
    ),
    "names of somebody": (
        renamed(lambda name: "student." + name),
        "begin with 'student.'; take that off all names and save it again",
    ),
    "quantised by GPTQ": (
        weights(**{UP: None, UP.replace("weight", "qweight"): torch.zeros(4, 32, dtype=torch.int32)}),
        "up_proj.qweight belongs to a quantised model .GPTQ, AWQ or the like.; use its version in F32",
    ),
    "shards without an index": (
        sharded(("model", ".safetensors")),
        "has shards such as model-00001-of-00002.safetensors, and not model.safetensors.index.json, .* download",
    ),
    "pickled shards without an index": (
        sharded(("pytorch_model", ".bin")),
        "has shards such as pytorch_model-00001-of-00002.bin, and not pytorch_model.bin.index.json, .* download",
    ),
    "weights are a Git LFS pointer": (
        file("model.safetensors", LFS_POINTER),
        "is not a whole safetensors file .it is a Git LFS pointer, .*; run git lfs pull",
    ),
    "weights are a web page": (
        file("model.safetensors", WEB_PAGE),
        "is not a whole safetensors file .it is a web page.; download the file itself",
    ),
    "weights are a GGUF file": (
        file("model.safetensors", b"GGUF" + bytes(100)),
        "is not a whole safetensors file .it is a GGUF file.; give it a name that ends in .gguf",
    ),
    "a name twice in the header": (twice_in_header, "is not a whole safetensors file .it names .* twice"),
    "config is no JSON": (file("config.json", b"{hidden_size: 32"), "config.json is not JSON"),
    "config is no text": (file("config.json", b"\xff\xfe\x00\x80"), "config.json is not JSON"),
    "config is a list": (file("config.json", b"[1, 2]"), "must hold a JSON object in braces"),
    "config is nested without end": (file("config.json", b"[" * 200_000), "config.json is not JSON"),
    "config is empty": (file("config.json", b"{}"), "num_attention_heads is missing; it must be a whole number"),
    "other model": (config(model_type="mistral"), "model_type is 'mistral'; only 'llama' can be loaded"),
    "other activation": (config(hidden_act="gelu"), "hidden_act is 'gelu'; only 'silu'"),
    "biases missing": (config(attention_bias=True), "self_attn.k_proj.bias, .* and 5 more are missing"),
    "bias as text": (config(mlp_bias="yes"), "mlp_bias is 'yes'; only False or True"),
    "quantised": (config(quantization_config={"bits": 4}), "quantization_config is given; use a version"),
    "half of each head is turned": (config(partial_rotary_factor=0.5), "partial_rotary_factor is 0.5; only 1.0"),
    "tied by text": (config(tie_word_embeddings="false"), "tie_word_embeddings is 'false'; only False or True"),
    "width as text": (config(hidden_size="32"), "hidden_size is '32'; it must be a whole number"),
    "width is a fraction": (config(hidden_size=32.5), "hidden_size is 32.5; it must be a whole number"),
    "negative width": (
        config(intermediate_size=-32),
        "intermediate_size is -32; it must be a whole number of at least 1",
    ),
    "no heads": (
        config(num_attention_heads=0, num_key_value_heads=1),
        "num_attention_heads is 0; it must be a whole number",
    ),
    "heads that do not divide": (config(num_attention_heads=3, num_key_value_heads=2), "multiple of n_kv_heads"),
    "odd heads": (config(head_dim=15), "head_dim is 15; it must be even"),
    "epsilon is NaN": (config(rms_norm_eps=float("nan")), "norm_eps is nan; it must be a finite number"),
    "theta has 400 digits": (rope(rope_theta=10**400), "too large"),
    "a billion blocks": (config(num_hidden_layers=10**9), "1000000000 blocks, but it holds only"),
    "overflowing width": (config(intermediate_size=2**62), "impossible model|its config needs"),
    "width of 30 digits": (config(intermediate_size=10**30), "impossible model"),
    "context is not whole": (
        config(max_position_embeddings=0.5),
        "max_position_embeddings is 0.5; it must be a whole number",
    ),
    "RoPE is text": (config(rope_parameters="linear"), "RoPE settings are 'linear'; they must be an object"),
    "unknown scaling": (
        rope(rope_type="longrope", factor=4.0),
        "RoPE scaling is 'longrope'; known are default, linear",
    ),
    "scaling without factor": (rope(rope_type="linear"), "factor is missing; it must be a finite number"),
    "scaling below one": (rope(rope_type="linear", factor=0.5), "factor is 0.5; it must be"),
    "infinite stretch": (rope(rope_type="dynamic", factor=float("inf")), "factor is inf"),
    "yarn without rounding": (rope(rope_type="yarn", factor=4.0, truncate=False), "truncate is False; only True"),
    "bands that cross": (
        rope(rope_type="llama3", factor=8.0, low_freq_factor=4.0, high_freq_factor=1.0),
        "must have 0 < low_freq_factor < high_freq_factor",
    ),
    "weights are text": (file("model.safetensors", b"Once upon a time"), "is not a whole safetensors file"),
    "weights are empty": (file("model.safetensors", b""), "is not a whole safetensors file"),
    "weights are a pickle": (file("model.safetensors", pickle.dumps([1])), "is not a whole safetensors file"),
    "weights are cut off": (truncated, "is not a whole safetensors file"),
    "header longer than the file": (file("model.safetensors", U64(2**60) + b"{}"), "is not a whole safetensors file"),
    "header names a place outside": (
        header(lambda entries: entries[UP].update(data_offsets=[0, 2**50])),
        "is not a whole safetensors file",
    ),
    "header lies about a shape": (header(lambda e: e[UP].update(shape=[2**40, 32])), "is not a whole safetensors file"),
    "header with an unknown type": (header(lambda e: e[UP].update(dtype="F31")), "is not a whole safetensors file"),
    "whole numbers": (
        weights(**{UP: torch.zeros(32, 32, dtype=torch.int8)}),
        "stored as I8; known are F64, F32, F16, BF16",
    ),
    "eight bits": (weights(**{UP: torch.zeros(32, 32).to(torch.float8_e4m3fn)}), "stored as F8_E4M3; known are"),
    "tensor missing": (weights(**{UP: None}), "model.layers.1.mlp.up_proj.weight is missing"),
    "untied without a head": (weights(**{"lm_head.weight": None}), "lm_head.weight is missing"),
    "tensor too many": (
        weights(**{"model.layers.0.self_attn.q_proj.bias": torch.zeros(32)}),
        "model.layers.0.self_attn.q_proj.bias is not part of a Llama",
    ),
    "mis-shaped": (weights(**{UP: torch.zeros(64, 32)}), r"has shape \(64, 32\); its config needs \(32, 32\)"),
    "NaN": (
        weights(**{UP: torch.full((32, 32), float("nan"))}),
        "up_proj.weight holds NaN or infinite numbers; download the file again",
    ),
    "infinity": (
        weights(**{NORM: torch.full((32,), float("-inf"))}),
        "layernorm.weight holds NaN or infinite numbers; download the file again",
    ),
    "tied with another head": (config(tie_word_embeddings=True), "ties lm_head to the embedding, but lm_head.weight"),
    "index without a map": (index({"metadata": {}}), "must hold a weight_map"),
    "index with an empty map": (index({"weight_map": {}}), "must hold a weight_map"),
    "index that maps to numbers": (index({"weight_map": {"a": 1}}), "must hold a weight_map"),
    "shard missing": (index({"weight_map": {"a": "b.safetensors"}}), "names the shard b.safetensors, which is missing"),
    "shard above": (
        index({"weight_map": {"a": "../b.safetensors"}}),
        "names the shard '../b.safetensors'; a shard must",
    ),
    "shard anywhere": (
        index({"weight_map": {"a": "/b.safetensors"}}),
        "names the shard '/b.safetensors'; a shard must",
    ),
    "shard below": (index({"weight_map": {"a": "b/c.safetensors"}}), "names the shard 'b/c.safetensors'; a shard must"),
    "shard the Windows way": (
        index({"weight_map": {"a": "..\\b.safetensors"}}),
        r"names the shard '\.\.\\\\b.safetensors'; a shard must",
    ),
    "shard is the parent": (index({"weight_map": {"a": ".."}}), "names the shard '..'; a shard must"),
    "shard is a pickle": (index({"weight_map": {"a": "b.bin"}}), "names the shard 'b.bin'; a shard must"),
    "tensor in two shards": (duplicate, "is in more than one file"),
}


# Meta


META_TINY = replace(TINY, n_kv_heads=2, ffn_dim=96)
META_PARAMS = {"vocab_size": -1, "multiple_of": 32}
FIRST, SECOND = "consolidated.00.pth", "consolidated.01.pth"
W1 = "layers.1.feed_forward.w1.weight"


def params(**changes):
    """params.json with these changes; None removes a key."""

    def make(folder):
        old = json.loads((folder / "params.json").read_text())
        (folder / "params.json").write_text(json.dumps({k: v for k, v in (old | changes).items() if v is not None}))

    return make


def pth(change, files=(FIRST, SECOND)):
    """The dictionaries in these .pth files after `change`, or what it returns in their place."""

    def make(folder):
        for file in files:
            content = torch.load(folder / file, weights_only=True)
            torch.save(change(content) or content, folder / file)

    return make


def cut(folder):
    path = folder / FIRST
    path.write_bytes(path.read_bytes()[:-100])


def zipped(compression, entries):
    """A zip file that torch did not write."""

    def make(folder):
        with zipfile.ZipFile(folder / FIRST, "w", compression) as archive:
            for name, content in entries.items():
                archive.writestr(name, content)

    return make


def claims_more(folder):
    """The directory of the zip file says that its pickle has 2^31 bytes."""
    path = folder / FIRST
    data = bytearray(path.read_bytes())
    entry = data.rindex(b"PK\x01\x02", 0, data.index(b"data.pkl", data.index(b"PK\x01\x02")))
    data[entry + 20 : entry + 28] = struct.pack("<II", 2**31 - 1, 2**31 - 1)
    path.write_bytes(data)


def stretched(content):
    """One number that claims to be a table of 2^44."""
    content[W1] = torch.zeros(1).expand(2**22, 2**22)


META_FOLDERS = {
    "no params": (without("params.json"), "config.json is missing"),
    "params are no JSON": (file("params.json", b"dim: 32"), "params.json is not JSON"),
    "params are a list": (file("params.json", b"[32]"), "must hold a JSON object in braces"),
    "no width": (params(dim=None), "dim is missing; it must be a whole number"),
    "width as text": (params(dim="32"), "dim is '32'; it must be a whole number"),
    "heads that do not divide": (
        params(n_heads=3),
        "n_heads is 3, and rope.freqs holds the 8 frequencies of heads that are 16 wide",
    ),
    "other heads than RoPE's frequencies": (
        params(n_heads=4),
        "n_heads is 4, and rope.freqs holds the 8 frequencies of heads that are 16 wide; both must be of one model",
    ),
    "epsilon is NaN": (params(norm_eps=float("nan")), "norm_eps is nan; it must be a finite number"),
    "unknown key": (params(moe_args={}), "moe_args is not known, and may change what the weights mean"),
    "pictures": (params(vision_chunk_size=448), "vision_chunk_size is not known"),
    "other vocabulary": (params(vocab_size=33), "vocab_size is 33, and the embedding has 32 rows"),
    "scaled by text": (params(use_scaled_rope="yes"), "use_scaled_rope is 'yes'; it must be true or false"),
    "factor without scaling": (
        params(rope_scaling_factor=8.0),
        "given, and use_scaled_rope is not true; set it",
    ),
    "factor below one": (params(use_scaled_rope=True, rope_scaling_factor=0.5), "factor is 0.5; it must be"),
    "a billion blocks": (params(n_layers=10**9), "1000000000 blocks, but it holds only"),
    "other feed-forward": (params(multiple_of=64), r"w1.weight has shape \(96, 32\); its config needs \(128, 32\)"),
    "endless feed-forward": (params(ffn_dim_multiplier=1e300), "impossible model"),
    "no weights": (lambda folder: [(folder / name).unlink() for name in (FIRST, SECOND)], f"{FIRST} is missing"),
    "first file missing": (without(FIRST), f"{FIRST} is missing; a Meta checkpoint must have its .pth files beside"),
    "last file missing": (without(SECOND), r"the embedding has|params.json: |its config needs"),
    "code in the pickle": (
        pth(lambda content: content.update({W1: RunsCode()}), [FIRST]),
        "asks for posix.system to be run, and holds more than weights; it is not opened",
    ),
    "an old pickle": (
        file(FIRST, pickle.dumps({"w": [1]})),
        "is not a whole file of torch.save .it is a pickle, as torch wrote them before",
    ),
    "text": (file(FIRST, b"Once upon a time"), "is not a whole file of torch.save"),
    "empty": (file(FIRST, b""), "is not a whole file of torch.save"),
    "cut off": (cut, "is not a whole file of torch.save .*; download it again"),
    "zip bomb": (zipped(zipfile.ZIP_DEFLATED, {"a/data.pkl": bytes(2**24)}), "is compressed, which torch.save never"),
    "zip of something else": (zipped(zipfile.ZIP_STORED, {"a.txt": b"a"}), "is not a whole file of torch.save"),
    "zip that claims more": (claims_more, "claims to hold more bytes than it has; it is not opened"),
    "one number as a large table": (pth(stretched), "claims to hold more numbers than it has"),
    "a list": (pth(lambda content: [torch.zeros(1)]), "must hold a dictionary of weights by their names"),
    "names that are numbers": (pth(lambda content: content.update({1: torch.zeros(1)})), "must hold a dictionary"),
    "a number among the weights": (
        pth(lambda content: content.update({W1: 1.0})),
        "w1.weight is not a tensor; it must be",
    ),
    "whole numbers": (
        pth(lambda content: content.update({W1: content[W1].int()})),
        "w1.weight is torch.int32 torch.strided; it must",
    ),
    "sparse": (
        pth(lambda content: content.update({W1: content[W1].to_sparse()})),
        "w1.weight is torch.float32 torch.sparse_coo",
    ),
    "other types in the second file": (
        pth(lambda content: content.update({W1: content[W1].bfloat16()}), [SECOND]),
        "the parts of layers.1.feed_forward.w1.weight do not fit together",
    ),
    "norms that differ": (
        pth(lambda content: content.update({"norm.weight": content["norm.weight"] + 1}), [SECOND]),
        "the parts of norm.weight do not fit together",
    ),
    "tensor in one file only": (
        pth(lambda content: {name: w for name, w in content.items() if name != W1}, [SECOND]),
        f"{W1} is in only one of {FIRST} and {SECOND}",
    ),
    "tensor missing": (
        pth(lambda content: {name: w for name, w in content.items() if name != W1}),
        "layers.1.feed_forward.w1.weight is missing",
    ),
    "tensor too many": (
        pth(lambda content: content.update({"layers.0.attention.wq.bias": torch.zeros(16)})),
        "layers.0.attention.wq.bias is not part of a Llama|do not fit together",
    ),
    "no embedding": (
        pth(lambda content: {name: w for name, w in content.items() if "tok" not in name}),
        "tok_embeddings.weight is missing",
    ),
    "embedding is a vector": (
        pth(lambda content: content.update({"tok_embeddings.weight": torch.zeros(32)})),
        "not a matrix",
    ),
    "NaN": (
        pth(lambda content: content[W1].view(-1)[:1].fill_(float("nan")) and None),
        "w1.weight holds NaN or infinite numbers; download the file again",
    ),
}
