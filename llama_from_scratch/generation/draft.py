"""Drafts for `generate_speculative`: guesses of the next tokens, from a small model or from the text itself."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ..model import Llama
from .caches import GrowingCache, rewind_to_shared
from .prompt import as_tokens, run_prompt, seen_tokens
from .sampling import Sampling, draw, probabilities

# draft(text so far, n, sampling, generator) -> up to n guesses, and the distribution that each was drawn from.
# The generator must be the one that accepts or rejects the guesses: a second one with the same seed would repeat its
# numbers, and whether a guess is accepted would depend on which guess it was.
Draft = Callable[[Sequence[int], int, Sampling, torch.Generator], tuple[list[int], Float[Tensor, "guesses vocab"]]]


def draft_model(model: Llama, small: Llama) -> Draft:
    """Guesses of a smaller model with the same vocabulary, drawn with the same `Sampling`.

    It keeps its own cache. When the text is longer than the small model's context, it makes no guesses.

    Raises:
        ValueError: if the two differ in vocabulary or device.
    """
    vocab, device = model.config.vocab_size, model.embedding.weight.device
    if small.config.vocab_size != vocab:
        raise ValueError(
            f"the draft model knows {small.config.vocab_size} tokens and the model {vocab}; "
            "a draft must share the model's vocabulary: take a smaller model of the same family"
        )
    if small.embedding.weight.device != device:
        raise ValueError(f"the draft model is on {small.embedding.weight.device} and the model on {device}; move one")
    cache = small.new_cache(1, 0, GrowingCache)
    held: list[int] = []  # the text in the cache, and perhaps one token more

    def guess(
        ids: Sequence[int], n: int, sampling: Sampling, generator: torch.Generator
    ) -> tuple[list[int], Float[Tensor, "guesses vocab"]]:
        text, chances = list(ids), [torch.zeros(0, vocab, device=device)]
        seen = seen_tokens(small, [ids], sampling)
        rewind_to_shared(cache, held, text)
        for _ in range(min(n, small.config.max_seq_len - len(ids) + 1)):
            logits = run_prompt(small, as_tokens(small, [text[cache.length :]]), cache)
            chances.append(probabilities(logits, sampling, seen))
            text.append(int(draw(chances[-1], generator)))
            if seen is not None:
                seen[0, text[-1]] = True
        held[:] = text
        return text[len(ids) :], torch.cat(chances)

    return guess


def prompt_lookup(model: Llama, longest: int = 3) -> Draft:
    """Guesses for texts that repeat themselves, such as answers about a given text; needs no second model.

    Looks for the latest earlier occurrence of the last `longest` tokens, or else of fewer, and guesses that what
    followed there follows again.
    Source: A. Saxena, prompt lookup decoding, 2023, github.com/apoorvumang/prompt-lookup-decoding.
    """
    vocab, device = model.config.vocab_size, model.embedding.weight.device

    def guess(
        ids: Sequence[int], n: int, sampling: Sampling, generator: torch.Generator
    ) -> tuple[list[int], Float[Tensor, "guesses vocab"]]:
        guesses = followed(list(ids), longest)[:n]
        certain = F.one_hot(torch.tensor(guesses, dtype=torch.long, device=device), vocab)  # not drawn: probability 1
        return guesses, certain.float()

    return guess


def followed(ids: list[int], longest: int) -> list[int]:
    """The tokens after the latest earlier occurrence of the last `longest` tokens, or else of fewer."""
    for size in range(min(longest, len(ids) - 1), 0, -1):
        for start in range(len(ids) - size - 1, -1, -1):
            if ids[start : start + size] == ids[-size:]:
                return ids[start + size :]
    return []
