"""Sampling rules against transformers and against their definitions; the loop against transformers and a plain one."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_from_scratch import Llama, LlamaConfig
from llama_from_scratch.checkpoint.embedded import EMBEDDED
from llama_from_scratch.generation import Sampling, generate, generate_batch, next_token
from llama_from_scratch.generation.sampling import COLDEST, keep_min_p, keep_top_k, keep_top_p
from llama_from_scratch.tokenizer import load_tokenizer

INF = float("inf")
PROMPTS = [
    "The capital of France is",
    "def fibonacci(n):\n    ",
    "Once upon a time there was a small dragon who",
]


@pytest.fixture(scope="module")
def tok():
    return load_tokenizer(EMBEDDED)


@pytest.fixture(scope="module")
def small() -> Llama:
    """Random weights, grouped queries, a short context; logits that differ enough for an unmistakable largest one."""
    torch.manual_seed(0)
    model = Llama(LlamaConfig(97, 64, 3, 4, 2, 16, 128, max_seq_len=64)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(0, 0.3) if weight.dim() == 2 else weight.uniform_(0.5, 1.5)
    return model


def plain_greedy(model: Llama, prompt: list[int], n: int) -> list[int]:
    """No cache, no loop to get wrong: the whole text through the model for each token."""
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(n):
            ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    return ids[len(prompt) :]


# --- the loop ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", PROMPTS)
def test_greedy_equals_transformers_on_the_embedded_model(smollm2, hf_smollm2, tok, prompt):
    ids = tok.encode(prompt)
    ours = list(generate(smollm2, ids, 20, stop_ids=tok.stop_ids))
    theirs = hf_smollm2.generate(
        torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids)),
        max_new_tokens=20,
        do_sample=False,
        eos_token_id=sorted(tok.stop_ids),
        pad_token_id=0,
    )[0, len(ids) :].tolist()
    if theirs[-1] in tok.stop_ids:  # which transformers gives and we do not
        theirs.pop()
    assert ours == theirs
    assert len(ours) > 3


def test_cached_equals_uncached(small, smollm2, tok):
    prompt = [5, 17, 80, 3, 3, 41, 9]
    assert list(generate(small, prompt, 57)) == plain_greedy(small, prompt, 57)  # to the end of the context
    ids = tok.encode(PROMPTS[2])
    assert list(generate(smollm2, ids, 8)) == plain_greedy(smollm2, ids, 8)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.integers(0, 96), min_size=1, max_size=20), min_size=1, max_size=5), st.integers(1, 30))
def test_a_batch_equals_single_runs(small, prompts, n):
    stop = {1, 2, 3, 4, 5, 6, 7, 8}  # an early end now and then, at another step in each row
    singles = [list(generate(small, prompt, n, stop_ids=stop)) for prompt in prompts]
    assert generate_batch(small, prompts, n, stop_ids=stop) == singles


def test_a_batch_equals_single_runs_on_the_embedded_model(smollm2, tok):
    prompts = [tok.encode(prompt) for prompt in PROMPTS]
    singles = [list(generate(smollm2, prompt, 8, stop_ids=tok.stop_ids)) for prompt in prompts]
    assert generate_batch(smollm2, prompts, 8, stop_ids=tok.stop_ids) == singles


def test_each_row_stops_by_itself(small):
    prompts = [[5, 17, 80], [9], [60, 61, 62, 63, 64]]
    free = generate_batch(small, prompts, 20)
    stop = free[0][4]
    stopped = generate_batch(small, prompts, 20, stop_ids={stop})
    expected = [row[: row.index(stop)] if stop in row else row for row in free]
    assert stopped == expected
    assert len({len(row) for row in stopped}) > 1


def test_the_stop_token_ends_the_text_and_is_not_given(small):
    free = list(generate(small, [5, 17, 80], 10))
    at = free.index(free[6])
    assert list(generate(small, [5, 17, 80], 10, stop_ids={free[6]})) == free[:at]
    assert list(generate(small, [5, 17, 80], 10, stop_ids={free[0]})) == []
    assert len(list(generate(small, [5, 17, 80], 1))) == 1


def test_tokens_come_one_at_a_time_and_gradients_work_between_them(small):
    calls = []
    hook = small.norm.register_forward_hook(lambda *_: calls.append(torch.is_inference_mode_enabled()))
    try:
        for i, _ in enumerate(generate(small, [5, 17, 80], 5), start=1):
            assert len(calls) == i and calls[-1]  # no token is computed before it is asked for
            assert not torch.is_inference_mode_enabled() and torch.is_grad_enabled()
            weight = torch.ones(2, requires_grad=True)
            (weight * weight).sum().backward()
            assert weight.grad.tolist() == [2, 2]
    finally:
        hook.remove()
    assert i == 5


def test_bf16_runs_in_its_own_type(small):
    import copy

    half = copy.deepcopy(small).to(torch.bfloat16)
    tokens = list(generate(half, [5, 17, 80], 10, Sampling(1.0, seed=0)))
    assert len(tokens) == 10 and all(0 <= token < 97 for token in tokens)


@pytest.mark.parametrize(
    ("prompt", "n", "sampling", "message"),
    [
        ([], 5, Sampling(), "the prompt is empty"),
        ([5, 97], 5, Sampling(), "token id 97; this model knows 0 to 96"),
        ([-1], 5, Sampling(), "token id -1"),
        ([1] * 65, 5, Sampling(), "65 tokens and the model's context is 64"),
        ([1] * 64, 1, Sampling(), "64, which leaves no room"),
        ([1] * 60, 5, Sampling(), "length 60 and 5 new tokens are 65; the model's context is 64, so ask for at most 4"),
        ([1], 0, Sampling(), "max_new_tokens is 0"),
        ([1], -3, Sampling(), "max_new_tokens is -3"),
        ([1], 5, Sampling(1.0, top_k=98), "top_k is 98; this model has only 97"),
    ],
)
def test_impossible_requests_are_refused_at_once(small, prompt, n, sampling, message):
    with pytest.raises(ValueError, match=message):
        generate(small, prompt, n, sampling)  # not iterated over
    with pytest.raises(ValueError, match=message):
        generate_batch(small, [[1], prompt], n, sampling)


def test_an_empty_batch_is_refused(small):
    with pytest.raises(ValueError, match="no prompts"):
        generate_batch(small, [], 5)


def test_the_whole_context_can_be_used(small):
    assert len(list(generate(small, [1] * 60, 4))) == 4
    assert len(list(generate(small, [1] * 63, 1))) == 1


# --- chance ------------------------------------------------------------------------------------------------------


def test_a_seed_draws_the_same_text_and_another_seed_another(small):
    runs = {
        seed: [list(generate(small, [5, 17], 30, Sampling(1.5, seed=seed))) for _ in range(2)]
        for seed in (0, 1, 2**63 - 1)
    }
    assert all(first == second for first, second in runs.values())
    assert len({tuple(first) for first, _ in runs.values()}) == 3
    unseeded = [tuple(generate(small, [5, 17], 30, Sampling(1.5))) for _ in range(2)]
    assert unseeded[0] != unseeded[1]


def test_drawing_leaves_the_global_source_of_chance_alone(small):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    list(generate(small, [5], 5, Sampling(1.0)))
    assert torch.equal(torch.rand(1), expected)


def test_temperature_0_and_top_k_1_are_greedy(small):
    greedy = plain_greedy(small, [5, 17], 20)
    for rule in (
        Sampling(),
        Sampling(0.0, seed=5),
        Sampling(3.0, top_k=1),
        Sampling(3.0, top_p=1e-9),
        Sampling(3.0, min_p=1.0),
    ):
        assert list(generate(small, [5, 17], 20, rule)) == greedy


# The 99.9 % point of chi-square with 5 degrees of freedom (NIST/SEMATECH e-Handbook, 1.3.6.7.4).
CRITICAL = 20.515


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (dict(temperature=1.0), [0.4, 0.25, 0.15, 0.1, 0.06, 0.04]),
        (dict(temperature=0.5), [n / 0.2702 for n in (0.16, 0.0625, 0.0225, 0.01, 0.0036, 0.0016)]),
        (dict(temperature=1.0, top_k=3), [0.5, 0.3125, 0.1875, 0, 0, 0]),
        (dict(temperature=1.0, top_p=0.7), [0.5, 0.3125, 0.1875, 0, 0, 0]),
        (dict(temperature=1.0, min_p=0.3), [0.5, 0.3125, 0.1875, 0, 0, 0]),
        (dict(temperature=0.5, top_p=0.7), [0.16 / 0.2225, 0.0625 / 0.2225, 0, 0, 0, 0]),
    ],
)
def test_tokens_are_drawn_as_often_as_they_are_likely(rule, expected):
    """Chi-square over 60 000 draws. The temperature comes first: at 0.5 two tokens hold 0.7, at 1 it takes three."""
    if sum(expected) != pytest.approx(1):
        expected = [n / sum(expected) for n in expected]
    logits = torch.tensor([0.4, 0.25, 0.15, 0.1, 0.06, 0.04]).log() + 7
    rule = Sampling(seed=0, **rule)
    n = 60_000

    def distance(sampled: Sampling) -> float:
        drawn = next_token(logits.expand(n, -1), sampled, rule.generator()).bincount(minlength=6)
        wanted = torch.tensor(expected) * n
        if drawn[wanted == 0].any():
            return INF
        return float(((drawn - wanted) ** 2 / wanted)[wanted > 0].sum())

    assert distance(rule) < CRITICAL
    warmer = Sampling(rule.temperature * 1.1, rule.top_k, rule.top_p, rule.min_p, seed=0)
    assert distance(warmer) > CRITICAL  # the test would notice a temperature that is off by a tenth


# --- the filters -------------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 2**31),
    st.integers(2, 300),
    st.floats(0.05, 3.0),
    st.integers(1, 300),
    st.floats(0.01, 0.999),
    st.floats(0.0, 1.0),
)
def test_filters_equal_the_processors_of_transformers(seed, vocab, temperature, k, top_p, min_p):
    from transformers.generation import logits_process as theirs

    logits = torch.randn(3, vocab, generator=torch.Generator().manual_seed(seed)) * 2.5
    logits = logits.double()  # so that no probability falls on a border by rounding
    k = min(k, vocab)
    assert torch.equal(keep_top_k(logits, k), theirs.TopKLogitsWarper(k)(None, logits))
    assert torch.equal(keep_top_p(logits, top_p), theirs.TopPLogitsWarper(top_p)(None, logits))
    assert torch.equal(keep_min_p(logits, min_p), theirs.MinPLogitsWarper(min_p)(None, logits))
    chain = logits / temperature
    ours = keep_min_p(keep_top_p(keep_top_k(chain, k), top_p), min_p)
    for step in (theirs.TopKLogitsWarper(k), theirs.TopPLogitsWarper(top_p), theirs.MinPLogitsWarper(min_p)):
        chain = step(None, chain)
    assert torch.equal(ours, chain)


def kept(logits: torch.Tensor) -> list[int]:
    return (logits > -INF).nonzero()[:, -1].tolist()


def test_top_k_keeps_exactly_k_where_logits_are_equal():
    logits = torch.tensor([1.0, 2.0, 2.0, 2.0, 0.0])
    for k in range(1, 6):
        assert len(kept(keep_top_k(logits, k))) == k
    assert torch.equal(keep_top_k(logits, 5), logits)
    for k in (0, 6):
        with pytest.raises(ValueError, match=f"top_k is {k}"):
            keep_top_k(logits, k)


def test_top_p_keeps_while_less_than_p_is_held():
    logits = torch.tensor([0.125, 0.5, 0.125, 0.25], dtype=torch.float64).log()
    assert kept(keep_top_p(logits, 0.01)) == [1]
    assert kept(keep_top_p(logits, 0.4)) == [1]
    assert kept(keep_top_p(logits, 0.6)) == [1, 3]
    assert kept(keep_top_p(logits, 0.8)) == [0, 1, 3]  # of two equals the first
    assert kept(keep_top_p(logits, 0.99)) == [0, 1, 2, 3]
    assert torch.equal(keep_top_p(logits, 1.0), logits)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**31), st.floats(1e-12, 1.0))
def test_top_p_keeps_the_fewest_that_are_enough(seed, p):
    logits = torch.randn(40, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 3
    probability = logits.softmax(-1)
    chosen = kept(keep_top_p(logits, p))
    held = probability[chosen].sum().item()
    assert held >= p - 1e-9
    assert held - probability[chosen].min().item() < p + 1e-9
    assert set(chosen) == set(probability.topk(len(chosen)).indices.tolist())


def test_min_p_is_relative_to_the_most_likely():
    logits = torch.tensor([0.125, 0.5, 0.125, 0.25], dtype=torch.float64).log()
    assert kept(keep_min_p(logits, 0.0)) == [0, 1, 2, 3]
    assert kept(keep_min_p(logits, 0.3)) == [1, 3]
    assert kept(keep_min_p(logits, 0.6)) == [1]
    assert kept(keep_min_p(torch.tensor([2.0, 2.0, 1.0]), 1.0)) == [0, 1]


def test_a_prompt_that_is_still_text(small, as_users_run_it):
    with pytest.raises(ValueError, match="the prompt is the text 'Hello'; give its token ids"):
        generate(small, "Hello", 3)


def test_nan_is_reported_and_not_drawn_from():
    logits = torch.tensor([[1.0, float("nan"), 2.0]])
    for rule in (Sampling(), Sampling(temperature=1.0)):
        with pytest.raises(ValueError, match="logits are NaN in torch.float32"):
            next_token(logits, rule)


def test_the_coldest_draw_is_the_most_likely_token():
    logits = torch.tensor([[-3e4, 1.0, 3e4]])  # as far apart as half-precision logits can be
    assert next_token(logits, Sampling(temperature=COLDEST, top_k=2, top_p=0.9, min_p=0.1)).tolist() == [2]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (dict(temperature=-0.1), "temperature is -0.1; it must be 0"),
        (dict(temperature=1e-40), "temperature is 1e-40; .* or a number of at least 0.001"),
        (dict(temperature=INF), "temperature is inf"),
        (dict(temperature=float("nan")), "temperature is nan"),
        (dict(top_k=0), "top_k is 0; it must be a whole number of at least 1"),
        (dict(top_p=0.0), "top_p is 0.0; it must be above 0 and at most 1"),
        (dict(top_p=1.1), "top_p is 1.1"),
        (dict(top_p=float("nan")), "top_p is nan"),
        (dict(min_p=-0.1), "min_p is -0.1; it must be from 0 to 1"),
        (dict(min_p=1.5), "min_p is 1.5"),
        (dict(seed=-1), "seed is -1"),
        (dict(seed=2**63), "seed is 9223372036854775808"),
    ],
)
def test_silly_sampling_values_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Sampling(**wrong)
