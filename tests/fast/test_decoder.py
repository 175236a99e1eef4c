"""The decoder writes what `generate` writes: eager and compiled, alone and in a batch, padded, stopped, drawn."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from programs import result_of

from llama_from_scratch import Llama, LlamaConfig, RopeScaling
from llama_from_scratch.fast import Decoder, FixedCache, prepare
from llama_from_scratch.fast.fused import CHUNK, in_chunks
from llama_from_scratch.fast.step import first_largest, race
from llama_from_scratch.generation import Sampling, generate, generate_batch

CONFIG = LlamaConfig(97, 64, 2, 8, 2, 16, 96, rope_theta=10_000.0, max_seq_len=160)
PROMPTS = [[5, 9, 60, 33], [7], list(range(1, 12))]


@pytest.fixture(scope="module")
def model():
    """Weights large enough that attention matters and no two tokens are nearly equally likely."""
    torch.manual_seed(1)
    model = Llama(CONFIG).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(1 if weight.dim() == 1 else 0, 0.2)
    return model


def test_greedy_tokens_over_64_steps(model):
    decoder = Decoder(prepare(model), 1, 128)
    for prompt in PROMPTS:
        assert list(decoder.generate(prompt, 64)) == list(generate(model, prompt, 64))


def test_it_stops_and_starts_anew(model):
    decoder = Decoder(prepare(model), 1, 128)
    wanted = list(generate(model, PROMPTS[0], 30))
    stop = wanted[20]
    assert list(decoder.generate(PROMPTS[0], 30, stop_ids=[stop])) == wanted[: wanted.index(stop)]
    assert list(decoder.generate(PROMPTS[0], 1)) == wanted[:1]
    assert list(decoder.generate(PROMPTS[1], 30)) == list(generate(model, PROMPTS[1], 30))


@pytest.fixture(scope="module")
def compiled():
    """What compiled_decoder.py found, in a process without run-time checks of types, which cannot be compiled."""
    return result_of("compiled_decoder.py")


@pytest.mark.parametrize("scope", ["blocks", "step"])
class TestCompiled:
    def test_greedy_tokens_over_64_steps(self, compiled, scope):
        assert compiled[scope]["tokens"] == compiled["eager"]["tokens"] and len(compiled["eager"]["tokens"][0]) == 64

    def test_logits(self, compiled, scope):
        """Of 64 steps, beside one pass of the plain model over the whole text."""
        assert compiled[scope]["largest difference of logits"] == pytest.approx(0, abs=1e-4)

    def test_no_recompilation_over_64_steps(self, compiled, scope):
        """The program of the first step serves all others, texts of other lengths too."""
        assert compiled[scope]["programs"] == 1

    def test_stops(self, compiled, scope):
        assert compiled[scope]["stopped"] == compiled["eager"]["stopped"]
        assert 0 < len(compiled["eager"]["stopped"]) < 30

    def test_a_padded_batch(self, compiled, scope):
        assert compiled[scope]["batch"] == compiled["eager"]["batch"]

    @pytest.mark.parametrize("bits", ["int8", "int4"])
    def test_quantised(self, compiled, scope, bits):
        assert compiled[scope][bits] == compiled["eager"][bits]


def test_long_prompts_are_compiled_by_blocks(compiled):
    """One program for the first length, one for all others."""
    assert compiled["blocks"]["largest difference behind prompts"] == pytest.approx(0, abs=1e-4)
    assert compiled["blocks"]["programs for prompts"] == [1, 1, 0, 0]


@pytest.mark.parametrize("whole", [False, True], ids=["what is filled", "whole cache"])
@pytest.mark.parametrize("check_every", [1, 4, 100])
def test_a_batch_with_padding_and_stops(model, whole, check_every):
    wanted = generate_batch(model, PROMPTS, 24)
    stop = wanted[1][7]
    decoder = Decoder(prepare(model), 3, 64, check_every=check_every)
    decoder.step.reads_all_slots = whole  # as on a GPU, where every step is one program
    assert decoder.generate_batch(PROMPTS, 24) == wanted
    assert decoder.generate_batch(PROMPTS, 24, stop_ids=[stop]) == generate_batch(model, PROMPTS, 24, stop_ids=[stop])


def test_long_prompts_in_pieces(model, monkeypatch):
    monkeypatch.setattr("llama_from_scratch.fast.decoder.PIECE", 16)
    prompts = [list(range(1, 60)), list(range(3, 40))]
    assert Decoder(prepare(model), 2, 128).generate_batch(prompts, 12) == generate_batch(model, prompts, 12)


def test_repetition_penalty(model):
    rule = Sampling(repetition_penalty=1.7)
    wanted = list(generate(model, PROMPTS[0], 24, rule))
    assert wanted != list(generate(model, PROMPTS[0], 24))
    assert list(Decoder(prepare(model), 1, 64).generate(PROMPTS[0], 24, rule)) == wanted


def test_seeds_and_draws(model):
    decoder = Decoder(prepare(model), 1, 64)
    rule = Sampling(temperature=1.0, seed=3)
    first = list(decoder.generate(PROMPTS[0], 20, rule))
    assert first == list(decoder.generate(PROMPTS[0], 20, rule))
    assert first != list(decoder.generate(PROMPTS[0], 20, Sampling(temperature=1.0, seed=4)))
    assert list(decoder.generate(PROMPTS[0], 20, Sampling(temperature=1.0, top_k=1))) == list(
        decoder.generate(PROMPTS[0], 20)
    )


def test_the_race_is_a_fair_draw():
    """Each token as often as its probability says: chi-square over 40,000 draws, 5 degrees of freedom, p = 0.0001."""
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0, 0.5, 1.5, 9.0]])
    rule = Sampling(temperature=0.7, top_k=6)
    logits[0, 6] = -20.0
    draws = race(logits.expand(40_000, -1), rule, torch.empty(40_000, 7).exponential_(), None)
    expected = (logits / 0.7)[0, :6].softmax(-1) * 40_000
    found = draws.bincount(minlength=7)
    assert found[6] == 0
    assert ((found[:6] - expected) ** 2 / expected).sum() < 25.7


def test_the_first_largest_is_what_argmax_gives():
    scores = torch.randint(40, (64, 97)).float()  # most rows have their largest number several times
    assert torch.equal(first_largest(scores), scores.argmax(dim=-1))
    assert (scores == scores.amax(dim=-1, keepdim=True)).sum() > 80


@pytest.mark.parametrize(("kv_heads", "group"), [(2, 4), (3, 1), (1, 5)])
def test_attention_in_chunks(kv_heads, group):
    """Against PyTorch's own, in a half-filled cache with padding before one of two texts."""
    q, k, v = (torch.randn(2, kv_heads, n, 16) for n in (group, 5 * CHUNK, 5 * CHUNK))
    columns = torch.arange(5 * CHUNK)
    mask = ((columns < 300) & (columns >= torch.tensor([[0], [133]])))[:, None, None, :]
    exact = torch.nn.functional.scaled_dot_product_attention(q.double(), k.double(), v.double(), attn_mask=mask)
    torch.testing.assert_close(in_chunks(q, k, v, mask).double(), exact, atol=1e-5, rtol=0)
    halves = in_chunks(*(t.bfloat16() for t in (q, k, v)), mask)
    assert halves.dtype == torch.bfloat16 and (halves - exact).abs().max() < 0.02
    k[:, :, 300:], v[:, :, 300:] = 9.0, 9.0  # what is hidden has no part in it
    torch.testing.assert_close(in_chunks(q, k, v, mask).double(), exact, atol=1e-5, rtol=0)


