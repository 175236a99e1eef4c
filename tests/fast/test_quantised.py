"""Weights in 8 and 4 bits: bounds on every weight, the kernels against plain arithmetic, and what does not fit."""

import os
import subprocess
import sys
from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from llama_from_scratch import Llama, LlamaConfig
from llama_from_scratch.fast import prepare
from llama_from_scratch.fast.int4 import GROUP, Int4Linear, pack, quantise_groups, unpack
from llama_from_scratch.fast.int8 import WIDE, Int8Linear, quantise_rows
from llama_from_scratch.fast.int8_matmul import FINE, Int8Matmul, has_int8_products

KINDS = {"int8": Int8Linear, "int4": Int4Linear}


def uneven(rows=96, columns=128):
    """Rows of very different size, one of zeros, and one number that stands out."""
    weight = torch.randn(rows, columns) * torch.logspace(-4, 2, rows)[:, None]
    weight[1], weight[2, 3] = 0, 1000.0
    return weight


def meaning(layer):
    """The weights that a layer computes with."""
    if isinstance(layer, Int4Linear):
        return layer.weight(torch.float32)
    return layer.codes.float() * layer.scale.float()[:, None]


def linear(weight, bias=None):
    layer = nn.Linear(*reversed(weight.shape), bias=bias is not None)
    layer.weight = nn.Parameter(weight)
    if bias is not None:
        layer.bias = nn.Parameter(bias)
    return layer


def test_int8_is_off_by_half_a_step_at_most():
    weight = uneven()
    codes, scale = quantise_rows(weight)
    scale = scale.float()[:, None]
    assert ((codes * scale - weight).abs() <= 0.5001 * scale).all()
    assert (codes.int().abs().amax(dim=1)[2:] >= 126).all()  # the whole range is used, whatever the row's size
    assert (codes[1] == 0).all()


def test_int4_is_off_by_half_a_step_at_most():
    """And the rounding of scale and middle to bf16: together less than 0.6 of a step where a group's numbers lie
    around zero. A group far from zero loses more: its middle alone is rounded by up to 2^-9 of itself."""
    weight = uneven()
    codes, packed = quantise_groups(weight)
    layer = Int4Linear.from_linear(linear(weight))
    groups = weight.unflatten(1, (-1, GROUP))
    step = (groups.amax(-1) - groups.amin(-1)) / 15
    error = (meaning(layer) - weight).unflatten(1, (-1, GROUP)).abs().amax(dim=-1)
    assert (error <= 0.6 * step + groups.abs().amax(-1) * 2**-8).all()
    ordinary = torch.ones(len(weight), dtype=torch.bool)
    ordinary[2] = False
    assert (error <= 0.6 * step)[ordinary].all()
    assert codes.max() == 15 and codes.min() == 0


def test_int4_keeps_the_codes_of_numbers_that_are_already_so():
    """As in a Q4_1 file: d · code + m for each group of 32, with d and m in fp16."""
    codes = torch.randint(0, 16, (64, 4, GROUP))
    codes[..., 0], codes[..., 1] = 0, 15  # such a file's groups reach both ends
    d, m = (torch.rand(64, 4, 1) * 0.01 + 0.001).half(), (-torch.rand(64, 4, 1) * 0.1).half()
    weight = (codes * d.float() + m.float()).flatten(1)
    found, packed = quantise_groups(weight)
    assert torch.equal(found, codes.flatten(1).to(torch.uint8))
    assert torch.allclose(packed[..., 0].T, d[..., 0].float().bfloat16())


def test_pairs_of_codes():
    codes = torch.randint(0, 16, (6, 64), dtype=torch.uint8)
    assert torch.equal(unpack(pack(codes)), codes)
    assert pack(codes).shape == (6, 32) and pack(torch.tensor([[1, 2]], dtype=torch.uint8)).item() == 0x12


@pytest.fixture
def other_kernels(monkeypatch):
    """As on a processor that is not quick with bytes."""
    for module in ("int8", "int4"):
        monkeypatch.setattr(f"llama_from_scratch.fast.{module}.has_int8_products", lambda device: False)


@pytest.mark.parametrize("rows", [1, 3, WIDE, WIDE + 1])
@pytest.mark.parametrize("kind", KINDS)
def test_the_kernels_multiply(other_kernels, kind, rows):
    """Against the same weights written out. The packed kernels round what they read and give to bf16."""
    weight, bias = torch.randn(96, 128), torch.randn(96)
    layer = KINDS[kind].from_linear(linear(weight, bias))
    x = torch.randn(rows, 128)
    found, exact = layer(x), F.linear(x, meaning(layer), bias)
    size = (x.abs() @ meaning(layer).abs().T).amax()
    assert found.dtype == torch.float32 and found.shape == exact.shape
    assert (found - exact).abs().max() < size * (2**-8 if rows <= WIDE else 1e-6)


