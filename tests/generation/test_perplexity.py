"""How likely the model finds a text: log-probabilities, perplexity and attention maps, each against transformers."""

import math
from dataclasses import replace

import pytest
import torch
from reference import CASES, random_pair, random_tokens
from tiny import TINY, tiny_model

from llama_from_scratch import Llama
from llama_from_scratch.fast import prepare
from llama_from_scratch.files.embedded import EMBEDDED
from llama_from_scratch.generation import Evaluation, evaluate, generate, log_probs, token_log_probs
from llama_from_scratch.inside import attention_maps
from llama_from_scratch.tokenizer import load_tokenizer


@pytest.fixture(scope="module")
def small() -> Llama:
    return tiny_model()


@pytest.fixture(scope="module")
def pair():
    return random_pair(CASES["gqa"])


# --- log-probabilities ---------------------------------------------------------------------------------------------


def test_log_probs_are_those_of_transformers(pair, monkeypatch):
    ours, theirs = pair
    tokens = random_tokens(ours.config)
    with torch.no_grad():
        expected = theirs(tokens).logits.double().log_softmax(-1)[:, :-1].gather(-1, tokens[:, 1:, None]).squeeze(-1)
    for at_a_time in (128, 7, 1):
        monkeypatch.setattr(log_probs, "AT_A_TIME", at_a_time)
        found = token_log_probs(ours, tokens)
        assert found.shape == (2, 63)
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-4)


def test_log_probs_of_what_the_model_wrote(small):
    """Greedy tokens are the likeliest, so no other token in their place can score higher."""
    prompt = [5, 17, 80]
    text = prompt + list(generate(small, prompt, 5))
    chosen = token_log_probs(small, torch.tensor([text]))[0, len(prompt) - 1 :]
    assert chosen.shape == (5,)
    for other in range(97):
        changed = token_log_probs(small, torch.tensor([[*text[:-1], other]]))[0, -1]
        assert changed <= chosen[-1]


def test_log_probs_that_cannot_be(small, as_users_run_it):
    for tokens, message in (
        ([[5]], r"tokens have shape \[1, 1\]; give \[batch, seq\] with at least 2"),
        ([5, 6], r"tokens have shape \[2\]"),
        ([[5, 97]], "token ids run from 5 to 97; this model knows 0 to 96"),
        ([[-1, 5]], "token ids run from -1"),
        ([[1] * 66], "65 tokens are more than this model's context of 64"),
    ):
        with pytest.raises(ValueError, match=message):
            token_log_probs(small, torch.tensor(tokens))
    assert token_log_probs(small, torch.tensor([[1] * 65])).shape == (1, 64)  # the last token is not read
    sick = tiny_model()
    with torch.no_grad():
        sick.norm.weight[0] = float("nan")
    with pytest.raises(ValueError, match="logits are NaN or infinite in torch.float32"):
        token_log_probs(sick, torch.tensor([[1, 2]]))


# --- attention maps ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["gqa", "mqa", "wide-heads", "yarn"])
def test_attention_maps_are_those_of_transformers(case):
    ours, theirs = random_pair(CASES[case])
    tokens = random_tokens(ours.config)
    with torch.no_grad():
        expected = torch.stack(theirs(tokens, output_attentions=True).attentions)
    found = attention_maps(ours, tokens)
    assert found.shape == (3, 2, 8, 64, 64)
    torch.testing.assert_close(found, expected, rtol=0, atol=5e-5)  # 1e-5 seen; scores of up to 20, and e to them
    assert expected.max() > 0.9 and expected.std() > 0.02  # far from uniform


def test_attention_maps_of_a_fused_model(small):
    tokens = torch.tensor([[5, 17, 80, 3, 3, 41, 9]])
    torch.testing.assert_close(attention_maps(prepare(small), tokens), attention_maps(small, tokens), rtol=0, atol=1e-5)


