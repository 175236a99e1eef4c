"""Perplexity: how well the model predicts a given text."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf, log

import torch

from ..model import Llama
from .log_probs import token_log_probs
from .prompt import as_tokens


@dataclass(frozen=True)
class Evaluation:
    """How well a text was predicted, from `evaluate`."""

    nats: float  # -log p of all predicted tokens together, natural logarithm
    n_tokens: int  # tokens predicted: all but the first

    @property
    def nats_per_token(self) -> float:
        """The cross-entropy, which training minimises."""
        return self.nats / self.n_tokens

    @property
    def bits_per_token(self) -> float:
        return self.nats_per_token / log(2)

    @property
    def perplexity(self) -> float:
        """exp(nats per token): the number of equally likely tokens that would be as hard to predict."""
        return float(torch.tensor(self.nats_per_token, dtype=torch.float64).exp())  # inf where math.exp would fail

    def bits_per_byte(self, n_bytes: int) -> float:
        """Comparable between models with different vocabularies. n_bytes: of the predicted tokens, in UTF-8."""
        return self.nats / log(2) / n_bytes if n_bytes else inf


def evaluate(
    model: Llama,
    ids: Sequence[int],
    window: int,
    stride: int,
    progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """Predict every token of a text but the first, each once, and add up -log p (in fp64).

    The model reads `window` tokens, then moves on by `stride`. Of each window only the tokens that no earlier window
    predicted count, so each is predicted from at least window - stride + 1 tokens (near the start, from all there are).
    stride = window is the fastest and gives the highest perplexity; stride = 1 gives each token a full window and
    takes `window` times as long.
    progress: called with the number of tokens predicted so far.

    Raises:
        ValueError: if the text has fewer than two tokens, or one outside the vocabulary; if not
            1 <= stride <= window <= the model's context.
    """
    context = model.config.max_seq_len
    if not 1 <= window <= context:
        raise ValueError(f"the window is {window}; it must be from 1 to {context}, the context of this model")
    if not 1 <= stride <= window:
        raise ValueError(
            f"the stride is {stride}; it must be from 1 to the window, {window}, or tokens would be skipped"
        )
    if len(ids) < 2:
        raise ValueError(
            f"the text has {len(ids)} tokens; at least 2 are needed, because the first is not predicted: give more text"
        )

    nats, predicted, last = 0.0, 0, len(ids) - 1
    for begin in range(0, last, stride):
        end = min(begin + window, last)  # reads the tokens begin … end - 1, predicts begin + 1 … end
        log_probs = token_log_probs(model, as_tokens(model, [ids[begin : end + 1]]))
        nats -= float(log_probs[0, predicted - end :].double().sum())
        predicted = end
        if progress:
            progress(predicted)
        if end == last:
            break
    return Evaluation(nats, predicted)
