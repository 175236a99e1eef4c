"""RoPE's frequencies under every scaling rule, bit for bit against transformers, and the angles against fp64."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import CASES, GQA, hf_config
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from llama_from_scratch import PRESETS, Llama, LlamaConfig, RopeScaling
from llama_from_scratch.rope import Rope, rope_frequencies, scaled_frequencies

CONTEXT = 131072  # of Llama 3.1


@pytest.mark.parametrize("name", [*PRESETS, *CASES])
def test_frequencies_are_those_of_transformers_bit_for_bit(name: str) -> None:
    config = PRESETS.get(name) or CASES[name]
    ours, theirs = Rope(config), LlamaRotaryEmbedding(hf_config(config))
    assert torch.equal(ours.freqs, theirs.inv_freq)
    assert ours.attention_factor == theirs.attention_scaling


@settings(max_examples=200)
@given(
    kind=st.sampled_from(["linear", "dynamic", "yarn", "llama3"]),
    factor=st.floats(1.0, 64.0),
    original=st.integers(256, 16384),
    head_dim=st.sampled_from([16, 64, 80, 128]),
    theta=st.sampled_from([1e4, 1e5, 5e5]),
    low=st.floats(0.5, 2.0),
    high=st.floats(3.0, 40.0),
    length=st.integers(1, 40000),
)
def test_frequencies_of_any_scaling_bit_for_bit(kind, factor, original, head_dim, theta, low, high, length) -> None:
    bands = {
        "yarn": {"beta_slow": low, "beta_fast": high},
        "llama3": {"low_freq_factor": low, "high_freq_factor": high},
    }
    scaling = RopeScaling(kind, factor, original, **bands.get(kind, {}))
    config = replace(GQA, head_dim=head_dim, rope_theta=theta, rope_scaling=scaling)
    freqs, attention_factor = scaled_frequencies(head_dim, theta, scaling, length)
    expected, expected_factor = ROPE_INIT_FUNCTIONS[kind](hf_config(config), seq_len=length)
    assert torch.equal(freqs, expected)
    assert attention_factor == expected_factor


@pytest.mark.parametrize(("head_dim", "counts"), [(64, (15, 3, 14)), (128, (29, 6, 29))])
@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_llama3_keeps_smooths_and_divides(head_dim: int, counts: tuple, factor: float) -> None:
    """Fast pairs are left alone, slow ones divided by the factor, and a few between are blended."""
    ratio = scaled_frequencies(head_dim, 5e5, RopeScaling("llama3", factor, 8192))[0] / rope_frequencies(head_dim, 5e5)
    kept, divided = (ratio == 1).sum().item(), (ratio == 1 / factor).sum().item()
    assert (kept, head_dim // 2 - kept - divided, divided) == counts
    assert (ratio.diff() <= 0).all()


@pytest.mark.parametrize("name", ["SmolLM2-135M", "Llama-3.1-8B", "Llama-3.2-1B", "TinyLlama-1.1B"])
def test_cos_and_sin_over_the_whole_context_against_fp64(name: str) -> None:
    """Given the fp32 frequencies, an angle of up to 131071 rad is rounded by 2⁻⁸ rad at most, a smaller one by less."""
    config = replace(PRESETS[name], max_seq_len=CONTEXT)
    rope = Rope(config)
    positions = torch.arange(CONTEXT)
    cos, sin = (t[0, 0] for t in rope(positions[None]))
    angles = positions[:, None].double() * rope.freqs.double()
    rounding = angles.clamp(min=1) * 2**-24 + 2**-23  # half a step of fp32 at this angle, and one of the result
    assert ((cos - angles.cos()).abs() <= rounding).all()
    assert ((sin - angles.sin()).abs() <= rounding).all()
    assert cos.dtype == sin.dtype == torch.float32


def test_frequencies_against_the_paper_in_fp64() -> None:
    expected = [math.pow(5e5, -2 * i / 128) for i in range(64)]
    torch.testing.assert_close(rope_frequencies(128, 5e5).double(), torch.tensor(expected).double(), rtol=2e-6, atol=0)


@pytest.mark.parametrize(
    "convert", [lambda m: m.to(torch.bfloat16), lambda m: m.half(), lambda m: m.bfloat16().float()]
)
def test_frequencies_stay_exact_when_the_model_changes_type(convert) -> None:
    model = Llama(CASES["llama3-x8"])
    before = model.rope.freqs.clone()
    convert(model)
    assert model.rope.freqs.dtype == torch.float32
    assert torch.equal(model.rope.freqs, before)
    assert model.rope(torch.arange(4)[None])[0].dtype == torch.float32


def test_frequencies_are_right_in_a_model_built_on_the_meta_device() -> None:
    """Where checkpoints are loaded, nothing fills in a buffer that was made without numbers."""
    with torch.device("meta"):
        model = Llama(GQA)
    model.to_empty(device="cpu")
    assert torch.equal(model.rope.freqs, Llama(GQA).rope.freqs)


def test_dynamic_changes_nothing_within_the_training_context() -> None:
    scaling = RopeScaling("dynamic", 4.0, 2048)
    assert torch.equal(scaled_frequencies(64, 1e4, scaling, 2048)[0], rope_frequencies(64, 1e4))
    assert (scaled_frequencies(64, 1e4, scaling, 2049)[0][1:] < rope_frequencies(64, 1e4)[1:]).all()


def test_nothing_of_rope_is_saved() -> None:
    assert not [name for name in Llama(GQA).state_dict() if "rope" in name]


def test_preset_factors() -> None:
    """8 for Llama 3.1 and 3.3, 32 for 3.2; the difference shows only in long texts."""
    factors = {name: c.rope_scaling.factor for name, c in PRESETS.items() if c.rope_scaling}
    assert set(factors.values()) == {8.0, 32.0}
    assert [name for name, factor in factors.items() if factor == 32] == ["Llama-3.2-1B", "Llama-3.2-3B"]
    assert LlamaConfig.preset("Llama-3-8B").rope_scaling is None