def test_without_vnni_products_of_bytes_are_not_used():
    code = "import torch; from llama_from_scratch.fast.int8_matmul import has_int8_products as has; "
    code += "print(has(torch.device('cpu')))"
    env = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


quick_with_bytes = pytest.mark.skipif(not has_int8_products(torch.device("cpu")), reason="this processor has no VNNI")


@quick_with_bytes
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 7, 200])
def test_int8_matmul_rounds_inputs_only(rows, dtype):
    """Each input is off by half a step of its fine byte at most; a row of zeros, and one with a number that stands out,
    are rows like others. Codes at both ends and 1536 columns: no sum of products of bytes is cut off."""
    codes = torch.randint(-127, 128, (64, 1536), dtype=torch.int8)
    codes[0], codes[1] = 127, -127
    scale = (torch.rand(64) + 0.1).bfloat16()
    x = (torch.randn(rows, 1536) * torch.logspace(-3, 3, rows)[:, None]).to(dtype)
    if rows > 1:
        x[0], x[1, 5], x[2] = 0, 1e4, -3.0
    weight = codes.double() * scale.double()[:, None]
    found, exact = Int8Matmul(codes, scale)(x), x.double() @ weight.T
    half_a_step = x.double().abs().amax(dim=1, keepdim=True) / 127 / FINE / 2
    assert found.dtype == torch.float32
    assert ((found - exact).abs() <= 1.02 * half_a_step * weight.abs().sum(dim=1) + 1e-6 * exact.abs()).all()
    assert rows == 1 or (found[0] == 0).all()


@quick_with_bytes
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [1, WIDE + 1])
def test_layers_use_products_of_bytes_where_meant(kind, rows):
    """All of int8; of int4 those of a prompt, with its 4-bit weights rounded to 8 bits."""
    weight, bias, x = torch.randn(96, 128), torch.randn(96), torch.randn(rows, 128)
    layer = KINDS[kind].from_linear(linear(weight, bias))
    in_bytes = layer if kind == "int8" else Int8Linear.from_linear(linear(meaning(layer)))
    in_bytes = F.linear(x, meaning(in_bytes), bias)
    off = (layer(x) - in_bytes).abs().max() / in_bytes.std()
    assert (off < 1e-3) == (kind == "int8" or rows > WIDE)


@pytest.mark.parametrize("kind", KINDS)
def test_scales_make_a_difference(other_kernels, kind):
    """The kernels read them: doubled, the result doubles."""
    layer = KINDS[kind].from_linear(linear(torch.randn(64, 64)))
    x = torch.randn(1, 64)
    before = layer(x)
    (layer.scale if kind == "int8" else layer.scale_and_middle).mul_(2)
    assert torch.allclose(layer(x), 2 * before, rtol=1e-2)


@pytest.mark.parametrize("rows", [1, WIDE + 1])
def test_int8_from_codes_multiplies_codes_times_scale(other_kernels, rows):
    codes, scale = torch.randint(-127, 128, (64, 96), dtype=torch.int8), torch.rand(64) + 0.1
    bias, x = torch.randn(64), torch.randn(rows, 96)
    layer = Int8Linear.from_codes(codes, scale, bias)
    weight = codes.double() * scale.bfloat16().double()[:, None]
    # The kernels for few rows round inputs and output to bf16.
    bound = (x.double().abs() @ weight.abs().T) * (2**-8 if rows <= WIDE else 1e-6) + 2**-8 * bias.abs()
    assert ((layer(x) - (x.double() @ weight.T + bias)).abs() <= bound).all()


