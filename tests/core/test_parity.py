"""Our Llama against independent ones, in fp32 to 1e-4. What is compared, and how, is in reference.py."""

import pytest
import torch
import torch.nn.functional as F
from reference import (
    CASES,
    assert_same,
    meta_logits,
    parity,
    parity_combinations,
    random_pair,
    random_tokens,
    to_meta_rows,
)
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from llama_from_scratch import Llama, RMSNorm
from llama_from_scratch.attention import attention_weights, causal_mask
from llama_from_scratch.rope import adjacent_to_halves, halves_to_adjacent


@pytest.mark.parametrize(("check", "case"), parity_combinations())
def test_parity(check: str, case: str) -> None:
    parity(check, case)


@pytest.mark.parametrize("case", ["gqa", "mha", "mqa", "tied", "wide-heads", "narrow-heads"])
def test_meta_layout_with_complex_numbers(case: str) -> None:
    """Adjacent pairs with permuted rows are the same model as halves: the two layouts are one rotation."""
    ours, theirs = random_pair(CASES[case])
    tokens = random_tokens(CASES[case])
    with torch.no_grad():
        assert_same("logits", ours(tokens), meta_logits(theirs, tokens))


def test_permutations_of_rows_are_those_of_the_reference() -> None:
    weight = torch.randn(8 * 16, 128)
    assert torch.equal(halves_to_adjacent(weight, 8), to_meta_rows(weight, 16))
    assert torch.equal(adjacent_to_halves(to_meta_rows(weight, 16), 8), weight)


def test_long_input() -> None:
    """512 tokens, beyond which bf16 could no longer tell every second position from the next."""
    ours, theirs = random_pair(CASES["gqa"])
    tokens = random_tokens(CASES["gqa"], batch=1, seq=512)
    with torch.no_grad():
        assert_same("logits", ours(tokens), theirs(tokens).logits)


def test_attention_in_the_open_is_what_the_fused_kernel_computes() -> None:
    q, k, v = torch.randn(2, 8, 5, 16), torch.randn(2, 2, 64, 16), torch.randn(2, 2, 64, 16)
    mask = causal_mask(torch.arange(59, 64), 64)
    weights = attention_weights(q, k, mask)
    mixed = weights @ v.repeat_interleave(4, dim=1)
    assert_same("outputs", mixed, F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True), 1e-5)


def test_bf16_stays_close_to_fp32() -> None:
    """Everything in bf16 but the norms' insides, the angles and the softmax: logits within the rounding of bf16."""
    ours, theirs = random_pair(CASES["gqa"])
    tokens = random_tokens(CASES["gqa"])
    with torch.no_grad():
        exact, rounded = theirs(tokens).logits, ours.to(torch.bfloat16)(tokens)
        theirs_rounded = theirs.to(torch.bfloat16)(tokens).logits
    assert rounded.dtype == torch.bfloat16
    error, their_error = (rounded - exact).abs().mean(), (theirs_rounded - exact).abs().mean()
    assert error < 1.1 * their_error


# RMSNorm, bit for bit


def norms(dtype: torch.dtype) -> tuple[RMSNorm, LlamaRMSNorm, torch.Tensor]:
    ours, theirs = RMSNorm(576), LlamaRMSNorm(576, eps=1e-5)
    weight = torch.empty(576).uniform_(0.25, 1.75)
    for norm in (ours, theirs):
        norm.weight.data = weight.to(dtype)
    return ours, theirs, (3 * torch.randn(64, 576)).to(dtype)


def test_rms_norm_is_that_of_transformers_bit_for_bit_in_fp32() -> None:
    ours, theirs, x = norms(torch.float32)
    assert torch.equal(ours(x), theirs(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rms_norm_is_that_of_torch_bit_for_bit(dtype: torch.dtype) -> None:
    ours, _, x = norms(dtype)
    assert torch.equal(ours(x), F.rms_norm(x, (576,), ours.weight, 1e-5))


def test_rounding_once_is_more_accurate_in_bf16_than_rounding_twice() -> None:
    """Transformers and Meta round before the multiplication by the weight as well: the docstring's claim, measured."""
    ours, theirs, x = norms(torch.bfloat16)
    exact = F.rms_norm(x.double(), (576,), ours.weight.double(), 1e-5)
    once, twice = (ours(x) - exact).abs().mean(), (theirs(x) - exact).abs().mean()
    assert once < 0.9 * twice
    assert ((ours(x) - theirs(x)).abs() <= 2**-7 * theirs(x).abs()).all()  # one step of bf16 apart at most


def test_model_has_the_parameters_it_counts() -> None:
    for config in CASES.values():
        assert sum(p.numel() for p in Llama(config).parameters()) == config.n_params
