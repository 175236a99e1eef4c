"""The checks of the chapter on self-attention name the classic mistakes, and praise the right answers."""

import pytest
import torch

from llama_from_scratch import exercises


@pytest.fixture
def verdict(capsys):
    """Runs a check and returns what it said, on one line."""

    def run(check, answer) -> str:
        assert check(answer) is None
        return " ".join(capsys.readouterr().out.split())

    return run


@pytest.mark.parametrize(
    "answer, said",
    [
        ([0.25, 0.5, 0.25, 0], "Correct"),
        (torch.tensor([0.25, 0.5, 0.25, 0]), "Correct"),
        (None, "a list of four numbers"),
        (0.5, "a list of four numbers"),
        ([0.5, 0.5], "a list of four numbers"),
        (["1/4", "1/2", "1/4", "0"], "a list of four numbers"),
        ([1 / 3, 2 / 3, 0, 0], "does not see itself"),
        ([25, 50, 25, 0], "Write 0.25 for 25 %"),
        ([1 / 9, 2 / 9, 1 / 9, 5 / 9], "its future"),
        ([1 / 5, 2 / 5, 1 / 5, 1 / 5], "score 0"),
        ([1 / 9, 2 / 9, 1 / 9, 0], "after the division"),
        ([1 / 3, 1 / 3, 1 / 3, 0], "all visible keys got the same"),
        ([0, 1, 0, 0], "divided by their sum"),
        ([1, 2, 1, 0], "not yet weights"),
        ([0.3, 0.3, 0.3, 0.3], "add up to 1.2"),
        ([0.4, 0.2, 0.4, 0], "not those of these scores"),
    ],
)
def test_causal_weights(verdict, answer, said):
    out = verdict(exercises.check_causal_weights, answer)
    assert said in out
    assert out.startswith("Correct" if said == "Correct" else "Not yet")


def stable(scores):
    powers = (scores - scores.amax(-1, keepdim=True)).exp()
    return powers / powers.sum(-1, keepdim=True)


def heads(x, w_q, w_k, w_v, w_o, n, divisor=None, causal=True, out=True, dealt=False):
    def cut(w):
        y = x @ w.T
        return y.unflatten(-1, (-1, n)).movedim(-1, 0) if dealt else y.unflatten(-1, (n, -1)).transpose(0, 1)

    q, k, v = cut(w_q), cut(w_k), cut(w_v)
    scores = q @ k.mT / (divisor or q.shape[-1] ** 0.5)
    if causal:
        scores = scores.masked_fill(torch.ones(len(x), len(x)).triu(1).bool(), -torch.inf)
    found = (scores.softmax(-1) @ v).transpose(0, 1).flatten(1)
    return found @ w_o.T if out else found


def one_head(x, w_q, w_k, w_v, w_o, n):
    return heads(x, w_q, w_k, w_v, w_o, 1)


def rows(w, p):
    return torch.arange(p, 2 * p)


CASES = {
    "mask: right": ("check_mask", lambda q, k: k <= q[:, None], "Correct"),
    "mask: strict": ("check_mask", lambda q, k: k < q[:, None], "does not see itself"),
    "mask: reversed": ("check_mask", lambda q, k: k >= q[:, None], "shows the future"),
    "mask: negated": ("check_mask", lambda q, k: k > q[:, None], "may not look"),
    "mask: corner": ("check_mask", lambda q, k: torch.ones(3, 8).tril().bool(), "counts rows and columns"),
    "mask: one more": ("check_mask", lambda q, k: k <= q[:, None] + 1, "one token too many"),
    "mask: transposed": ("check_mask", lambda q, k: k[:, None] <= q, "exchanged"),
    "mask: numbers": ("check_mask", lambda q, k: (k <= q[:, None]).float(), "a comparison"),
    "mask: stub": ("check_mask", lambda q, k: None, "returns None"),
    "softmax: right": ("check_softmax", stable, "Correct"),
    "softmax: overflow": ("check_softmax", lambda s: s.exp() / s.exp().sum(-1, keepdim=True), "scores of 1000"),
    "softmax: axis": ("check_softmax", lambda s: s.softmax(-2), "second-last axis"),
    "softmax: all": ("check_softmax", lambda s: s.exp() / s.exp().sum(), "all numbers together"),
    "softmax: powers": ("check_softmax", lambda s: s.exp(), "not divided yet"),
    "softmax: scores": ("check_softmax", lambda s: s / s.sum(-1, keepdim=True), "scores themselves"),
    "softmax: logs": ("check_softmax", lambda s: s.log_softmax(-1), "logarithms"),
    "softmax: stub": ("check_softmax", lambda s: None, "returns None"),
    "heads: right": ("check_heads", heads, "Correct"),
    "heads: no mask": ("check_heads", lambda *a: heads(*a, causal=False), "mask is missing"),
    "heads: dim": ("check_heads", lambda *a: heads(*a, divisor=24**0.5), "root of dim"),
    "heads: number": ("check_heads", lambda *a: heads(*a, divisor=3**0.5), "number of heads"),
    "heads: undivided": ("check_heads", lambda *a: heads(*a, divisor=1.0), "not divided"),
    "heads: one": ("check_heads", one_head, "one head of the full width"),
    "heads: no out": ("check_heads", lambda *a: heads(*a, out=False), "last matrix"),
    "heads: dealt": ("check_heads", lambda *a: heads(*a, dealt=True), "dealt out"),
    "heads: stub": ("check_heads", lambda *a: None, "returns None"),
    "induction: right": ("check_induction", lambda w, p: w[:, rows(w, p), rows(w, p) - p + 1].mean(-1), "Correct"),
    "induction: copy": ("check_induction", lambda w, p: w[:, rows(w, p), rows(w, p) - p].mean(-1), "copy itself"),
    "induction: before": ("check_induction", lambda w, p: w[:, rows(w, p), rows(w, p) - p - 1].mean(-1), "before the"),
    "induction: back": ("check_induction", lambda w, p: w[:, rows(w, p), rows(w, p) - 1].mean(-1), "previous-token"),
    "induction: axes": ("check_induction", lambda w, p: w[:, rows(w, p) - p + 1, rows(w, p)].mean(-1), "axes are"),
    "induction: sum": ("check_induction", lambda w, p: w[:, rows(w, p), rows(w, p) - p + 1].sum(-1), "a sum"),
    "induction: stub": ("check_induction", lambda w, p: None, "returns None"),
}


@pytest.mark.parametrize("case", CASES)
def test_check_says_what_is_wrong(verdict, case):
    check, answer, said = CASES[case]
    assert said in verdict(getattr(exercises, check), answer)
