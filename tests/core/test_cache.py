"""Both caches against a pass without one; copies of a cache; the least work for a prompt."""

import itertools
from dataclasses import replace

import pytest
import torch
from tiny import TINY, tiny_model
from torch.utils.flop_counter import FlopCounterMode

from llama_from_scratch import KVCache, Llama, RopeScaling
from llama_from_scratch.generation import GrowingCache, fan_out, generate, generate_batch, generate_samples, prompt
from llama_from_scratch.generation.caches import rewind_to_shared
from llama_from_scratch.generation.prompt import run_prompt

TOLERANCE = 5e-4  # one product over 64 tokens against 64 products; the largest difference seen is 8.2e-5
KINDS = {
    "static": lambda config, batch: KVCache(config, batch, config.max_seq_len),
    "growing": lambda config, batch: GrowingCache(config, batch),
}


@pytest.fixture(scope="module")
def small() -> Llama:
    return tiny_model()


@pytest.fixture(params=KINDS)
def new_cache(request):
    return KINDS[request.param]


def random_tokens(batch: int = 2, seq: int = 48) -> torch.Tensor:
    return torch.randint(97, (batch, seq), generator=torch.Generator().manual_seed(1))


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=TOLERANCE, atol=TOLERANCE)


# --- static and growing: the same tests for both -------------------------------------------------------------------


@pytest.mark.parametrize("chunks", [[1] * 48, [17, 23, 8], [48], [1, 46, 1]], ids=str)
@torch.no_grad()
def test_chunks_give_the_logits_of_one_pass(small, new_cache, chunks):
    tokens = random_tokens()
    cache = new_cache(small.config, 2)
    logits = [small(chunk, cache) for chunk in tokens.split(chunks, dim=1)]
    close(torch.cat(logits, dim=1), small(tokens))
    assert cache.length == 48


@torch.no_grad()
def test_what_was_rewound_leaves_no_trace(small, new_cache):
    tokens, other = random_tokens(), random_tokens().flip(0, 1)
    cache = new_cache(small.config, 2)
    small(tokens[:, :20], cache)
    for length in (20, 11, 0):
        small(other[:, :15], cache)
        cache.rewind(length)
        assert cache.length == length
        close(small(tokens[:, length:40], cache), small(tokens[:, :40])[:, length:])
        cache.rewind(20)
    with pytest.raises(ValueError, match="holds 20 tokens; it cannot be rewound to 21"):
        cache.rewind(21)


@torch.no_grad()
def test_padded_rows_give_what_each_gives_alone(small, new_cache):
    tokens, pads = random_tokens(), (0, 19)
    mask = torch.arange(48) >= torch.tensor(pads)[:, None]
    cache = new_cache(small.config, 2)
    logits = torch.cat(
        [small(tokens[:, a:b], cache, mask[:, :b]) for a, b in itertools.pairwise((0, 10, 33, 48))], dim=1
    )
    for row, pad in enumerate(pads):
        close(logits[row, pad:], small(tokens[row : row + 1, pad:])[0])


@torch.no_grad()
def test_it_belongs_to_one_batch_size_and_type(small, new_cache):
    with pytest.raises(ValueError, match="made for 2 sequences in torch.float32, and is given 1"):
        small(random_tokens(1), new_cache(small.config, 2))


@torch.no_grad()
def test_a_pass_that_was_interrupted_can_be_taken_back(small, new_cache):
    """Ctrl-C between two layers: some hold the new tokens, the last does not, and only what all hold counts."""
    tokens = random_tokens()
    cache = new_cache(small.config, 2)
    small(tokens[:, :30], cache)

    def stop(*_):
        raise KeyboardInterrupt

    hook = small.blocks[1].feed_forward.register_forward_hook(stop)
    try:
        with pytest.raises(KeyboardInterrupt):
            small(tokens[:, 30:], cache)
    finally:
        hook.remove()
    assert [layer.length for layer in cache.layers] == [48, 48, 30]
    assert cache.length == 30
    cache.rewind(cache.length)
    close(small(tokens[:, 30:], cache), small(tokens)[:, 30:])


