"""Sampling rules against transformers, against their definitions, and at their limits."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_from_scratch.generation import Sampling, next_token, probabilities
from llama_from_scratch.generation.sampling import COLDEST, keep_min_p, keep_top_k, keep_top_p, penalise_repetition

INF = float("inf")

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


@pytest.mark.parametrize("rule", [Sampling(), Sampling(temperature=1.0)], ids=["greedy", "drawn"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    ("dtype", "advice"), [(torch.float32, "check its weights"), (torch.float16, "load it as torch.float32")]
)
def test_nan_or_infinite_logits_raise(rule, bad, dtype, advice):
    logits = torch.tensor([[1.0, 0.5, 2.0], [1.0, bad, 2.0]], dtype=dtype)
    with pytest.raises(ValueError, match=f"logits are NaN or infinite in {dtype}; {advice}"):
        next_token(logits, rule)


def test_logits_of_minus_infinity_are_never_drawn():
    logits = torch.tensor([[float("-inf"), 0.5, float("-inf")]])
    assert next_token(logits, Sampling()).tolist() == next_token(logits, Sampling(temperature=1.0)).tolist() == [1]


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
        (dict(repetition_penalty=0.0), "repetition_penalty is 0.0; it must be above 0"),
        (dict(repetition_penalty=-1.2), "repetition_penalty is -1.2"),
        (dict(repetition_penalty=INF), "repetition_penalty is inf"),
        (dict(repetition_penalty=float("nan")), "repetition_penalty is nan"),
        (dict(seed=-1), "seed is -1"),
        (dict(seed=2**63), "seed is 9223372036854775808"),
    ],
)
def test_silly_sampling_values_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Sampling(**wrong)


# --- the repetition penalty --------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 300), st.integers(1, 20), st.floats(0.1, 10.0))
def test_the_penalty_equals_that_of_transformers(seed, vocab, seq, penalty):
    from transformers.generation.logits_process import RepetitionPenaltyLogitsProcessor

    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, vocab, generator=generator) * 2.5
    ids = torch.randint(vocab, (3, seq), generator=generator)
    seen = torch.zeros(3, vocab, dtype=torch.bool).scatter(1, ids, True)
    assert torch.equal(
        penalise_repetition(logits, seen, penalty), RepetitionPenaltyLogitsProcessor(penalty)(ids, logits.clone())
    )


def test_a_penalty_of_one_changes_nothing_and_unseen_tokens_keep_their_logits():
    logits = torch.tensor([[2.0, -1.0, 0.0, 3.0, -4.0]])
    seen = torch.tensor([[True, True, True, False, False]])
    assert torch.equal(penalise_repetition(logits, seen, 1.0), logits)
    assert penalise_repetition(logits, seen, 2.0).tolist() == [[1.0, -2.0, 0.0, 3.0, -4.0]]
    assert penalise_repetition(logits, seen, 0.5).tolist() == [[4.0, -0.5, 0.0, 3.0, -4.0]]  # below 1: seen is liked


def test_the_penalty_comes_before_the_temperature_and_the_filters():
    logits = torch.tensor([[4.0, 3.0, 1.0]])
    seen = torch.tensor([[True, False, False]])
    assert next_token(logits, Sampling(repetition_penalty=2.0), None, seen).tolist() == [1]
    # 2, 3, 1 are left: of the best two, token 0 is the second.
    rule = Sampling(temperature=0.5, top_k=2, repetition_penalty=2.0)
    expected = torch.tensor([[4.0, 6.0, -INF]]).softmax(-1)
    torch.testing.assert_close(probabilities(logits, rule, seen), expected)


# --- what is drawn from ------------------------------------------------------------------------------------------


def test_probabilities_of_the_greedy_rule_are_all_on_one():
    logits = torch.tensor([[1.0, 5.0, 5.0, 2.0], [0.0, -1.0, -2.0, -3.0]])
    assert probabilities(logits, Sampling()).tolist() == [[0, 1, 0, 0], [1, 0, 0, 0]]  # of equals the first


def test_exactly_reached_limits():
    """What reaches the limit is enough for top-p, and what lies on it stays for min-p."""
    logits = torch.tensor([0.5, 0.25, 0.125, 0.125], dtype=torch.float64).log()
    best, second, third, _ = logits.softmax(-1).tolist()  # as they are after rounding
    assert kept(keep_top_p(logits, best)) == [0]
    assert kept(keep_top_p(logits, best + 1e-9)) == [0, 1]
    assert kept(keep_min_p(logits, third / best)) == [0, 1, 2, 3]
    assert kept(keep_min_p(logits, third / best + 1e-9)) == [0, 1]
    assert kept(keep_min_p(logits, second / best + 1e-9)) == [0]


def test_equals_at_every_limit():
    logits = torch.zeros(8)
    assert len(kept(keep_top_k(logits, 3))) == 3
    assert len(kept(keep_top_p(logits, 0.5))) == 4  # 4 of 8 equals hold exactly a half
    assert len(kept(keep_min_p(logits, 1.0))) == 8  # all are as likely as the best
    for rule in (Sampling(1.0, top_k=1, seed=0), Sampling(1.0, top_p=1e-6, seed=0)):
        drawn = next_token(logits.expand(50, -1), rule, rule.generator()).unique()
        assert len(drawn) == 1


def test_the_tiniest_temperature_is_greedy_where_logits_differ():
    logits = torch.randn(200, 50, generator=torch.Generator().manual_seed(0))
    gap = logits.topk(2).values
    clear = (gap[:, 0] - gap[:, 1]) > 0.03  # e^30 times as likely
    rule = Sampling(COLDEST, seed=0)
    drawn = next_token(logits, rule, rule.generator())
    assert clear.sum() > 150
    assert torch.equal(drawn[clear], logits.argmax(-1)[clear])
