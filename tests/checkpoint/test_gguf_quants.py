"""Every stored type that GGUF files of Llamas use: what load_model gives is what the bytes say.

The package gguf can quantise only the older types. For the K-quants, this file holds a decoder of its own: one block
at a time, one number at a time, from the layout of block_q4_K, block_q5_K and block_q6_K in llama.cpp (ggml/src/
ggml-common.h; decoded there by dequantize_row_q4_K and its siblings in ggml-quants.c). It is slow and plain, and shares
no line with the package gguf.
"""

import struct
from dataclasses import replace

import gguf
import numpy as np
import pytest
import torch
from checkpoint_files import TYPES, hf_weights, write_gguf
from reference import GQA, random_hf

from llama_from_scratch.checkpoint import describe, load_model

WIDE = replace(GQA, dim=256, n_heads=8, head_dim=32, ffn_dim=512)  # K-quants want rows of a multiple of 256 numbers


def half(low: int, high: int) -> float:
    return struct.unpack("<e", bytes([low, high]))[0]


def scale_and_minimum(packed: list[int], j: int) -> tuple[int, int]:
    """Twelve bytes hold eight scales and eight minima of six bits each, in Q4_K and Q5_K.

    The first four of each lie in the low six bits of bytes 0-3 and 4-7. The last four have their low four bits in
    bytes 8-11 (scale low, minimum high) and their high two bits in the spare top bits of bytes 0-3 and 4-7.
    """
    if j < 4:
        return packed[j] & 63, packed[j + 4] & 63
    scale = (packed[j + 4] & 15) | ((packed[j - 4] >> 6) << 4)
    minimum = (packed[j + 4] >> 4) | ((packed[j] >> 6) << 4)
    return scale, minimum