def test_a_prompt_goes_on_from_what_a_cache_holds(small, new_cache):
    text = random_tokens()[0].tolist()
    expected = list(generate(small, text, 10))
    cache = new_cache(small.config, 1)
    first = list(generate(small, text[:20], 8, cache=cache))
    assert cache.length == 27  # all but the last token drawn
    rewind_to_shared(cache, text[:20] + first, text)
    assert cache.length == 20
    passes = []
    hook = small.norm.register_forward_hook(lambda _, inputs, output: passes.append(output.shape[1]))
    try:
        assert list(generate(small, text, 10, cache=cache)) == expected
    finally:
        hook.remove()
    assert passes == [28] + [1] * 9  # nothing twice
    with pytest.raises(ValueError, match="the cache holds 57 tokens and the prompt has 48; rewind the cache"):
        generate(small, text, 10, cache=cache)


def test_rewinding_to_what_two_texts_share(small, new_cache):
    for held, ids, kept in (
        ([1, 2, 3, 4], [1, 2, 9, 4, 5], 2),
        ([1, 2, 3, 4], [1, 2, 3, 4], 3),  # the last is left to compute
        ([1, 2, 3, 4], [1, 2], 1),
        ([1, 2, 3, 4], [1, 2, 3, 4, 5, 6], 4),
        ([1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6], 4),  # the cache never saw 5 and 6
        ([1, 2, 3, 4], [7], 0),
        ([], [1, 2], 0),
    ):
        cache = new_cache(small.config, 1)
        with torch.no_grad():
            small(torch.tensor([[1, 2, 3, 4]]), cache)
        rewind_to_shared(cache, held, ids)
        assert cache.length == kept, (held, ids)


# --- growing -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_it_grows_by_doubling_and_not_beyond_the_context(small):
    tokens, cache = random_tokens(1, 64), GrowingCache(small.config)
    assert cache.n_bytes == 0
    capacities = []
    for i in range(64):
        small(tokens[:, i : i + 1], cache)
        capacities.append(cache.layers[0].keys.shape[2])
    assert sorted(set(capacities)) == [1, 2, 4, 8, 16, 32, 64]
    assert cache.n_bytes == KVCache(small.config, 1, 64).n_bytes

    odd = tiny_model(replace(TINY, max_seq_len=50))
    cache = GrowingCache(odd.config)
    odd(tokens[:, :30], cache)
    assert cache.layers[0].keys.shape[2] == 30  # a long prompt gets what it needs
    odd(tokens[:, :1], cache)
    assert cache.layers[0].keys.shape[2] == 50
    odd(tokens[:, :19], cache)
    with pytest.raises(ValueError, match="more than this model's context of 50"):
        odd(tokens[:, :1], cache)


def test_one_that_generation_grew_can_be_used_elsewhere(small):
    cache = GrowingCache(small.config)
    text = random_tokens()[0, :20].tolist()
    list(generate(small, text, 5, cache=cache))
    with torch.no_grad():  # not the inference mode of generation
        cache.rewind(20)
        close(small(random_tokens()[:1, 20:40], cache), small(random_tokens()[:1, :40])[:, 20:])


# --- several continuations of one prefill --------------------------------------------------------------------------


@torch.no_grad()
def test_a_fanned_out_cache_is_the_same_text_n_times(small, new_cache):
    tokens = random_tokens()
    cache = new_cache(small.config, 2)
    small(tokens[:, :30], cache)
    wide = fan_out(cache, 3)
    rows = torch.tensor([0, 0, 0, 1, 1, 1])
    ends = torch.randint(97, (6, 12))
    expected = small(torch.cat((tokens[rows, :30], ends), dim=1))[:, 30:]
    close(small(ends, wide), expected)
    assert (cache.length, wide.length) == (30, 42)
    close(small(tokens[:, 30:], cache), small(tokens)[:, 30:])  # the original knows nothing of the copies
    with pytest.raises(ValueError, match="n is 0"):
        fan_out(cache, 0)