def test_mistakes(model, as_users_run_it):
    with pytest.raises(ValueError, match="capacity is 161; each must be at least 1, and the capacity at most 160"):
        Decoder(model, capacity=161)
    dynamic = Llama(replace(CONFIG, rope_scaling=RopeScaling("dynamic", 2.0, 80)))
    with pytest.raises(ValueError, match="rope_scaling dynamic.*; compile its blocks"):
        Decoder(dynamic, compile="step")
    with pytest.raises(ValueError, match="need room for 70; this decoder has 64"):
        Decoder(model, capacity=64).generate(range(10), 61)
    with pytest.raises(ValueError, match="there are 2 prompts; this decoder was made for 1"):
        Decoder(model, capacity=64).generate_batch([[1], [2]], 3)
    with pytest.raises(ValueError, match="the prompt is empty"):
        Decoder(model, capacity=64).generate([], 3)
    with pytest.raises(ValueError, match="compile is 'all'; it must be None or one of blocks, step, graph"):
        Decoder(model, compile="all")
    with pytest.raises(ValueError, match="the cache holds 8 tokens and 9 are needed"):
        FixedCache(CONFIG, 1, 8).select(torch.tensor([8]), 9)


def test_fixed_cache_refuses_to_count(model):
    """It would say 0 tokens after any number, so a model that asked it would write over the first ones."""
    decoder = Decoder(prepare(model), 1, 64)
    list(decoder.generate(PROMPTS[0], 5))
    for count in (
        lambda: decoder.cache.length,
        lambda: decoder.cache.rewind(0),
        lambda: model(torch.tensor([[1]]), decoder.cache),
    ):
        with pytest.raises(TypeError, match="a FixedCache does not count its tokens"):
            count()


