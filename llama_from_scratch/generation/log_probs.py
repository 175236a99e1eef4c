"""The log-probability of each token of a text."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..model import Llama
from .sampling import bad_logits

AT_A_TIME = 128  # tokens whose logits are in memory at a time: vocab_size numbers each


@torch.no_grad()
def token_log_probs(model: Llama, tokens: Int[Tensor, "batch seq"]) -> Float[Tensor, "batch targets"]:
    """log p(token | the tokens before it) in nats and fp32, for every token but the first: targets = seq - 1.

    For a text that the model wrote, give prompt and continuation together and take the last entries. Temperature and
    filters play no part.

    Raises:
        ValueError: if there are fewer than two tokens, or one is outside the vocabulary; if all but the last, which is
            only predicted, are more than the model's context; if a logit is NaN or infinite.
    """
    if tokens.dim() != 2 or tokens.shape[1] < 2:
        raise ValueError(f"tokens have shape {list(tokens.shape)}; give [batch, seq] with at least 2 tokens in a row")
    vocab = model.config.vocab_size
    if not 0 <= tokens.min() <= tokens.max() < vocab:
        raise ValueError(f"token ids run from {tokens.min()} to {tokens.max()}; this model knows 0 to {vocab - 1}")
    hidden, targets = model.hidden(tokens[:, :-1]), tokens[:, 1:]
    pieces = []
    for x, target in zip(hidden.split(AT_A_TIME, dim=1), targets.split(AT_A_TIME, dim=1), strict=True):
        log_probs = model.logits(x).float().log_softmax(dim=-1)
        pieces.append(log_probs.gather(-1, target[..., None].long()).squeeze(-1))
    found = torch.cat(pieces, dim=1)
    if found.isnan().any():  # as it is after a softmax over NaN or an infinite logit
        raise bad_logits(hidden.dtype)
    return found
