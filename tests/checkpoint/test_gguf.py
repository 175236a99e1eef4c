"""GGUF files: synthetic ones against the model that they were written from, the embedded one against transformers."""

import sys
from dataclasses import replace

import gguf
import numpy as np
import pytest
import torch
from checkpoint_files import TYPES, hf_weights, memory_of_loading, write_gguf
from reference import GQA, assert_same, hf_config, random_hf, random_tokens, scaled

from llama_from_scratch import LlamaConfig
from llama_from_scratch.checkpoint import describe, load_config, load_model
from llama_from_scratch.checkpoint.gguf.read import GGUFFile
from llama_from_scratch.files.embedded import EMBEDDED, embedded_path


def quantised(theirs, kind):
    """Their model with the weights that a file of this kind can hold."""
    with torch.no_grad():
        for weight in theirs.parameters():
            if weight.dim() == 2:
                numbers = gguf.quants.dequantize(gguf.quants.quantize(weight.numpy(), kind), kind)
                weight.copy_(torch.from_numpy(numbers))
    return theirs


@torch.no_grad()
def assert_same_logits(ours, theirs):
    tokens = random_tokens(ours.config)
    assert_same("logits", ours(tokens), theirs(tokens).logits)


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_stored_types(tmp_path, kind):
    theirs = quantised(random_hf(GQA), TYPES[kind])
    file = write_gguf(tmp_path / "model.gguf", theirs.config, hf_weights(theirs), TYPES[kind])
    ours = load_model(file)
    assert ours.config == replace(GQA, max_seq_len=theirs.config.max_position_embeddings)
    assert_same_logits(ours, theirs)
    assert {t.stored_type for t in describe(file).tensors if len(t.shape) == 2} == {kind}


@pytest.mark.parametrize(
    "config",
    [
        replace(GQA, n_kv_heads=8),
        replace(GQA, n_kv_heads=1),
        replace(GQA, tie_embeddings=True),
        replace(GQA, head_dim=24),
        replace(GQA, norm_eps=1e-6, rope_theta=1.3e5),
    ],
    ids=["mha", "mqa", "tied", "wide-heads", "eps-theta"],
)
def test_architectures(tmp_path, config):
    theirs = random_hf(config)
    ours = load_model(write_gguf(tmp_path / "model.gguf", theirs.config, hf_weights(theirs)))
    assert ours.config == replace(config, max_seq_len=theirs.config.max_position_embeddings)
    assert_same_logits(ours, theirs)


@pytest.mark.parametrize("original", [8192, 32])
@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_llama3_scaling_is_read_from_the_divisors(tmp_path, factor, original):
    config = replace(scaled("llama3", factor, original), rope_theta=5e5)
    theirs = random_hf(config)
    theirs_plain = random_hf(replace(config, rope_scaling=None))
    divisors = theirs_plain.model.rotary_emb.inv_freq / theirs.model.rotary_emb.inv_freq
    assert divisors.max() > 0.99 * factor
    # 8192 is what Llama 3.1 was trained on; its files do not say so
    extra = {} if original == 8192 else {"llama.rope.scaling.original_context_length": original}
    weights = {"rope_freqs.weight": divisors, **hf_weights(theirs)}
    ours = load_model(write_gguf(tmp_path / "model.gguf", theirs.config, weights, extra=extra))
    assert ours.config == replace(config, max_seq_len=theirs.config.max_position_embeddings)
    assert_same("frequencies", ours.rope.freqs, theirs.model.rotary_emb.inv_freq, 1e-7)
    assert_same_logits(ours, theirs)


@pytest.mark.parametrize(
    ("config", "extra"),
    [
        (scaled("linear", 4.0, None), {"type": "linear", "factor": 4.0}),
        (scaled("yarn", 4.0), {"type": "yarn", "factor": 4.0, "original_context_length": 32}),
        (scaled("yarn", 4.0), {"type": "yarn", "factor": 4.0, "original_context_length": 32, "yarn_beta_fast": 32.0}),
        (GQA, {"type": "none"}),
    ],
    ids=["linear", "yarn", "yarn-betas", "none"],
)
def test_scaling_in_the_metadata(tmp_path, config, extra):
    theirs = random_hf(config)
    extra = {f"llama.rope.scaling.{key}": value for key, value in extra.items()}
    ours = load_model(write_gguf(tmp_path / "model.gguf", theirs.config, hf_weights(theirs), extra=extra))
    assert ours.config == replace(config, max_seq_len=theirs.config.max_position_embeddings)
    assert_same_logits(ours, theirs)


