"""Speculative decoding writes what the model alone would write, whatever the draft; and classic mistakes are seen."""

import inspect
from collections import Counter
from dataclasses import replace

import pytest
import torch
from tiny import TINY, tiny_model

from llama_from_scratch import Llama, LlamaConfig, RopeScaling
from llama_from_scratch.files.embedded import EMBEDDED
from llama_from_scratch.generation import (
    Sampling,
    Tally,
    draft_model,
    generate,
    generate_speculative,
    prompt_lookup,
    speculative,
)
from llama_from_scratch.generation.draft import followed
from llama_from_scratch.tokenizer import load_tokenizer

PROMPT = [5, 17, 80, 3, 3, 41, 9]


@pytest.fixture(scope="module")
def small() -> Llama:
    return tiny_model()


@pytest.fixture(scope="module")
def bad() -> Llama:
    """Another random model: right about once in a hundred. Its context ends before that of the model."""
    return tiny_model(replace(TINY, dim=32, n_layers=1, n_heads=2, n_kv_heads=1, max_seq_len=40), seed=1)


@pytest.fixture(scope="module")
def close_one(small) -> Llama:
    """The same model with a little noise on its weights: right now and then, so runs end in the middle."""
    model = tiny_model()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.01 * torch.randn(weight.shape, generator=generator)
    return model


@pytest.fixture(params=["same", "close", "bad", "lookup"])
def draft(request, small, close_one, bad):
    models = {"same": small, "close": close_one, "bad": bad}
    return prompt_lookup(small) if request.param == "lookup" else draft_model(small, models[request.param])


# --- greedy: the same tokens ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_guesses", [1, 3, 8])
def test_greedy_text_is_the_same_to_the_end_of_the_context(small, draft, n_guesses):
    expected = list(generate(small, PROMPT, 57))
    for n in (57, 1, 2):
        assert list(generate_speculative(small, PROMPT, n, draft, n_guesses=n_guesses)) == expected[:n]


def test_a_prompt_of_one_token(small, draft):
    assert list(generate_speculative(small, [9], 10, draft)) == list(generate(small, [9], 10))


def test_greedy_text_with_a_repetition_penalty_is_the_same(small, draft):
    rule = Sampling(repetition_penalty=1.5)
    expected = list(generate(small, PROMPT, 30, rule))
    assert expected != list(generate(small, PROMPT, 30))
    assert list(generate_speculative(small, PROMPT, 30, draft, rule)) == expected


def test_a_stop_inside_a_run_ends_the_text_there(small, draft):
    free = list(generate(small, PROMPT, 15))
    for at in (0, 1, 2, 4, 9):
        expected = free[: free.index(free[at])]
        assert list(generate_speculative(small, PROMPT, 15, draft, stop_ids={free[at]}, n_guesses=5)) == expected


def test_greedy_text_of_the_embedded_model_is_the_same(smollm2):
    tok = load_tokenizer(EMBEDDED)
    ids = tok.encode("One potato, two potatoes, three potatoes. One potato, two")
    expected = list(generate(smollm2, ids, 8, stop_ids=tok.stop_ids))
    for draft in (prompt_lookup(smollm2), draft_model(smollm2, smollm2)):
        tally = Tally()
        found = list(generate_speculative(smollm2, ids, 8, draft, stop_ids=tok.stop_ids, tally=tally))
        assert found == expected
        assert tally.accepted > 0
    assert tally.acceptance_rate == 1  # the model is its own draft


def test_tokens_come_as_they_are_made(small):
    passes = []
    hook = small.norm.register_forward_hook(lambda _, inputs, output: passes.append(output.shape[1]))
    try:
        tokens = generate_speculative(small, PROMPT, 20, lambda ids, n, *_: ([], torch.zeros(0, 97)))
        next(tokens)
        assert passes == [6, 1]  # the prompt but for its last token, and a pass for the first token
        assert not torch.is_inference_mode_enabled()
        next(tokens)
        assert passes == [6, 1, 1]
    finally:
        hook.remove()


# --- what is counted -----------------------------------------------------------------------------------------------