# --- a prompt costs no more than it must ---------------------------------------------------------------------------


def floating_point_operations(action) -> int:
    counter = FlopCounterMode(display=False)
    with counter:
        action()
    return counter.get_total_flops()


@torch.no_grad()
def test_logits_of_the_last_token_only():
    """A vocabulary 50 times as wide as the stream: most of the work of a prompt would go into logits nobody reads."""
    model = tiny_model(replace(TINY, vocab_size=3200, max_seq_len=512))
    tokens = torch.randint(3200, (1, 512))
    all_of_them = floating_point_operations(lambda: model(tokens))
    last_only = floating_point_operations(lambda: run_prompt(model, tokens, KVCache(model.config, 1, 512)))
    assert all_of_them - last_only == 511 * 2 * 64 * 3200  # multiply and add for each weight and token saved
    assert last_only < 0.4 * all_of_them
    close(run_prompt(model, tokens, KVCache(model.config, 1, 512)), model(tokens)[:, -1])

    # And `generate` does it so.
    widths = []
    original = model.logits
    model.logits = lambda x: widths.append(tuple(x.shape)) or original(x)
    assert next(iter(generate(model, tokens[0, :100].tolist(), 3))) == int(
        original(model.hidden(tokens[:, :100]))[0, -1].argmax()
    )
    assert widths == [(1, 64)]


def test_a_long_prompt_goes_through_in_pieces(monkeypatch):
    model = tiny_model(replace(TINY, max_seq_len=256))
    text = torch.randint(97, (200,)).tolist()
    expected = list(generate(model, text, 20))  # 200 are fewer than one piece
    assert prompt.PIECE > 200
    monkeypatch.setattr(prompt, "PIECE", 64)
    passes = []
    model.norm.register_forward_hook(lambda _, inputs, output: passes.append(output.shape[1]))
    assert list(generate(model, text, 20)) == expected
    assert passes == [64, 64, 64, 8] + [1] * 19


def test_a_model_with_dynamic_scaling_reads_its_prompt_at_once(monkeypatch):
    """Its keys depend on how long the text is when they are made: in pieces it would be another model."""
    config = replace(TINY, max_seq_len=256, rope_scaling=RopeScaling("dynamic", 4.0, original_max_seq_len=32))
    model = tiny_model(config)
    text = torch.randint(97, (200,)).tolist()
    whole = list(generate(model, text, 20))
    monkeypatch.setattr(prompt, "PIECE", 64)
    assert list(generate(model, text, 20)) == whole
    monkeypatch.setattr(prompt, "is_same_in_pieces", lambda _: True)
    assert list(generate(model, text, 20)) != whole  # so the exception is needed


def test_dynamic_scaling_in_samples_and_batches():
    """Several texts are what each is alone, or are refused; behind 100 tokens the keys differ from those behind 3."""
    model = tiny_model(replace(TINY, max_seq_len=256, rope_scaling=RopeScaling("dynamic", 4.0, original_max_seq_len=8)))
    text, short = torch.randint(97, (100,)).tolist(), [5, 17, 80]
    for ids in (text, text[:9], [7]):
        assert generate_samples(model, ids, 2, 30) == [list(generate(model, ids, 30))] * 2
    pair = [short, [80, 17, 5]]
    assert generate_batch(model, pair, 30) == [list(generate(model, ids, 30)) for ids in pair]
    with pytest.raises(
        ValueError, match="its RoPE scaling is dynamic, .*; generate one by one, or in batches of equal"
    ):
        generate_batch(model, [text, short], 30)


def test_samples_compute_the_prompt_once(small):
    text, sizes = random_tokens()[0, :40].tolist(), []
    hook = small.norm.register_forward_hook(lambda _, inputs, output: sizes.append(tuple(output.shape[:2])))
    try:
        generate_samples(small, text, 5, 3)
    finally:
        hook.remove()
    assert sizes == [(1, 39), (5, 1), (5, 1), (5, 1)]
