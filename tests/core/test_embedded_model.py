"""The model that comes with the project, against transformers' own reading of the same file, in fp32."""

import copy

import pytest
import torch
import torch.nn.functional as F
from reference import assert_same, module_pairs
from torch import Tensor

from llama_from_scratch import KVCache, Llama

PROMPTS = {
    # token ids, since the tokenizer has tests of its own
    "The capital of France is": [504, 3575, 282, 4649, 314],
    "Every autumn the bakery on the corner": None,  # the first tokens of the fixed text
}

# Logits of up to 30 after 30 layers in fp32; the largest difference seen on any kernel set is 1.2e-4.
TOLERANCE = 6e-4


def nll(logits: Tensor, ids: Tensor) -> float:
    """Mean negative log-likelihood of each token given those before it, in nats."""
    return F.cross_entropy(logits[:-1].float(), ids[1:]).item()


@pytest.fixture(scope="module")
def ids(fixed_ids) -> Tensor:
    return torch.tensor([fixed_ids])


@pytest.fixture(scope="module")
def logits(smollm2, ids) -> Tensor:
    with torch.no_grad():
        return smollm2(ids)


@pytest.fixture(scope="module")
def hf_logits(hf_smollm2, ids) -> Tensor:
    with torch.no_grad():
        return hf_smollm2(ids).logits


def test_weights_are_those_that_transformers_reads(smollm2: Llama, hf_smollm2) -> None:
    """Bit for bit, q and k rows included, which the file stores in another order."""
    pairs = list(module_pairs(hf_smollm2, smollm2))
    assert len(pairs) == 30 * 9 + 2
    for mine, yours in pairs:
        assert torch.equal(mine.weight, yours.weight)


def test_likelihood_of_a_text(logits: Tensor, hf_logits: Tensor, ids: Tensor) -> None:
    mine, yours = nll(logits[0], ids[0]), nll(hf_logits[0], ids[0])
    assert mine == pytest.approx(yours, abs=1e-5)
    assert 2 < mine < 5  # it has learned English: a guess among all tokens costs ln 49152 = 10.8


def test_logits(logits: Tensor, hf_logits: Tensor) -> None:
    assert_same("logits", logits, hf_logits, TOLERANCE)


@pytest.mark.parametrize("position", [0, 1, 31, 100, -1])
def test_ten_likeliest_tokens(position: int, logits: Tensor, hf_logits: Tensor) -> None:
    mine, yours = logits[0, position].topk(10), hf_logits[0, position].topk(10)
    assert mine.indices.tolist() == yours.indices.tolist()
    assert_same("logits", mine.values, yours.values, TOLERANCE)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_greedy_continuation(prompt: str, smollm2: Llama, hf_smollm2, fixed_ids) -> None:
    start = torch.tensor([PROMPTS[prompt] or fixed_ids[:7]])
    with torch.no_grad():
        expected = hf_smollm2.generate(
            start, attention_mask=torch.ones_like(start), do_sample=False, max_new_tokens=20, eos_token_id=None
        )
        cache, tokens = KVCache(smollm2.config, batch=1, capacity=32), start
        for _ in range(20):
            last = smollm2(tokens[:, cache.length :], cache)[:, -1]
            best, second = last.topk(2).values[0]
            assert best - second > 1e-3  # far above rounding, so there is one right answer
            tokens = torch.cat([tokens, last.argmax(-1, keepdim=True)], dim=1)
    assert tokens.tolist() == expected.tolist()


@pytest.mark.parametrize(
    "chunks", [[165], [17, 23, 8, 60, 57], [160, 1, 1, 1, 1, 1]], ids=["whole", "chunks", "tokens"]
)
def test_cached_pass_is_the_uncached_one(chunks: list[int], smollm2: Llama, logits: Tensor, ids: Tensor) -> None:
    cache = KVCache(smollm2.config, batch=1, capacity=165)
    with torch.no_grad():
        cached = torch.cat([smollm2(chunk, cache) for chunk in ids.split(chunks, dim=1)], dim=1)
    assert_same("logits", cached, logits, TOLERANCE)


def test_rewound_cache_is_as_good_as_new(smollm2: Llama, logits: Tensor, ids: Tensor) -> None:
    """What is written over was written for other tokens."""
    cache = KVCache(smollm2.config, batch=1, capacity=80)
    with torch.no_grad():
        smollm2(ids[:, :40], cache)
        smollm2(ids[:, 100:140], cache)
        cache.rewind(40)
        again = smollm2(ids[:, 40:60], cache)
    assert cache.length == 60
    assert_same("logits", again, logits[:, 40:60], TOLERANCE)


def test_left_padded_batch_is_each_row_alone(smollm2: Llama, logits: Tensor, ids: Tensor) -> None:
    """Prompts of 48, 20 and 1 tokens in one batch, first through the whole prompt, then three steps with the cache."""
    lengths, width = [48, 20, 1], 48
    tokens = torch.stack([F.pad(ids[0, :n], (width - n, 0), value=2) for n in lengths])
    mask = torch.stack([torch.arange(width + 3) >= width - n for n in lengths])
    cache = KVCache(smollm2.config, batch=3, capacity=width + 3)
    with torch.no_grad():
        steps = [smollm2(tokens, cache, mask[:, :width])]
        for i in range(3):
            step = torch.stack([ids[0, n + i : n + i + 1] for n in lengths])
            steps.append(smollm2(step, cache, mask[:, : width + i + 1]))
    batch = torch.cat(steps, dim=1)
    assert batch.isfinite().all()  # in the padding too, whose rows have nothing to look at
    for row, n in zip(batch, lengths, strict=True):
        assert_same(f"logits of the row of {n}", row[width - n :], logits[0, : n + 3], TOLERANCE)


def test_text_is_as_likely_in_bf16(smollm2: Llama, logits: Tensor, ids: Tensor) -> None:
    with torch.no_grad():
        rounded = copy.deepcopy(smollm2).to(torch.bfloat16)(ids)
    assert rounded.dtype == torch.bfloat16
    assert abs(nll(rounded[0], ids[0]) - nll(logits[0], ids[0])) < 0.02