def test_the_tally(small, close_one):
    tally = Tally()
    list(generate_speculative(small, PROMPT, 50, draft_model(small, small), n_guesses=4, tally=tally))
    assert (tally.passes, tally.guessed, tally.accepted, tally.acceptance_rate) == (10, 40, 40, 1.0)
    tally = Tally()
    list(generate_speculative(small, PROMPT, 50, draft_model(small, close_one), n_guesses=4, tally=tally))
    assert 0 < tally.acceptance_rate < 1
    assert tally.passes + tally.accepted == 50
    assert Tally().acceptance_rate == 0


def test_the_model_and_the_draft_compute_nothing_twice(small):
    """Each token goes through the model once or is a refused guess; the draft reads what it did not guess itself."""
    twin = tiny_model()
    widths = {"model": 0, "draft": 0}
    small_hook = small.norm.register_forward_hook(lambda _, i, o: widths.update(model=widths["model"] + o.shape[1]))
    twin.norm.register_forward_hook(lambda _, i, o: widths.update(draft=widths["draft"] + o.shape[1]))
    try:
        list(generate_speculative(small, PROMPT, 50, draft_model(small, twin), n_guesses=4))
    finally:
        small_hook.remove()
    assert widths["model"] == len(PROMPT) + 50 - 1  # all guesses were accepted; the last token is never read
    assert widths["draft"] == len(PROMPT) + 50 - 2  # and of the draft's last guess the draft needs no successor


# --- drawn: the same distribution ----------------------------------------------------------------------------------

FEW = LlamaConfig(3, 8, 1, 2, 1, 4, 8, max_seq_len=16)
LENGTH = 3
OUTCOMES = 3**LENGTH
RUNS = 1500
# The 99.9 % point of chi-square with 26 degrees of freedom: gammainc(13, 54.05 / 2) = 0.999.
CRITICAL = 54.05


@pytest.fixture(scope="module")
def few():
    """Three tokens, so that all 27 texts of three can be counted; the draft thinks otherwise about many of them."""
    return tiny_model(FEW, seed=56, scale=0.2), tiny_model(FEW, seed=53, scale=0.2)


def exact_joint(model: Llama, prompt: list[int], rule: Sampling) -> torch.Tensor:
    """p(a) p(b | a) p(c | a b) of every text a b c, from a pass without cache; the temperature as it is defined."""
    texts = torch.cartesian_prod(*[torch.arange(3)] * LENGTH)
    with torch.no_grad():
        logits = model(torch.cat((torch.tensor(prompt).expand(OUTCOMES, -1), texts), dim=1))
    p = (logits[:, len(prompt) - 1 : -1].double() / rule.temperature).softmax(-1)
    if rule.top_k is not None:
        p = p * (p >= p.topk(rule.top_k).values[..., -1:])
        p = p / p.sum(-1, keepdim=True)
    return p.gather(-1, texts[..., None]).squeeze(-1).prod(-1)


def chi_square(found: Counter, expected: torch.Tensor) -> float:
    wanted = expected * sum(found.values())
    seen = torch.tensor([found[i] for i in range(OUTCOMES)], dtype=torch.float64)
    if seen[wanted == 0].any():
        return float("inf")
    possible = wanted > 0
    return float(((seen - wanted)[possible] ** 2 / wanted[possible]).sum())


def drawn_texts(model: Llama, draft, rule: Sampling, runs: int = RUNS) -> Counter:
    found = Counter()
    for seed in range(runs):
        text = generate_speculative(model, [1, 2, 1], LENGTH, draft, replace(rule, seed=seed), n_guesses=2)
        a, b, c = text
        found[9 * a + 3 * b + c] += 1
    return found


def test_the_exact_joint_adds_up(few):
    joint = exact_joint(few[0], [1, 2, 1], Sampling(1.0))
    assert float(joint.sum()) == pytest.approx(1)
    assert float(joint.min()) * RUNS > 5  # chi-square needs a handful in each cell
    other = exact_joint(few[1], [1, 2, 1], Sampling(1.0))
    assert float(((other - joint) ** 2 / joint).sum()) * RUNS > 10 * CRITICAL  # they do differ


