"""What quantising changes about the embedded model: little, and as much as is said here."""

import pytest
import torch

from llama_from_scratch.bench.quality import compare, next_token_logits
from llama_from_scratch.checkpoint import describe
from llama_from_scratch.fast import prepare
from llama_from_scratch.fast.int4 import quantise_groups
from llama_from_scratch.files.embedded import EMBEDDED


@pytest.fixture(scope="module")
def ids(fixed_ids):
    return torch.tensor([fixed_ids[:128]])


@pytest.fixture(scope="module")
def reference(smollm2, ids):
    return next_token_logits(smollm2, ids)


def test_logits_in_pieces_are_those_of_one_pass(smollm2, ids, reference):
    with torch.no_grad():
        torch.testing.assert_close(smollm2(ids)[0], reference, atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("quantise", "change", "same", "divergence"), [("int8", 0.03, 0.90, 0.006), ("int4", 0.01, 0.92, 0.003)]
)
def test_perplexity_and_choices(smollm2, ids, reference, quantise, change, same, divergence):
    found = compare(reference, prepare(smollm2, quantise=quantise), ids)
    assert abs(found.perplexity_change) < change
    assert found.same_choice >= same
    assert 0 < found.divergence < divergence


@pytest.mark.parametrize("quantise", ["int8", "int4"])
def test_a_prompt_changes_as_little(smollm2, ids, reference, quantise):
    """In one pass of 128 tokens, which takes other kernels. One byte for each input would give ten times as much."""
    found = compare(reference, prepare(smollm2, quantise=quantise), ids, at_a_time=128)
    assert abs(found.perplexity_change) < 0.03
    assert found.same_choice >= 0.88  # of 127 choices; 0.95 of 511 in benchmarks/cpu-quality
    assert 0 < found.divergence < 0.006


def test_int4_keeps_the_codes_of_the_file(smollm2):
    """The file is Q4_1, so each group of 32 holds at most 16 values, and int4 finds the same 16."""
    names = {tensor.name: tensor.stored_type for tensor in describe(EMBEDDED).tensors}
    assert names["blocks.7.feed_forward.up_proj.weight"] == "Q4_1"
    weight = smollm2.blocks[7].feed_forward.up_proj.weight.detach()
    codes, packed = quantise_groups(weight)
    groups = weight.unflatten(1, (-1, 32))
    low, high = groups.aminmax(dim=-1, keepdim=True)
    exact = ((groups - low) / (high - low) * 15).round()  # to the 16 steps from the smallest to the largest
    torch.testing.assert_close(exact / 15 * (high - low) + low, groups, atol=1e-6, rtol=1e-5)
    assert (codes == exact.flatten(1)).double().mean() > 0.999
