"""The loop that writes: the prompt in one pass, then one token a pass, with what was computed kept in a cache."""

from collections.abc import Collection, Iterator, Sequence

import torch

from ..cache import KVCache
from ..model import Llama
from .sampling import Sampling, next_token

GREEDY = Sampling()


def generate(
    model: Llama,
    prompt_ids: Sequence[int],
    max_new_tokens: int,
    sampling: Sampling = GREEDY,
    stop_ids: Collection[int] = (),
) -> Iterator[int]:
    """Continue a prompt, one token id at a time, as they are made.

    Ends after `max_new_tokens`, or before the first token in `stop_ids`, which is not given.

    Raises (at once, not at the first token):
        ValueError: if the prompt is empty, still text, or holds an id that the model does not know, or does not fit
            into the model's context together with `max_new_tokens`; if `max_new_tokens` is below 1; if
            `sampling.top_k` is more than the vocabulary.
    """
    _check(model, [prompt_ids], max_new_tokens, sampling)
    return (row[0] for row in _steps(model, [prompt_ids], max_new_tokens, sampling, frozenset(stop_ids)))


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
        ValueError: as `generate`, and if there are no prompts.
    """
    if not prompts:
        raise ValueError("there are no prompts; give at least one")
    _check(model, prompts, max_new_tokens, sampling)
    rows: list[list[int]] = [[] for _ in prompts]
    for step in _steps(model, prompts, max_new_tokens, sampling, frozenset(stop_ids)):
        for row, token in zip(rows, step, strict=True):
            if token is not None:
                row.append(token)
    return rows


def _steps(
    model: Llama, prompts: Sequence[Sequence[int]], max_new_tokens: int, sampling: Sampling, stop_ids: frozenset[int]
) -> Iterator[list[int | None]]:
    """One token for each prompt, None for those that have stopped; ends when all have."""
    weight = model.embedding.weight
    longest = max(map(len, prompts))
    pads = [longest - len(prompt) for prompt in prompts]
    tokens = torch.tensor([[0] * pad + list(prompt) for pad, prompt in zip(pads, prompts, strict=True)])
    real = None
    if any(pads):
        columns = torch.arange(longest + max_new_tokens, device=weight.device)
        real = columns >= torch.tensor(pads, device=weight.device)[:, None]
    # The last token drawn is never fed back, hence one less.
    cache = KVCache(model.config, len(prompts), longest + max_new_tokens - 1, weight.dtype, weight.device)
    generator = sampling.generator(weight.device)

    running = [True] * len(prompts)
    new = tokens.to(weight.device)
    for _ in range(max_new_tokens):
        # Entered anew for each token: a generator that pauses inside would leave the mode on for its caller.
        with torch.inference_mode():
            end = cache.length + new.shape[1]
            logits = model(new, cache=cache, real=None if real is None else real[:, :end])
            new = next_token(logits[:, -1], sampling, generator)[:, None]
        drawn = new[:, 0].tolist()
        running = [was and token not in stop_ids for was, token in zip(running, drawn, strict=True)]
        if not any(running):
            return
        yield [token if goes else None for goes, token in zip(running, drawn, strict=True)]


def _check(model: Llama, prompts: Sequence[Sequence[int]], max_new_tokens: int, sampling: Sampling) -> None:
    if type(max_new_tokens) is not int or max_new_tokens < 1:
        raise ValueError(f"max_new_tokens is {max_new_tokens!r}; it must be a whole number of at least 1")
    vocab, context = model.config.vocab_size, model.config.max_seq_len
    if sampling.top_k is not None and sampling.top_k > vocab:
        raise ValueError(f"top_k is {sampling.top_k}; this model has only {vocab} tokens to choose from")
    for prompt in prompts:
        if isinstance(prompt, str):
            raise ValueError(f"the prompt is the text {prompt!r}; give its token ids, as Tokenizer.encode makes them")
        if len(prompt) == 0:
            raise ValueError("the prompt is empty; give at least one token to continue")
        wrong = [token for token in prompt if not 0 <= token < vocab]
        if wrong:
            raise ValueError(f"the prompt holds the token id {wrong[0]}; this model knows 0 to {vocab - 1}")
        if len(prompt) >= context:
            raise ValueError(
                f"the prompt has {len(prompt)} tokens and the model's context is {context}, "
                "which leaves no room for new ones; shorten it"
            )
        together = len(prompt) + max_new_tokens
        if together > context:
            raise ValueError(
                f"a prompt of length {len(prompt)} and {max_new_tokens} new tokens are {together}; "
                f"the model's context is {context}, so ask for at most {context - len(prompt)} new ones"
            )