def test_heads_as_wide_as_rope_says(tmp_path):
    """Files of 2023 have no key_length; then llama.rope.dimension_count is the width of a head."""
    theirs = random_hf(replace(GQA, head_dim=24))
    extra = {"llama.attention.key_length": None, "llama.attention.value_length": None}
    file = write_gguf(tmp_path / "model.gguf", theirs.config, hf_weights(theirs), extra=extra)
    assert load_config(file).head_dim == 24


def test_bfloat16_is_the_fp32_model_rounded_once(tmp_path):
    theirs = random_hf(GQA)
    file = write_gguf(tmp_path / "model.gguf", theirs.config, hf_weights(theirs))
    full, half = load_model(file).state_dict(), load_model(file, dtype=torch.bfloat16)
    assert half.rope.freqs.dtype == torch.float32
    for name, weight in half.state_dict().items():
        assert weight.dtype == torch.bfloat16
        assert torch.equal(weight, full[name].bfloat16()), name


def test_loaded_weights_can_be_trained_and_the_file_stays_as_it_was(tmp_path):
    theirs = random_hf(GQA)
    file = write_gguf(tmp_path / "model.gguf", theirs.config, hf_weights(theirs))
    before = file.read_bytes()
    ours = load_model(file)
    optimiser = torch.optim.SGD(ours.parameters(), lr=0.1)
    old = {name: weight.detach().clone() for name, weight in ours.named_parameters()}
    ours(random_tokens(GQA)).square().mean().backward()
    optimiser.step()
    for name, weight in ours.named_parameters():
        assert weight.is_leaf and weight.requires_grad
        assert not torch.equal(weight, old[name]), name
    assert file.read_bytes() == before


# The embedded model


def test_embedded_weights_equal_those_of_transformers(smollm2, hf_smollm2):
    theirs = hf_weights(hf_smollm2)
    ours = dict(smollm2.named_parameters())
    table = {tensor.name: tensor.stored_name for tensor in describe(EMBEDDED).tensors}
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, smollm2.config.n_layers)
    stored = {names.get_name(name, try_suffixes=(".weight",)): weight for name, weight in theirs.items()}
    assert len(stored) == len(ours) == len(theirs) == 272
    for name, weight in ours.items():
        assert torch.equal(weight, stored[table[name]]), name
    assert hf_config(smollm2.config).to_dict()["rope_parameters"] == hf_smollm2.config.rope_parameters
    assert smollm2.config.norm_eps == pytest.approx(hf_smollm2.config.rms_norm_eps, rel=1e-7)


def test_embedded_is_the_preset():
    assert load_config(EMBEDDED) == LlamaConfig.preset("SmolLM2-135M")


def test_embedded_description():
    found = describe(EMBEDDED)
    assert (found.format, found.tokenizer) == ("GGUF", "byte-level BPE")
    assert sum(torch.Size(t.shape).numel() for t in found.tensors) == found.config.n_params == 134_515_008
    assert found.memory(torch.bfloat16) * 2 == found.memory(torch.float32) == 4 * 134_515_008
    assert 0 < embedded_path().stat().st_size - found.n_bytes < 3_000_000  # the rest is the tokenizer
    row = next(t for t in found.tensors if t.name == "blocks.29.attention.k_proj.weight")
    assert (row.stored_name, row.shape, row.stored_type) == ("blk.29.attn_k.weight", (192, 576), "Q4_1")
    assert row.n_bytes == 192 * 576 // 32 * 20  # 32 numbers in 4 bits each, and a scale and an offset in 16


def test_embedded_file_holds_what_the_package_gguf_reads():
    """Every metadata entry, every tensor, byte for byte."""
    ours, theirs = GGUFFile(embedded_path()), gguf.GGUFReader(embedded_path())
    fields = {key: field for key, field in theirs.fields.items() if not key.startswith("GGUF.")}  # the header's numbers
    assert list(ours.fields) == list(fields)
    for key, field in fields.items():
        assert ours.value(key) == field.contents(), key
        assert list(ours.fields[key].types) == field.types, key
    for mine, yours in zip(ours.tensors, theirs.tensors, strict=True):
        assert (mine.name, mine.tensor_type, mine.n_bytes) == (yours.name, yours.tensor_type, yours.n_bytes)
        assert list(reversed(mine.shape)) == yours.shape.tolist()
        assert np.array_equal(mine.data.reshape(-1), yours.data.reshape(-1).view(np.uint8)), mine.name


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc, which only Linux has")
def test_loading_takes_the_memory_of_one_model():
    """In a process of its own: the parameters, the pages of the file, and 64 MiB for everything in passing."""
    taken, parameters, file = memory_of_loading(EMBEDDED)
    assert parameters < taken < parameters + file + 64 * 2**20
