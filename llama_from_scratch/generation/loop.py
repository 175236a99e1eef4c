"""Generation: one pass over the prompt, then one pass for each new token, with a key/value cache."""

from collections.abc import Collection, Iterator, Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ..cache import KVCache
from ..model import Llama
from .batch import collect, left_padded, until_stopped
from .caches import fan_out, is_same_in_pieces
from .prompt import as_tokens, check_request, run_prompt, seen_tokens
from .sampling import Sampling, next_token

GREEDY = Sampling()
MOST_SAMPLES = 10_000  # each has its own cache


def generate(
    model: Llama,
    prompt_ids: Sequence[int],
    max_new_tokens: int,
    sampling: Sampling = GREEDY,
    stop_ids: Collection[int] = (),
    cache: KVCache | None = None,
) -> Iterator[int]:
    """Continue a prompt; yields one token id at a time.

    Ends after `max_new_tokens`, or at the first token in `stop_ids`, which is not yielded.
    cache: an empty one, or one that holds the first tokens of the prompt from an earlier run, which are then not
        computed again. In the end it holds every token but the last. None makes one of the right size.

    Raises (at the call, not at the first token):
        ValueError: if the prompt is empty, is a str, holds an id outside the vocabulary, or does not fit into the
            model's context together with `max_new_tokens`; if `max_new_tokens` is below 1; if `sampling.top_k` is more
            than the vocabulary; if `cache` holds the full prompt or more.

    Raises (at the first token that is affected):
        ValueError: if `cache` was made for another dtype or batch, or has too small a capacity; if a logit is NaN or
            infinite.
    """
    check_request(model, [prompt_ids], max_new_tokens, sampling)
    if cache is None:
        cache = model.new_cache(1, len(prompt_ids) + max_new_tokens - 1)  # the last token is never fed back
    if cache.length >= len(prompt_ids):
        raise ValueError(
            f"the cache holds {cache.length} tokens and the prompt has {len(prompt_ids)}; "
            "rewind the cache to the tokens that both have in common, and to at least one less than the prompt has"
        )
    tokens = as_tokens(model, [prompt_ids[cache.length :]])
    seen = seen_tokens(model, [prompt_ids], sampling)
    steps = _steps(model, tokens, cache, max_new_tokens, sampling, seen)
    return (row[0] for row in until_stopped(steps, stop_ids))


def generate_batch(
    model: Llama,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    sampling: Sampling = GREEDY,
    stop_ids: Collection[int] = (),
) -> list[list[int]]:
    """Continue several prompts together, each until its own stop. Returns the new ids of each, without the stop token.

    Greedy results are those of single runs. Sampled rows share one random number generator.

    Raises:
        ValueError: as `generate`; if there are no prompts; for prompts of unequal length and a model with dynamic NTK
            scaling, which would rotate the keys of each by the length of the longest.
    """
    if not prompts:
        raise ValueError("there are no prompts; give at least one")
    check_request(model, prompts, max_new_tokens, sampling)
    tokens, pads = left_padded(model, prompts)
    if pads is not None and not is_same_in_pieces(model.config):
        raise ValueError(
            "a batch would change what this model writes after the shorter prompts: its RoPE scaling is dynamic, "
            "which rotates keys by the length of the text so far; generate one by one, or in batches of equal length"
        )
    n_columns = tokens.shape[1] + max_new_tokens
    attention_mask = None if pads is None else torch.arange(n_columns, device=tokens.device) >= pads
    cache = model.new_cache(len(prompts), n_columns - 1)  # the last token is never fed back
    seen = seen_tokens(model, prompts, sampling)
    steps = _steps(model, tokens, cache, max_new_tokens, sampling, seen, attention_mask)
    return collect(until_stopped(steps, stop_ids), len(prompts))


def generate_samples(
    model: Llama,
    prompt_ids: Sequence[int],
    n: int,
    max_new_tokens: int,
    sampling: Sampling = GREEDY,
    stop_ids: Collection[int] = (),
) -> list[list[int]]:
    """Continue one prompt n times, each until its own stop. The prompt is computed once (with dynamic NTK, n times).

    All draw from one random number generator, so they differ, and the same seed gives the same n texts. At temperature
    0 all are the same.

    Raises:
        ValueError: as `generate`, and if n is below 1 or above `MOST_SAMPLES`.
    """
    return collect(stream_samples(model, prompt_ids, n, max_new_tokens, sampling, stop_ids), n)


def stream_samples(
    model: Llama,
    prompt_ids: Sequence[int],
    n: int,
    max_new_tokens: int,
    sampling: Sampling = GREEDY,
    stop_ids: Collection[int] = (),
) -> Iterator[list[int | None]]:
    """`generate_samples`, one step at a time: yields the next token of each sample, None for those that stopped."""
    if type(n) is not int or not 1 <= n <= MOST_SAMPLES:
        raise ValueError(f"the number of samples is {n!r}; it must be a whole number from 1 to {MOST_SAMPLES:,}")
    check_request(model, [prompt_ids], max_new_tokens, sampling)

    def steps() -> Iterator[list[int]]:
        cache = model.new_cache(1, len(prompt_ids) + max_new_tokens - 1)
        shared = len(prompt_ids) - 1 if is_same_in_pieces(model.config) else 0  # tokens that are computed once
        first, last = as_tokens(model, [prompt_ids]).split([shared, len(prompt_ids) - shared], dim=1)
        with torch.inference_mode():
            if first.shape[1]:
                run_prompt(model, first, cache)
            cache = fan_out(cache, n)
        seen = seen_tokens(model, [prompt_ids] * n, sampling)
        yield from _steps(model, last.expand(n, -1), cache, max_new_tokens, sampling, seen)

    return until_stopped(steps(), stop_ids)


def _steps(
    model: Llama,
    tokens: Int[Tensor, "batch seq"],
    cache: KVCache,
    max_new_tokens: int,
    sampling: Sampling,
    seen: Bool[Tensor, "batch vocab"] | None,
    attention_mask: Bool[Tensor, "batch columns"] | None = None,
) -> Iterator[list[int]]:
    """One new token for each row, `max_new_tokens` times.

    tokens: those that the cache does not hold yet. seen: as in `probabilities`; new tokens are added to it.
    attention_mask: as in `Llama.forward`, with a column for each token that will be made.
    """
    generator = sampling.generator(tokens.device)
    for _ in range(max_new_tokens):
        # Entered anew for each token: a generator that pauses inside would leave the mode on for its caller.
        with torch.inference_mode():
            logits = run_prompt(model, tokens, cache, attention_mask)
            tokens = next_token(logits, sampling, generator, seen)[:, None]
            if seen is not None:
                seen.scatter_(1, tokens, True)
        yield tokens[:, 0].tolist()
