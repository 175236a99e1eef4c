"""The loop that writes: the prompt first, then one token a pass, with what was computed kept in a cache."""

from collections.abc import Collection, Iterator, Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ..cache import KVCache
from ..model import Llama
from .caches import fan_out, is_same_in_pieces
from .prompt import as_tokens, check_request, new_cache, run_prompt, seen_tokens
from .sampling import Sampling, next_token

GREEDY = Sampling()
MOST_SAMPLES = 10_000  # each has a cache of its own


def generate(
    model: Llama,
    prompt_ids: Sequence[int],
    max_new_tokens: int,
    sampling: Sampling = GREEDY,
    stop_ids: Collection[int] = (),
    cache: KVCache | None = None,
) -> Iterator[int]:
    """Continue a prompt, one token id at a time, as they are made.

    Ends after `max_new_tokens`, or before the first token in `stop_ids`, which is not given.
    cache: one that holds the first tokens of the prompt from an earlier run, which are then not computed again, or
        that is empty; it holds all but the last token at the end. None makes one of the right size.

    Raises (at once, not at the first token):
        ValueError: if the prompt is empty, still text, or holds an id that the model does not know, or does not fit
            into the model's context together with `max_new_tokens`; if `max_new_tokens` is below 1; if
            `sampling.top_k` is more than the vocabulary; if `cache` holds the whole prompt or more.

    Raises (as soon as it shows):
        ValueError: if `cache` was made for another type or number of sequences, or has too small a capacity.
    """
    check_request(model, [prompt_ids], max_new_tokens, sampling)
    if cache is None:
        cache = new_cache(model, 1, len(prompt_ids) + max_new_tokens - 1)  # the last token is never fed back
    if cache.length >= len(prompt_ids):
        raise ValueError(
            f"the cache holds {cache.length} tokens and the prompt has {len(prompt_ids)}; "
            "rewind the cache to those that the two have in common, and to at least one token less than the prompt"
        )
    tokens = as_tokens(model, [prompt_ids[cache.length :]])
    seen = seen_tokens(model, [prompt_ids], sampling)
    return (row[0] for row in _steps(model, tokens, cache, max_new_tokens, sampling, stop_ids, seen))


def generate_batch(
    model: Llama,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    sampling: Sampling = GREEDY,
    stop_ids: Collection[int] = (),
) -> list[list[int]]:
    """Continue several prompts together, each until its own stop. Gives the new ids of each, without the stop token.

    Prompts of unequal length are padded on the left, so that all continue in the same column. Greedy results are
    those of single runs; sampled rows draw from one common source of chance.

    Raises:
        ValueError: as `generate`; if there are no prompts; for unequal ones and a model with dynamic NTK scaling, which
            would turn the keys of each by the length of the longest.
    """
    if not prompts:
        raise ValueError("there are no prompts; give at least one")
    check_request(model, prompts, max_new_tokens, sampling)
    longest = max(map(len, prompts))
    pads = [longest - len(prompt) for prompt in prompts]
    if any(pads) and not is_same_in_pieces(model.config):
        raise ValueError(
            "a batch would change what this model writes behind the shorter prompts: its RoPE scaling is dynamic, "
            "which turns keys by how long the text is so far; generate one by one, or in batches of one length"
        )
    tokens = as_tokens(model, [[0] * pad + list(prompt) for pad, prompt in zip(pads, prompts, strict=True)])
    real = None
    if any(pads):
        columns = torch.arange(longest + max_new_tokens, device=tokens.device)
        real = columns >= torch.tensor(pads, device=tokens.device)[:, None]
    cache = new_cache(model, len(prompts), longest + max_new_tokens - 1)
    seen = seen_tokens(model, prompts, sampling)
    return _collect(_steps(model, tokens, cache, max_new_tokens, sampling, stop_ids, seen, real), len(prompts))


def generate_samples(
    model: Llama,
    prompt_ids: Sequence[int],
    n: int,
    max_new_tokens: int,
    sampling: Sampling = GREEDY,
    stop_ids: Collection[int] = (),
) -> list[list[int]]:
    """Continue one prompt n times, each until its own stop. The prompt is computed once (but see `is_same_in_pieces`).

    All draw from one source of chance, so they differ, and one seed gives the same n texts again. Greedy, they are
    all the same.

    Raises:
        ValueError: as `generate`, and if n is below 1.
    """
    return _collect(stream_samples(model, prompt_ids, n, max_new_tokens, sampling, stop_ids), n)


def stream_samples(
    model: Llama,
    prompt_ids: Sequence[int],
    n: int,
    max_new_tokens: int,
    sampling: Sampling = GREEDY,
    stop_ids: Collection[int] = (),
) -> Iterator[list[int | None]]:
    """What `generate_samples` collects, as it is made: the next token of each sample, None for those that stopped."""
    if type(n) is not int or not 1 <= n <= MOST_SAMPLES:
        raise ValueError(f"the number of samples is {n!r}; it must be a whole number from 1 to {MOST_SAMPLES:,}")
    check_request(model, [prompt_ids], max_new_tokens, sampling)

    def steps() -> Iterator[list[int | None]]:
        cache = new_cache(model, 1, len(prompt_ids) + max_new_tokens - 1)
        shared = len(prompt_ids) - 1 if is_same_in_pieces(model.config) else 0  # tokens that are computed once
        first, last = as_tokens(model, [prompt_ids]).split([shared, len(prompt_ids) - shared], dim=1)
        with torch.inference_mode():
            if first.shape[1]:
                run_prompt(model, first, cache)
            cache = fan_out(cache, n)
        seen = seen_tokens(model, [prompt_ids] * n, sampling)
        yield from _steps(model, last.expand(n, -1), cache, max_new_tokens, sampling, stop_ids, seen)

    return steps()


def _steps(
    model: Llama,
    tokens: Int[Tensor, "batch seq"],
    cache: KVCache,
    max_new_tokens: int,
    sampling: Sampling,
    stop_ids: Collection[int],
    seen: Bool[Tensor, "batch vocab"] | None,
    real: Bool[Tensor, "batch columns"] | None = None,
) -> Iterator[list[int | None]]:
    """One token for each row, None for those that have stopped; ends when all have.

    tokens: what the cache does not hold yet. seen: tokens in the text so far, where that matters; kept up to date.
    """
    generator = sampling.generator(tokens.device)
    stop_ids, running = frozenset(stop_ids), [True] * len(tokens)
    for _ in range(max_new_tokens):
        # Entered anew for each token: a generator that pauses inside would leave the mode on for its caller.
        with torch.inference_mode():
            logits = run_prompt(model, tokens, cache, real)
            tokens = next_token(logits, sampling, generator, seen)[:, None]
            if seen is not None:
                seen.scatter_(1, tokens, True)
        drawn = tokens[:, 0].tolist()
        running = [was and token not in stop_ids for was, token in zip(running, drawn, strict=True)]
        if not any(running):
            return
        yield [token if goes else None for goes, token in zip(running, drawn, strict=True)]


def _collect(steps: Iterator[list[int | None]], n: int) -> list[list[int]]:
    rows: list[list[int]] = [[] for _ in range(n)]
    for step in steps:
        for row, token in zip(rows, step, strict=True):
            if token is not None:
                row.append(token)
    return rows