@pytest.mark.parametrize("rows", [1, WIDE + 1])
@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize("with_zeros", [False, True])
def test_int4_from_codes_multiplies_code_minus_zero_times_scale(other_kernels, rows, group, with_zeros):
    """As GPTQ and AWQ store weights. (8 - zero) · scale is rounded to bf16: by 2^-9 of itself at most."""
    codes, scale = torch.randint(0, 16, (64, 256), dtype=torch.uint8), torch.rand(64, 256 // group) + 0.1
    zero = torch.randint(0, 16, scale.shape).float() if with_zeros else None
    x = torch.randn(rows, 256)
    layer = Int4Linear.from_codes(codes, scale, zero)
    scale = scale.bfloat16().double().repeat_interleave(group, dim=1)
    zero = 8 if zero is None else zero.double().repeat_interleave(group, dim=1)
    weight = (codes.double() - zero) * scale
    bound = x.double().abs() @ (weight.abs() * 2**-7 + 8 * scale * 2**-9).T + 1e-4
    assert ((layer(x) - x.double() @ weight.T).abs() <= bound).all()


def test_codes_that_do_not_fit_are_refused(as_users_run_it):
    codes = torch.zeros(64, 96, dtype=torch.uint8)
    for make, message in (
        (lambda: Int8Linear.from_codes(codes, torch.ones(64)), "type torch.uint8.*; give torch.int8"),
        (lambda: Int8Linear.from_codes(codes.char(), torch.ones(96)), r"scale has shape \[96\]; give .* one scale"),
        (lambda: Int4Linear.from_codes(codes.char(), torch.ones(64, 3)), "type torch.int8; give torch.uint8 from 0"),
        (lambda: Int4Linear.from_codes(codes + 16, torch.ones(64, 3)), "give torch.uint8 from 0 to 15"),
        (lambda: Int4Linear.from_codes(codes, torch.ones(64, 5)), "groups of a row are equally long"),
        (lambda: Int4Linear.from_codes(codes, torch.ones(64, 3), torch.ones(64, 1)), r"and zero \[64, 1\]"),
        (
            lambda: Int4Linear.from_codes(codes, torch.ones(64, 2)),
            "groups have 48 weights; they must have one of 32, 64",
        ),
        (lambda: Int4Linear.from_codes(codes[:60], torch.ones(60, 3)), "60 rows, and int4 needs a multiple of 16"),
    ):
        with pytest.raises(ValueError, match=message):
            make()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [1, WIDE + 1])
def test_state_dict_of_a_layer_loads(tmp_path, kind, rows):
    """Through a file, into a layer of other weights: the same output to the last bit."""
    layer = KINDS[kind].from_linear(linear(torch.randn(64, 128), torch.randn(64)))
    torch.save(layer.state_dict(), tmp_path / "layer.pt")
    new = KINDS[kind](128, 64, bias=True)
    x = torch.randn(rows, 128)
    assert not torch.equal(new(x), layer(x))
    new.load_state_dict(torch.load(tmp_path / "layer.pt"))
    assert torch.equal(new(x), layer(x))


@pytest.mark.parametrize("quantise", KINDS)
@pytest.mark.parametrize("tied", [False, True])
def test_state_dict_of_a_quantised_model_loads(quantise, tied):
    config = LlamaConfig(96, 64, 2, 4, 2, 16, 128, max_seq_len=128, tie_embeddings=tied)
    fast, other = (prepare(Llama(config).eval(), quantise=quantise) for _ in range(2))
    tokens = torch.randint(96, (1, WIDE + 2))
    with torch.no_grad():
        assert not torch.equal(other(tokens), fast(tokens))
        other.load_state_dict(fast.state_dict())
        assert torch.equal(other(tokens), fast(tokens))
        assert torch.equal(other(tokens[:, :3]), fast(tokens[:, :3]))


@pytest.fixture
def config():
    return LlamaConfig(96, 64, 2, 4, 2, 16, 128, attention_bias=True, ffn_bias=True, max_seq_len=128)


@pytest.mark.parametrize("quantise", [None, "int8", "int4"])
@pytest.mark.parametrize("fuse", [False, True])
def test_prepare(config, fuse, quantise):
    """Nearly the same logits; every weight and bias took part; and the model that was given has not changed."""
    model = Llama(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(1 if weight.dim() == 1 else 0, 0.2)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    tokens = torch.randint(96, (2, 40))
    fast = prepare(model, fuse=fuse, quantise=quantise)
    with torch.no_grad():
        exact, found = model(tokens), fast(tokens)
    off = (found - exact).abs().max() / exact.std()
    assert off < {None: 1e-4, "int8": 0.2, "int4": 1.5}[quantise]
    assert quantise is None or off > 1e-4
    assert all(weight.requires_grad for weight in model.parameters())
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())
    assert fast.embedding.weight.data_ptr() == model.embedding.weight.data_ptr()
    kept = [module for module in fast.blocks.modules() if type(module) is nn.Linear]
    assert bool(kept) == (quantise is None)


@pytest.mark.parametrize("quantise", ["int8", "int4"])
def test_copies_give_the_same(config, quantise):
    tokens, fast = torch.randint(96, (1, 80)), prepare(Llama(config).eval(), quantise=quantise)
    with torch.no_grad():
        assert torch.equal(deepcopy(fast)(tokens), fast(tokens))


def test_a_width_that_int4_cannot_have():
    model = Llama(LlamaConfig(50, 48, 1, 3, 1, 16, 64))
    with pytest.raises(ValueError, match="rows of 48 weights, and int4 needs a multiple of 32; use int8"):
        prepare(model, quantise="int4")
    assert prepare(model, quantise="int8")


def test_other_bits(as_users_run_it):
    with pytest.raises(ValueError, match="'int3'; give one of int8, int4"):
        prepare(Llama(LlamaConfig(50, 32, 1, 2, 1, 16, 32)), quantise="int3")
