"""Wrong input gives one plain error that says what was given, what is allowed and what to do; nothing is half done."""

from dataclasses import replace

import pytest
import torch
from reference import GQA

from llama_from_scratch import KVCache, Llama

pytestmark = pytest.mark.usefixtures("as_users_run_it")

CONTEXT = 32


@pytest.fixture(scope="module")
def small() -> Llama:
    return Llama(replace(GQA, max_seq_len=CONTEXT)).eval()


def ids(batch: int = 1, seq: int = 4) -> torch.Tensor:
    return torch.zeros(batch, seq, dtype=torch.long)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([[0, 256]], "token ids run from 0 to 256; this model knows 0 to 255"),
        ([[-1, 5]], "token ids run from -1 to 5; this model knows 0 to 255"),
        ([[]], "tokens have shape [1, 0] and type torch.float32"),
        ([1, 2, 3], "tokens have shape [3] and type torch.int64; give torch.long in [batch, seq]"),
        (7, "tokens have shape [] and type torch.int64"),
        ([[[1]]], "tokens have shape [1, 1, 1]"),
        ([[1.0, 2.0]], "tokens have shape [1, 2] and type torch.float32; give torch.long"),
        ([[True]], "type torch.bool; give torch.long"),
    ],
)
def test_wrong_tokens(tokens, message: str, small: Llama) -> None:
    with pytest.raises(ValueError) as error:
        small(torch.tensor(tokens))
    assert message in str(error.value)


@pytest.mark.parametrize(("batch", "seq"), [(1, 0), (0, 4)])
def test_no_tokens(batch: int, seq: int, small: Llama) -> None:
    with pytest.raises(ValueError, match="there are no tokens; give at least one"):
        small(ids(batch, seq))


def test_int32_tokens_are_tokens(small: Llama) -> None:
    assert torch.equal(small(ids().int()), small(ids()))


def test_as_long_as_the_context_and_one_longer(small: Llama) -> None:
    assert small(ids(seq=CONTEXT)).shape == (1, CONTEXT, 256)
    with pytest.raises(ValueError, match="33 tokens are more than this model's context of 32; shorten the text"):
        small(ids(seq=CONTEXT + 1))


def test_cached_tokens_count_towards_the_context(small: Llama) -> None:
    cache = KVCache(small.config, batch=1, capacity=64)
    small(ids(seq=CONTEXT), cache)
    with pytest.raises(ValueError, match="33 tokens are more than this model's context of 32"):
        small(ids(seq=1), cache)
    assert cache.length == CONTEXT


def test_full_cache(small: Llama) -> None:
    """The error comes before anything is written, so the cache is as good as it was."""
    cache = KVCache(small.config, batch=1, capacity=6)
    small(ids(), cache)
    with pytest.raises(ValueError, match="the cache holds 6 tokens and 8 are needed; make it with a larger capacity"):
        small(ids(), cache)
    assert [layer.length for layer in cache.layers] == [4, 4, 4]
    assert small(ids(seq=2), cache).shape == (1, 2, 256)


@pytest.mark.parametrize(("batch", "dtype"), [(2, torch.float32), (1, torch.bfloat16)])
def test_cache_for_another_batch_or_type(batch: int, dtype: torch.dtype, small: Llama) -> None:
    """One row would otherwise be written into every row of the cache without a word."""
    cache = KVCache(small.config, batch=batch, capacity=8, dtype=dtype)
    with pytest.raises(ValueError, match=f"the cache was made for {batch} sequences in {dtype}"):
        small(ids(), cache)
    assert cache.length == 0


@pytest.mark.parametrize("length", [-1, 5])
def test_rewinding_to_where_the_cache_has_not_been(length: int, small: Llama) -> None:
    cache = KVCache(small.config, batch=1, capacity=8)
    small(ids(), cache)
    with pytest.raises(ValueError, match=f"the cache holds 4 tokens; it cannot be rewound to {length}"):
        cache.rewind(length)
    assert cache.length == 4


@pytest.mark.parametrize(
    "mask",
    [torch.ones(1, 4), torch.ones(4, dtype=torch.bool), torch.ones(1, 3, dtype=torch.bool), torch.tensor([[True]])],
)
def test_wrong_padding(mask: torch.Tensor, small: Llama) -> None:
    with pytest.raises(ValueError, match=r"attention_mask has shape .* it must be torch.bool in \[1, 4\]"):
        small(ids(), attention_mask=mask)


def test_padding_covers_cached_tokens(small: Llama) -> None:
    cache = KVCache(small.config, batch=1, capacity=8)
    small(ids(), cache)
    with pytest.raises(ValueError, match=r"it must be torch.bool in \[1, 6\]: one entry for each token, cached ones"):
        small(ids(seq=2), cache, attention_mask=torch.ones(1, 2, dtype=torch.bool))


def test_bytes_of_a_cache() -> None:
    """2 · layers · kv_heads · head_dim numbers for each token: what grouped heads make small."""
    cache = KVCache(GQA, batch=3, capacity=10, dtype=torch.bfloat16)
    assert cache.n_bytes == 2 * 3 * 2 * 16 * 3 * 10 * 2