def test_looking_leaves_the_model_as_it_was(small):
    tokens = torch.tensor([[5, 17, 80]])
    with torch.no_grad():
        before = small(tokens)
    attention_maps(small, tokens)
    with pytest.raises(ValueError, match="this model knows"):
        attention_maps(small, torch.tensor([[97]]))
    assert all(not block.attention._forward_pre_hooks for block in small.blocks)
    with torch.no_grad():
        assert torch.equal(small(tokens), before)


# --- perplexity ----------------------------------------------------------------------------------------------------


def by_hand(theirs, ids: list[int], window: int, stride: int) -> float:
    """Each token by itself: transformers reads what stands before it in the first window that reaches it."""
    nats = 0.0
    for target in range(1, len(ids)):
        windows_before = max(0, math.ceil((target - window) / stride))
        context = ids[windows_before * stride : target]
        assert len(context) <= window and (len(context) >= min(target, window - stride + 1))
        with torch.no_grad():
            nats -= float(theirs(torch.tensor([context])).logits[0, -1].double().log_softmax(-1)[ids[target]])
    return nats


@pytest.mark.parametrize(
    ("n", "window", "stride"), [(70, 64, 32), (20, 8, 8), (20, 8, 1), (20, 10, 3), (20, 1, 1), (20, 19, 7), (20, 50, 5)]
)
def test_perplexity_is_that_of_transformers(pair, n, window, stride):
    ours, theirs = pair
    ids = random_tokens(ours.config, 1, n)[0].tolist()
    calls = []
    found = evaluate(ours, ids, window, stride, calls.append)
    assert found.n_tokens == n - 1
    assert found.nats == pytest.approx(by_hand(theirs, ids, window, stride), rel=1e-5)
    assert calls == sorted(set(calls)) and calls[-1] == n - 1


def test_perplexity_of_real_text_is_that_of_transformers(smollm2, hf_smollm2, fixed_ids):
    with torch.no_grad():
        logits = hf_smollm2(torch.tensor([fixed_ids])).logits[0].double()
    expected = torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(fixed_ids[1:]))
    found = evaluate(smollm2, fixed_ids, 512, 256)
    assert found.nats_per_token == pytest.approx(float(expected), rel=3e-5)  # 4.2e-6 seen
    assert found.perplexity == pytest.approx(math.exp(expected), rel=1e-4)
    assert found.bits_per_token == pytest.approx(float(expected) / math.log(2), rel=3e-5)
    tok = load_tokenizer(EMBEDDED)
    n_bytes = len(tok.decode(fixed_ids[1:]).encode())
    assert found.bits_per_byte(n_bytes) == pytest.approx(found.bits_per_token * found.n_tokens / n_bytes)


def test_every_token_counts_once_whatever_the_stride():
    """All is equally likely to this model: the sum is n · ln(vocab), or a token was skipped or counted twice."""
    model = tiny_model(replace(TINY, n_layers=1), scale=0.0)
    for n in (2, 3, 17):
        for window in (1, 2, 5, 16, 20):
            for stride in {1, 2, window // 2, window} & set(range(1, window + 1)):
                found = evaluate(model, [1] * n, window, stride)
                assert found.nats == pytest.approx((n - 1) * math.log(97), rel=1e-6)


def test_what_cannot_be_evaluated(small):
    for ids, window, stride, message in (
        ([1], 8, 4, "the text has 1 tokens; at least 2 are needed"),
        ([], 8, 4, "the text has 0 tokens"),
        ([1, 2], 65, 4, "the window is 65; it must be from 1 to 64, the context of this model"),
        ([1, 2], 0, 0, "the window is 0"),
        ([1, 2], 8, 9, "the stride is 9; it must be from 1 to the window, 8"),
        ([1, 2], 8, 0, "the stride is 0"),
        ([1, 97], 8, 4, "token ids run from 1 to 97"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate(small, ids, window, stride)


def test_a_hopeless_text_has_infinite_perplexity():
    assert Evaluation(2000.0, 2).perplexity == math.inf
    assert Evaluation(2 * math.log(8), 2).perplexity == pytest.approx(8)
    assert Evaluation(2 * math.log(8), 2).bits_per_token == pytest.approx(3)
    assert Evaluation(2 * math.log(8), 2).bits_per_byte(3) == pytest.approx(2)
