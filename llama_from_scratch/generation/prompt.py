"""The start of every kind of generation: check the request, then run the prompt through the model."""

from collections.abc import Sequence
from operator import index

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..cache import KVCache
from ..model import Llama
from .caches import is_same_in_pieces
from .sampling import Sampling

PIECE = 512  # tokens in one pass, so that activations need no more memory for a longer prompt


def check_request(model: Llama, prompts: Sequence[Sequence[int]], max_new_tokens: int, sampling: Sampling) -> None:
    """Raise the ValueErrors that `generate` documents."""
    if type(max_new_tokens) is not int or max_new_tokens < 1:
        raise ValueError(f"max_new_tokens is {max_new_tokens!r}; it must be a whole number of at least 1")
    vocab, context = model.config.vocab_size, model.config.max_seq_len
    if sampling.top_k is not None and sampling.top_k > vocab:
        raise ValueError(f"top_k is {sampling.top_k}; this model has only {vocab} tokens, so give at most that")
    for prompt in prompts:
        if isinstance(prompt, str):
            raise ValueError(f"the prompt is the text {prompt!r}; give its token ids, as Tokenizer.encode makes them")
        if len(prompt) == 0:
            raise ValueError("the prompt is empty; give at least one token to continue")
        wrong = [token for token in map(_token_id, prompt) if not 0 <= token < vocab]
        if wrong:
            raise ValueError(
                f"the prompt holds the token id {wrong[0]}; this model knows 0 to {vocab - 1}, so use its own tokenizer"
            )
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


def _token_id(token: object) -> int:
    """An int, also from NumPy's integers and from a tensor of one integer, such as those that a row of ids yields."""
    try:
        return index(token)
    except TypeError:
        shown = " ".join(repr(token).split())
        raise ValueError(
            f"the prompt holds {shown[:40]}, which is not a token id; give whole numbers in one dimension"
        ) from None


def as_tokens(model: Llama, rows: Sequence[Sequence[int]]) -> Int[Tensor, "batch seq"]:
    """Token ids on the model's device."""
    return torch.tensor([list(map(_token_id, row)) for row in rows], device=model.embedding.weight.device)


def seen_tokens(
    model: Llama, prompts: Sequence[Sequence[int]], sampling: Sampling
) -> Bool[Tensor, "batch vocab"] | None:
    """True for each token that a prompt holds; None without a repetition penalty, which alone reads it."""
    if sampling.repetition_penalty == 1:
        return None
    seen = torch.zeros(len(prompts), model.config.vocab_size, dtype=torch.bool)
    for row, prompt in zip(seen, prompts, strict=True):
        row[list(map(_token_id, prompt))] = True
    return seen.to(model.embedding.weight.device)


def run_prompt(
    model: Llama,
    tokens: Int[Tensor, "batch seq"],
    cache: KVCache,
    attention_mask: Bool[Tensor, "batch columns"] | None = None,
) -> Float[Tensor, "batch vocab"]:
    """Run `tokens` through the model, a piece at a time, into the cache. Returns the logits after the last one.

    attention_mask: as in `Llama.forward`; columns beyond these tokens are not read.
    """
    size = PIECE if is_same_in_pieces(model.config) else tokens.shape[1]
    for piece in tokens.split(size, dim=1):
        end = cache.length + piece.shape[1]
        hidden = model.hidden(piece, cache, None if attention_mask is None else attention_mask[:, :end])
    return model.logits(hidden[:, -1])