def test_without_a_compiler(model, monkeypatch):
    from torch._inductor import cpp_builder

    def none_found():
        raise RuntimeError("no compiler")

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", none_found)
    with pytest.raises(OSError, match=r"needs a C\+\+ compiler and none was found; install g\+\+"):
        Decoder(model, capacity=64, compile="blocks")


@pytest.mark.parametrize("length", [256, 257, 300])
def test_a_prompt_in_pieces_only_where_that_is_the_same(length):
    torch.manual_seed(2)
    scaling = RopeScaling("dynamic", 4.0, 80)
    dynamic = Llama(replace(CONFIG, max_seq_len=400, rope_scaling=scaling)).eval()
    prompt = torch.randint(97, (length,)).tolist()
    tokens = torch.tensor([prompt])
    with torch.inference_mode():
        whole = dynamic(tokens)[:, -1]
        torch.testing.assert_close(Decoder(prepare(dynamic), 1, 400).prefill(tokens), whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=1.0, seed=1)])
@pytest.mark.parametrize("check_every", [1, 4])
def test_numbers_that_are_none_are_an_error(model, sampling, check_every):
    broken = copy.deepcopy(model)
    others = [token for token in range(97) if token not in PROMPTS[0]]
    with torch.no_grad():
        broken.embedding.weight[others] = float("nan")
    decoder = Decoder(prepare(broken), 1, 128, check_every=check_every)
    with pytest.raises(ValueError, match="the model's logits are NaN or infinite in torch.float32"):
        list(decoder.generate(PROMPTS[0], 64, sampling))
    assert decoder.cache.layers[0].keys.isnan().any()  # so the prompt itself was no error


def test_a_kernel_may_give_its_result_in_any_order(model, monkeypatch):
    kernel = F.scaled_dot_product_attention

    def turned(*inputs, **options):  # as the memory-efficient kernel of a GPU does
        return kernel(*inputs, **options).transpose(1, 2).contiguous().transpose(1, 2)

    wanted = list(generate(model, PROMPTS[0], 8))
    monkeypatch.setattr(F, "scaled_dot_product_attention", turned)
    assert list(Decoder(prepare(model), 1, 128).generate(PROMPTS[0], 8)) == wanted
