"""The loop that writes, against transformers and against a plain one: single, in batches, several samples."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_model

from llama_from_scratch import Llama
from llama_from_scratch.files.embedded import EMBEDDED
from llama_from_scratch.generation import Sampling, generate, generate_batch, generate_samples, stream_samples
from llama_from_scratch.tokenizer import load_tokenizer

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
    return tiny_model()


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


def test_a_prompt_that_is_still_text(small, as_users_run_it):
    with pytest.raises(ValueError, match="the prompt is the text 'Hello'; give its token ids"):
        generate(small, "Hello", 3)


# --- several samples of one prompt -------------------------------------------------------------------------------


def test_samples_differ_and_come_again_with_the_same_seed(small):
    rule = Sampling(1.5, seed=3)
    first = generate_samples(small, [5, 17, 80], 6, 20, rule)
    assert len({tuple(row) for row in first}) == 6
    assert generate_samples(small, [5, 17, 80], 6, 20, rule) == first
    assert generate_samples(small, [5, 17, 80], 6, 20, Sampling(1.5, seed=4)) != first


@pytest.mark.parametrize("prompt", [[5, 17, 80], [9]], ids=["three", "one"])
def test_greedy_samples_are_all_what_one_run_gives(small, prompt):
    single = list(generate(small, prompt, 20))
    assert generate_samples(small, prompt, 4, 20) == [single] * 4


def test_first_tokens_of_samples_are_as_diverse_as_the_model_says(small):
    """Independent draws: as many different first tokens among 400 as their probabilities lead to expect."""
    n, warm = 400, 4.0
    with torch.no_grad():
        p = (small(torch.tensor([[5, 17, 80]]))[0, -1] / warm).softmax(-1)
    expected = float((1 - (1 - p) ** n).sum())  # distinct tokens among n draws
    different = len({row[0] for row in generate_samples(small, [5, 17, 80], n, 1, Sampling(warm, seed=0))})
    assert expected > 20
    assert abs(different - expected) < 0.15 * expected


def test_each_sample_stops_by_itself_and_the_stream_says_when(small):
    rule = Sampling(2.0, seed=0)
    stop = set(range(0, 97, 9))
    free = generate_samples(small, [5, 17, 80], 5, 20, rule)
    steps = list(stream_samples(small, [5, 17, 80], 5, 20, rule, stop))
    expected = [row[: next((i for i, token in enumerate(row) if token in stop), 20)] for row in free]
    assert len({len(row) for row in expected}) > 1
    assert [[step[i] for step in steps if step[i] is not None] for i in range(5)] == expected
    assert generate_samples(small, [5, 17, 80], 5, 20, rule, stop) == expected
    assert len(steps) == max(map(len, expected))


def test_impossible_samples_are_refused_at_once(small):
    for n in (0, -1):
        with pytest.raises(ValueError, match="the number of samples is"):
            stream_samples(small, [5], n, 3)
    with pytest.raises(ValueError, match="the prompt is empty"):
        stream_samples(small, [], 2, 3)


# --- repetition penalty in the loop ------------------------------------------------------------------------------


def test_the_penalty_counts_prompt_and_new_tokens_as_transformers_does(smollm2, hf_smollm2, tok):
    ids = tok.encode("one two three one two three one two")
    expected = hf_smollm2.generate(
        torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids)),
        max_new_tokens=10,
        do_sample=False,
        repetition_penalty=1.3,
        eos_token_id=None,
        pad_token_id=0,
    )[0, len(ids) :].tolist()
    assert list(generate(smollm2, ids, 10, Sampling(repetition_penalty=1.3))) == expected
    assert len(set(expected) & set(ids)) == 0  # without a penalty it goes on counting


def test_a_high_penalty_never_says_anything_twice(small):
    """So high that a seen token is behind all that have a chance: 30 new ones, none twice, none of the prompt."""
    prompt = [5, 17, 80, 3, 3, 41, 9]
    rule = Sampling(repetition_penalty=1e6)
    for tokens in (
        list(generate(small, prompt, 30, rule)),
        generate_batch(small, [prompt, [7]], 30, rule)[0],
        generate_samples(small, prompt, 2, 30, rule)[1],
    ):
        assert len(set(tokens) | set(prompt)) == len(set(prompt)) + 30


def test_padding_is_not_penalised(small):
    """Rows are padded with token 0, which is no part of their text."""
    rule = Sampling(repetition_penalty=1e6)
    prompts = [[5, 17, 80, 3, 3, 41, 9], [7], [60, 61]]
    batch = generate_batch(small, prompts, 30, rule)
    assert batch == [list(generate(small, prompt, 30, rule)) for prompt in prompts]
    assert any(0 in row for row in batch)
