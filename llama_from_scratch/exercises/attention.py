"""Checks of the chapter on self-attention. Each names the classic mistake that an answer shows."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .verdict import NotYet, exercise, four_numbers, tensor_of


def _random(*shape: int, seed: int = 3) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _match(given: Tensor, wanted: Tensor) -> bool:
    return torch.allclose(given.float(), wanted.float(), rtol=1e-3, atol=1e-3)


@exercise
def check_causal_weights(answer: object) -> str:
    """Weights of query 2 over keys 0 … 3 for the scores 0, ln 2, 0, ln 5. Prints the verdict."""
    given = torch.tensor(four_numbers(answer))
    if _match(given, torch.tensor([1, 2, 1, 0]) / 4):
        return "the future has weight 0, and the rest is e^score over the sum of e^score."
    mistakes = [
        (torch.tensor([1, 2, 1, 5]) / 9, "query 2 looked at key 3, its future", "Leave key 3 out before you add up."),
        (
            torch.tensor([1, 2, 1, 1]) / 5,
            "the future was given the score 0, and e^0 is 1",
            "A hidden key has the score minus infinity.",
        ),
        (
            torch.tensor([1, 2, 1, 0]) / 9,
            "key 3 was hidden after the division, so the weights do not add up to 1",
            "Mask first, then normalise.",
        ),
        (
            torch.tensor([1, 1, 1, 0]) / 3,
            "all visible keys got the same weight, but their scores differ",
            "Softmax is uniform only where scores are equal.",
        ),
        (
            torch.tensor([1.0, 2, 0, 0]) / 3,
            "query 2 does not see itself, key 2",
            "A token reads what came before it and itself: n ≤ m.",
        ),
        (torch.tensor([0.0, 1, 0, 0]), "the scores were divided by their sum", "Take e to the power of each first."),
        (torch.tensor([1.0, 2, 1, 0]), "these are e^score, not yet weights", "Divide by their sum."),
    ]
    for wrong, because, hint in mistakes:
        if _match(given, wrong):
            raise NotYet(because, hint)
    if abs(given.sum() - 100) < 1:
        raise NotYet("these are percent", "Write 0.25 for 25 %.")
    if abs(given.sum() - 1) > 0.01:
        raise NotYet(f"the weights add up to {given.sum():.3f}, not 1", "Divide e^score by the sum over visible keys.")
    raise NotYet("the weights are not those of these scores", "e^0 = 1, e^(ln 2) = 2.")


@exercise
def check_mask(fn: Callable[[Tensor, Tensor], Tensor]) -> str:
    """fn(query_positions[seq], key_positions[keys]) -> bool [seq, keys], True where a query may look."""
    queries, keys = torch.tensor([4, 5, 6]), torch.arange(8)
    right = keys <= queries[:, None]
    found = fn(queries.clone(), keys.clone())
    if found is None or found is ...:
        raise NotYet("the function returns None", "Write its body and end it with `return`.")
    if isinstance(found, Tensor) and found.shape == (8, 3):
        raise NotYet("rows and columns are exchanged", "A row for each query, a column for each key.")
    found = tensor_of(found, (3, 8))
    if found.dtype != torch.bool:
        raise NotYet(f"the mask is {str(found.dtype).removeprefix('torch.')}", "Return True and False: a comparison.")
    mistakes = {
        "a token does not see itself": keys < queries[:, None],
        "it shows the future and hides the past": keys >= queries[:, None],
        "True stands where a query may not look": ~right,
        "it counts rows and columns, and the first query stands at position 4": torch.ones(3, 8).tril().bool(),
        "it shows one token too many": keys <= queries[:, None] + 1,
    }
    for because, wrong in mistakes.items():
        if torch.equal(found, wrong):
            raise NotYet(because, "Compare the positions: a key may be seen if it stands at the query or before it.")
    if not torch.equal(found, right):
        raise NotYet("some places are wrong", "Print it for queries at 4, 5, 6 and keys at 0 to 7.")
    return "a query at position 4 sees the keys at 0 to 4, wherever in the matrix it stands."


@exercise
def check_softmax(fn: Callable[[Tensor], Tensor]) -> str:
    """fn(scores[..., keys]) -> weights of the same shape, which add up to 1 over the last axis."""
    scores = _random(2, 3, 5) * 3
    right = scores.softmax(-1)
    found = tensor_of(fn(scores.clone()), scores.shape)
    powers = scores.exp()
    mistakes = {
        "the weights add up to 1 over the second-last axis": scores.softmax(-2),
        "all numbers together add up to 1": powers / powers.sum(),
        "these are e^score, not divided yet": powers,
        "the scores themselves are divided by their sum": scores / scores.sum(-1, keepdim=True),
        "these are logarithms of weights": scores.log_softmax(-1),
    }
    for because, wrong in mistakes.items():
        if _match(found, wrong):
            raise NotYet(because, "e to each score, divided by the sum over the last axis.")
    if not _match(found, right):
        raise NotYet("these are not the weights", "e to each score, divided by the sum over the last axis.")
    for name, hard in {"1000": torch.tensor([[1000.0, 999.0]]), "−1000": torch.tensor([[-1000.0, -1001.0]])}.items():
        weights = fn(hard.clone())
        if not torch.isfinite(weights).all() or not _match(weights, hard.softmax(-1)):
            given = weights[0].tolist()
            raise NotYet(f"scores of {name} give {given}", "Subtract the largest score of each row first.")
    hidden = torch.tensor([[0.0, -torch.inf, 1.0]])
    if not _match(fn(hidden.clone()), hidden.softmax(-1)):
        raise NotYet("a hidden key does not get the weight 0", "e to −∞ is 0, if nothing is done to it before.")
    return "large scores, small ones and hidden keys."


@exercise
def check_heads(fn: Callable[..., Tensor]) -> str:
    """fn(x[seq, dim], w_q, w_k, w_v, w_o, n_heads) -> [seq, dim], causal multi-head attention."""
    x, w_q, w_k, w_v, w_o = _random(10, 24), *(_random(24, 24, seed=i) / 3 for i in range(4))

    def attention(n_heads=3, divisor=None, causal=True, out=True, interleaved=False) -> Tensor:
        def heads(w: Tensor) -> Tensor:
            y = x @ w.T
            if interleaved:  # number i goes to head i modulo n_heads
                return y.unflatten(-1, (-1, n_heads)).movedim(-1, 0)
            return y.unflatten(-1, (n_heads, -1)).transpose(0, 1)

        q, k, v = heads(w_q), heads(w_k), heads(w_v)
        scores = q @ k.mT / (divisor or q.shape[-1] ** 0.5)
        if causal:
            scores = scores.masked_fill(torch.ones(10, 10).triu(1).bool(), -torch.inf)
        found = (scores.softmax(-1) @ v).transpose(0, 1).flatten(1)
        return found @ w_o.T if out else found

    found = tensor_of(fn(x.clone(), w_q, w_k, w_v, w_o, 3), x.shape)
    mistakes = {
        "the mask is missing": attention(causal=False),
        "the scores are divided by the root of dim": attention(divisor=24**0.5),
        "the scores are divided by the root of the number of heads": attention(divisor=3**0.5),
        "the scores are not divided": attention(divisor=1.0),
        "it is one head of the full width": attention(n_heads=1),
        "the last matrix is missing": attention(out=False),
        "the numbers are dealt out to the heads in turn": attention(interleaved=True),
    }
    for because, wrong in mistakes.items():
        if _match(found, wrong):
            raise NotYet(because, "Cut into heads of dim / n_heads neighbours, attend in each, join, multiply by w_o.")
    if not _match(found, attention()):
        raise NotYet("the result is another", "Check the shapes: [n_heads, seq, width] before the scores.")
    return "three heads, each with its own mask and its own mean, mixed at the end."


@exercise
def check_induction(fn: Callable[[Tensor, int], Tensor]) -> str:
    """fn(weights[heads, 2 period, 2 period], period) -> [heads], mean weight on the token after the earlier copy."""
    period = 6
    weights = F.softmax(_random(4, 2 * period, 2 * period) * 2, dim=-1)
    rows = torch.arange(period, 2 * period)
    found = tensor_of(fn(weights.clone(), period), (4,))

    def mean(columns: Tensor, at: Tensor = rows) -> Tensor:
        return weights[:, at, columns].mean(-1)

    every = torch.arange(2 * period)
    mistakes = {
        "that is the earlier copy itself": mean(rows - period),
        "that is the token before the earlier copy": mean(rows - period - 1),
        "that is the token before, as in a previous-token head": mean(rows - 1),
        "the axes are exchanged: rows ask, columns are looked at": weights[:, rows - period + 1, rows].mean(-1),
        "this is the mean over all rows, and the first half has no copy": mean(
            (every - period + 1) % (2 * period), every
        ),
        "this is a sum, not a mean": mean(rows - period + 1) * period,
    }
    for because, wrong in mistakes.items():
        if _match(found, wrong):
            raise NotYet(because, "Row m of the second half, column m − period + 1, and the mean over those rows.")
    if not _match(found, mean(rows - period + 1)):
        raise NotYet("these are other weights", "Row m of the second half, column m − period + 1.")
    return "a token of the second half looks at what came after its earlier copy."