def q4_k(block: list[int]) -> list[float]:
    """144 bytes: d, dmin (fp16), 12 of scales, 128 of 4 bits. Value = d * scale * q - dmin * minimum."""
    d, dmin, packed, nibbles = half(*block[0:2]), half(*block[2:4]), block[4:16], block[16:144]
    values = []
    for i in range(256):
        part, within = divmod(i, 32)  # 8 parts; parts 0 and 1 share 32 bytes: low and high half of each
        byte = nibbles[(part // 2) * 32 + within]
        q = byte >> 4 if part % 2 else byte & 15
        scale, minimum = scale_and_minimum(packed, part)
        values.append(d * scale * q - dmin * minimum)
    return values


def q5_k(block: list[int]) -> list[float]:
    """176 bytes: as Q4_K, with 32 bytes of fifth bits before the nibbles; bit p of byte i belongs to part p."""
    d, dmin, packed = half(*block[0:2]), half(*block[2:4]), block[4:16]
    fifth, nibbles = block[16:48], block[48:176]
    values = []
    for i in range(256):
        part, within = divmod(i, 32)
        byte = nibbles[(part // 2) * 32 + within]
        q = (byte >> 4 if part % 2 else byte & 15) + 16 * ((fifth[within] >> part) & 1)
        scale, minimum = scale_and_minimum(packed, part)
        values.append(d * scale * q - dmin * minimum)
    return values


def q6_k(block: list[int]) -> list[float]:
    """210 bytes: 128 of low 4 bits, 64 of high 2 bits, 16 signed scales, d. Value = d * scale * (q - 32)."""
    low, high, d = block[0:128], block[128:192], half(*block[208:210])
    scales = struct.unpack("<16b", bytes(block[192:208]))
    values = []
    for i in range(256):
        side, place = divmod(i, 128)  # two halves of 128 numbers, each in four rows of 32
        row, within = divmod(place, 32)
        byte = low[side * 64 + (row % 2) * 32 + within]
        q = (byte >> 4 if row >= 2 else byte & 15) + 16 * ((high[side * 32 + within] >> (2 * row)) & 3)
        values.append(d * scales[i // 16] * (q - 32))
    return values


DECODERS = {"Q4_K": (q4_k, 144, [0, 2]), "Q5_K": (q5_k, 176, [0, 2]), "Q6_K": (q6_k, 210, [208])}


def random_blocks(kind: str, n: int) -> np.ndarray:
    """Any bytes are valid, except that the fp16 scales of a block are kept to numbers that weights can have."""
    _, size, halves = DECODERS[kind]
    rng = np.random.default_rng(size)
    blocks = rng.integers(0, 256, (n, size), dtype=np.uint8)
    for at in halves:
        blocks[:, at : at + 2] = rng.uniform(-0.01, 0.01, (n, 1)).astype(np.float16).view(np.uint8)
    return blocks


def file_with(path, name, data, kind):
    """A healthy model in which one matrix holds these bytes."""
    theirs = random_hf(WIDE)
    raw = {name: (data, TYPES[kind])}
    return write_gguf(path, theirs.config, hf_weights(theirs), raw=raw)


@pytest.mark.parametrize("kind", DECODERS)
def test_k_quants(tmp_path, kind):
    """v_proj, whose rows stay in place: 64 rows of one block each."""
    decode, size, _ = DECODERS[kind]
    blocks = random_blocks(kind, 64)
    file = file_with(tmp_path / "model.gguf", "model.layers.1.self_attn.v_proj.weight", blocks, kind)
    loaded = load_model(file).blocks[1].attention.v_proj.weight
    expected = torch.tensor([decode(block.tolist()) for block in blocks], dtype=torch.float64)
    assert loaded.shape == (64, 256)
    assert expected.std() > 0.1
    assert torch.equal(loaded, expected.float())  # bit for bit: the exact number, rounded once to fp32
    row = next(t for t in describe(file).tensors if t.name == "blocks.1.attention.v_proj.weight")
    assert (row.stored_type, row.n_bytes) == (kind, 64 * size)


@pytest.mark.parametrize("kind", DECODERS)
def test_k_quants_of_queries_are_decoded_and_then_reordered(tmp_path, kind):
    blocks = random_blocks(kind, 256)
    file = file_with(tmp_path / "model.gguf", "model.layers.0.self_attn.q_proj.weight", blocks, kind)
    loaded = load_model(file).blocks[0].attention.q_proj.weight
    for row in (0, 1, 16, 17, 100, 255):
        head, i = divmod(row, 32)
        stored = head * 32 + (2 * i if i < 16 else 2 * (i - 16) + 1)  # pairs lie side by side in the file
        expected = torch.tensor(DECODERS[kind][0](blocks[stored].tolist()), dtype=torch.float64)
        assert torch.equal(loaded[row], expected.float()), row


@pytest.mark.parametrize(
    ("kind", "part"),
    [("Q4_K", slice(12, 16)), ("Q4_K", slice(4, 8)), ("Q5_K", slice(16, 48)), ("Q6_K", slice(128, 192))],
    ids=["low bits of late scales", "high bits of late scales", "fifth bits", "high bits"],
)
def test_a_part_of_a_block_that_is_ignored_would_be_noticed(kind, part):
    """The random bytes above exercise every field: without this one, the decoder gives other numbers."""
    block = random_blocks(kind, 1)[0]
    without = block.copy()
    without[part] = 0
    decode = DECODERS[kind][0]
    assert np.abs(np.subtract(decode(block.tolist()), decode(without.tolist()))).max() > 0.05


# Types that the package gguf can quantise


# bits of a number, and whether it counts from the smallest number of its block (else from zero)
BITS = {"Q8_0": (8, False), "Q5_0": (5, False), "Q4_0": (4, False), "Q5_1": (5, True), "Q4_1": (4, True)}


@pytest.mark.parametrize("kind", BITS)
def test_error_of_quantising(tmp_path, kind):
    """No weight is further from the original than the step between two neighbouring values of its block of 32."""
    theirs = random_hf(GQA)
    original = hf_weights(theirs)["model.layers.2.mlp.down_proj.weight"]
    file = write_gguf(tmp_path / "model.gguf", theirs.config, hf_weights(theirs), TYPES[kind])
    loaded = load_model(file).blocks[2].feed_forward.down_proj.weight
    blocks = original.unflatten(-1, (-1, 32))
    bits, offset = BITS[kind]
    span = blocks.amax(-1) - blocks.amin(-1) if offset else 2 * blocks.abs().amax(-1)
    step = span / (2**bits - (1 if offset else 2 if bits == 8 else 0))
    error = (loaded.unflatten(-1, (-1, 32)) - blocks).abs().amax(-1)
    half_precision = blocks.abs().amax(-1) * 2**-10  # scale and offset are fp16
    # The signed kinds have one value less above zero than below: the largest number may be a whole step away.
    allowed = step * (0.5 if offset or bits == 8 else 1) + half_precision
    assert (error <= allowed).all()
    assert error.mean() > 0.2 * step.mean()  # and it is quantised


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
def test_error_of_rounding(tmp_path, kind):
    """Bit for bit what torch rounds to."""
    theirs = random_hf(GQA)
    file = write_gguf(tmp_path / "model.gguf", theirs.config, hf_weights(theirs), TYPES[kind])
    loaded = load_model(file).state_dict()
    dtype = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[kind]
    for ours, name in [
        ("blocks.0.feed_forward.up_proj.weight", "model.layers.0.mlp.up_proj.weight"),
        ("blocks.0.attention.q_proj.weight", "model.layers.0.self_attn.q_proj.weight"),
        ("lm_head.weight", "lm_head.weight"),
    ]:
        assert torch.equal(loaded[ours], hf_weights(theirs)[name].to(dtype).float()), name


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_1"])
def test_vectors_may_be_stored_in_any_type(tmp_path, kind):
    """llama.cpp keeps norms in F32; others need not."""
    theirs = random_hf(GQA)
    name = "model.layers.1.input_layernorm.weight"
    data = gguf.quants.quantize(hf_weights(theirs)[name].numpy(), TYPES[kind])
    file = write_gguf(tmp_path / "model.gguf", theirs.config, hf_weights(theirs), raw={name: (data, TYPES[kind])})
    expected = torch.from_numpy(gguf.quants.dequantize(data, TYPES[kind]))
    assert torch.equal(load_model(file).blocks[1].attention_norm.weight, expected)


# Types that this package decodes by itself


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("kind", "size", "halves"), [("Q4_1", 20, 2), ("Q8_0", 34, 1)])
def test_quick_decoders_give_what_the_package_gives(tmp_path, monkeypatch, kind, size, halves, dtype):
    """Any codes and scales, the smallest fp16 numbers included, in chunks that do not divide the matrix evenly."""
    monkeypatch.setattr("llama_from_scratch.checkpoint.gguf.read.CHUNK", 7 * 256)
    rng = np.random.default_rng(size)
    blocks = rng.integers(0, 256, (64 * 8, size), dtype=np.uint8)
    scales = (rng.uniform(-1, 1, (64 * 8, halves)) * 10.0 ** rng.integers(-8, 3, (64 * 8, halves))).astype(np.float16)
    blocks[:, : 2 * halves] = scales.view(np.uint8)
    data = blocks.reshape(64, -1)
    expected = torch.from_numpy(gguf.quants.dequantize(data, TYPES[kind]))
    file = file_with(tmp_path / "model.gguf", "model.layers.1.self_attn.v_proj.weight", data, kind)
    loaded = load_model(file, dtype=dtype).blocks[1].attention.v_proj.weight
    assert expected.unique().numel() > 1000
    assert torch.equal(loaded, expected.to(dtype))