@pytest.mark.parametrize("kind", ["model", "lookup", "top-k"])
def test_drawn_texts_have_the_distribution_of_the_model(as_users_run_it, few, kind):
    """1500 texts of three tokens, seeds 0 to 1499; p < 0.001 would fail."""
    model, small = few
    rule = Sampling(0.8, top_k=2) if kind == "top-k" else Sampling(1.0)
    draft = prompt_lookup(model) if kind == "lookup" else draft_model(model, small)
    assert chi_square(drawn_texts(model, draft, rule), exact_joint(model, [1, 2, 1], rule)) < CRITICAL


def accept_always(source: str) -> str:
    return source.replace("if chance * q[i, guess] >= p[0, guess]:", "if False:")


def draw_from_p_instead_of_the_rest(source: str) -> str:
    return source.replace("rest if rest.any() else p", "p")


def forget_q(source: str) -> str:
    return source.replace("chance * q[i, guess]", "chance")


@pytest.mark.parametrize("mistake", [accept_always, draw_from_p_instead_of_the_rest, forget_q])
def test_mistakes_in_the_acceptance_change_the_distribution(as_users_run_it, few, monkeypatch, mistake):
    source = inspect.getsource(speculative.verify)
    wrong = mistake(source)
    assert wrong != source
    namespace = dict(vars(speculative))
    exec(wrong, namespace)
    monkeypatch.setattr(speculative, "verify", namespace["verify"])
    model, small = few
    found = drawn_texts(model, draft_model(model, small), Sampling(1.0), runs=400)
    assert chi_square(found, exact_joint(model, [1, 2, 1], Sampling(1.0))) > CRITICAL


def test_a_draft_with_chances_of_its_own_but_the_same_seed_changes_the_distribution(as_users_run_it, few):
    """Then the number that decides about a guess is the one that drew it."""
    model, small = few
    rule, ours = Sampling(1.0), draft_model(model, small)

    def twin(ids, n, sampling, generator):
        return ours(ids, n, sampling, sampling.generator())

    assert chi_square(drawn_texts(model, twin, rule, runs=400), exact_joint(model, [1, 2, 1], rule)) > CRITICAL


def test_a_seed_draws_the_same_text_again(small, close_one):
    texts = [
        list(generate_speculative(small, PROMPT, 30, draft_model(small, close_one), Sampling(1.0, seed=seed)))
        for seed in (0, 0, 1)
    ]
    assert texts[0] == texts[1] != texts[2]


# --- looking up ----------------------------------------------------------------------------------------------------


def test_the_longest_match_wins_then_the_latest():
    assert followed([1, 2, 3, 9, 1, 2], 3) == [3, 9, 1, 2]
    assert followed([1, 2, 3, 7, 2, 4, 1, 2], 3) == [3, 7, 2, 4, 1, 2]  # "1 2" is longer than the later "2"
    assert followed([1, 2, 3, 7, 2, 4, 1, 2], 1) == [4, 1, 2]
    assert followed([5, 5, 5], 3) == [5]
    assert followed([1, 2, 3], 3) == []
    assert followed([1], 3) == []


# --- mistakes ------------------------------------------------------------------------------------------------------


def test_impossible_requests_are_refused_at_once(small):
    other = tiny_model(replace(TINY, vocab_size=100))
    with pytest.raises(ValueError, match="the draft model knows 100 tokens and the model 97; a draft must share"):
        draft_model(small, other)
    with pytest.raises(ValueError, match="n_guesses is 0; it must be a whole number of at least 1"):
        generate_speculative(small, PROMPT, 5, prompt_lookup(small), n_guesses=0)
    with pytest.raises(ValueError, match="ask for at most 57 new ones"):
        generate_speculative(small, PROMPT, 58, prompt_lookup(small))
    scaling = RopeScaling("dynamic", 4.0, original_max_seq_len=32)
    dynamic = tiny_model(replace(TINY, rope_scaling=scaling))
    with pytest.raises(ValueError, match="its RoPE scaling is dynamic"):
        generate_speculative(dynamic, PROMPT, 5, prompt_lookup(dynamic))
