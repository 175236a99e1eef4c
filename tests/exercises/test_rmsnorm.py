"""Every usual mistake in the RMSNorm exercises is met with its own explanation; every right answer is praised."""

import pytest
import torch
import torch.nn.functional as F

from llama_from_scratch import exercises

X = torch.tensor([3.0, -4.0, 12.0, 0.0])


def divided(x, mean_square, eps):
    return x / (mean_square + eps).sqrt()


def right(x, g, eps):
    x32 = x.float()
    return (divided(x32, x32.pow(2).mean(-1, keepdim=True), eps) * g).to(x.dtype)


def in_place(x, g, eps):
    x *= torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * g
    return x


def low_inside(x, g, eps):
    low = g.to(x.dtype)
    return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + eps) * low


def no_float(x, g, eps):
    return (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * g).to(x.dtype)


def std(x):
    return x.var(-1, unbiased=False, keepdim=True)


def parts(up, x, g, eps):
    inverse = (x.pow(2).mean(-1, keepdim=True) + eps).rsqrt()
    return inverse, x * inverse, up * g, x.shape[-1]


def backward(up, x, g, eps, scale=1.0, sign=1.0, gain_first=True, gain_last=False, divide=True, centred=False):
    inverse, unit, u, n = parts(up, x, g, eps)
    u = u if gain_first else up
    along = (u * unit).sum(-1, keepdim=True) / n
    result = u - sign * scale * unit * along - (u.mean(-1, keepdim=True) if centred else 0)
    return result * (inverse if divide else 1) * (g if gain_last else 1)


def exact_projection(up, x, g, eps):
    inverse, _, u, _ = parts(up, x, g, eps)
    return inverse * (u - x * (u * x).sum(-1, keepdim=True) / x.pow(2).sum(-1, keepdim=True))


def x_for_unit(up, x, g, eps):
    inverse, _, u, _ = parts(up, x, g, eps)
    return inverse * (u - x * (u * x).mean(-1, keepdim=True))


def no_dim(up, x, g, eps):
    inverse, unit, u, _ = parts(up, x, g, eps)
    return inverse * (u - unit * (u * unit).mean())


def by_autograd(up, x, g, eps):
    x = x.clone().requires_grad_()
    y = F.rms_norm(x, x.shape[-1:], g, eps)
    return torch.autograd.grad(y, x, up)[0]


def pair(names):
    return [(name, answer, words) for name, rows in names.items() for answer, words in rows]


WRONG = pair(
    {
        "by_hand": [
            ([0.0] * 4, "still the stub"),
            ([1.0, 2, 3, 4], "not x divided"),
            ([3 / 6.5, 4 / 6.5, 12 / 6.5, 0], "a sign is lost"),
            (X / (169 / 3) ** 0.5, "three numbers"),
            ([0.5, -0.6, 1.8, 0.0], "one decimal"),
            ([1.0, 2.0], "shape [2]"),
            (F.layer_norm(X, (4,)), "LayerNorm"),
            (X / 13, "sum of squares"),
            (X / 42.25, "not by its root"),
            (X / std(X).sqrt(), "standard deviation"),
            (X / 4.75, "absolute values"),
            (["a"], "Give four numbers"),
            ("3/6.5, -4/6.5", "Give four numbers"),
        ],
        "rms_norm": [
            (lambda x, g, eps: None, "returns None"),
            (lambda x, g, eps: x.tolist(), "returns a list"),
            (lambda x, g, eps: x[0], "has shape [7, 16]"),
            (lambda x, g, eps: x / 0, "inf or nan"),
            (lambda x, g, eps: x @ g[:3], "stopped"),
            (lambda x, g, eps: x, "still the stub"),
            (lambda x, g, eps: 3 * x, "the numbers differ"),
            (lambda x, g, eps: x * torch.rsqrt(x.pow(2).mean(-1) + eps) * g, "keepdim=True"),
            (lambda x, g, eps: x / x.norm(dim=-1, keepdim=True) * g, "x.norm() is the root of the sum"),
            (lambda x, g, eps: right(x, 1, 0.0), "eps and weight are missing"),
            (lambda x, g, eps: x * (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * g, "multiplied by the root"),
            (in_place, "changes its input"),
            (lambda x, g, eps: right(x, 1, eps), "weight is not used"),
            (lambda x, g, eps: right(x, 1 + g, eps), "Gemma"),
            (lambda x, g, eps: right(x, 1, eps) + g, "weight is added"),
            (lambda x, g, eps: F.layer_norm(x, (16,), g, None, eps), "this is LayerNorm"),
            (
                lambda x, g, eps: divided(x - x.mean(-1, keepdim=True), x.pow(2).mean(-1, keepdim=True), eps) * g,
                "above the line",
            ),
            (lambda x, g, eps: divided(x, std(x), eps) * g, "standard deviation"),
            (lambda x, g, eps: x / (x.pow(2).mean(-1, keepdim=True).sqrt() + eps) * g, "outside the root"),
            (lambda x, g, eps: right(x, g, 0.0), "eps is missing"),
            (lambda x, g, eps: x / (x.pow(2).mean(-1, keepdim=True) + eps) * g, "the root is missing"),
            (lambda x, g, eps: divided(x, x.pow(2).sum(-1, keepdim=True), eps) * g, "summed"),
            (lambda x, g, eps: divided(x, x.pow(2).mean(1, keepdim=True), eps) * g, "over the tokens (axis 1)"),
            (lambda x, g, eps: divided(x, x.pow(2).mean((1, 2), keepdim=True), eps) * g, "tokens and features"),
            (lambda x, g, eps: divided(x, x.pow(2).mean(), eps) * g, "whole tensor"),
            (lambda x, g, eps: right(x.float(), g, eps), "the result is float32"),
            (low_inside, "work in fp32"),
            (no_float, "in float16 a square overflows"),
        ],
        "eps": [
            (1.0, "still the stub"),
            (0.5, "keeps"),
            (-1.0, "above 0"),
            (float("nan"), "above 0"),
            (4.926e-4, "mean square"),
            (0.0316, "halves"),
            (9.9e-4, "outside the root"),
            (1e-5**0.5, "29 %"),
            ("small", "ValueError"),
        ],
        "fold": [
            (lambda w, g: w, "still the stub"),
            (lambda w, g: w * g[:, None], "scales the outputs"),
            (lambda w, g: w / g, "multiply"),
            (lambda w, g: w.T, "is not linear(x * gain, matrix)"),
            (lambda w, g: w.mul_(g), "changes the matrix"),
            (lambda w, g: w * (g if w.shape[0] == 6 else 1), "3 rows"),
        ],
        "centre": [
            (lambda w: w, "still the stub"),
            (lambda w: w - w.mean(1, keepdim=True), "mean over the inputs"),
            (lambda w: w - w.mean(), "one number"),
            (lambda w: 2 * w, "not removed"),
        ],
        "backward": [
            (lambda *a: a[0], "still the stub"),
            (lambda *a: 2 * a[0], "autograd finds another"),
            (lambda *a: backward(*a[:3], 0.0), "eps is left out"),
            (exact_projection, "only for eps = 0"),
            (x_for_unit, "in the place of"),
            (no_dim, "whole tensor"),
            (lambda *a: parts(*a)[2] * parts(*a)[0], "as a constant"),
            (lambda *a: backward(*a, gain_first=False), "the gain is missing"),
            (lambda *a: backward(*a, gain_first=False, gain_last=True), "applied last"),
            (lambda *a: backward(*a, scale=8.0), "1/n"),
            (lambda *a: backward(*a, sign=-1.0), "wrong sign"),
            (lambda *a: backward(*a, divide=False), "division by the root mean square is missing"),
            (lambda *a: backward(*a, centred=True), "LayerNorm"),
        ],
    }
)

RIGHT = pair(
    {
        "by_hand": [([0.46, -0.62, 1.85, 0.0], "6.5"), (X / 6.5, "6.5")],
        "rms_norm": [
            (right, "dtype kept"),
            (lambda x, g, eps: F.rms_norm(x.float(), (16,), g, eps).to(x.dtype), "dtype kept"),
            # The other custom: round, multiply by the gain in bf16, round again.
            (
                lambda x, g, eps: F.rms_norm(x.float(), (16,), None, eps).to(x.dtype) * g.to(x.dtype),
                "dtype kept",
            ),
        ],
        "eps": [(0.0222, "0.022"), (torch.tensor(0.02220), "0.022")],
        "fold": [(lambda w, g: w * g, "column"), (lambda w, g: w @ torch.diag(g), "column")],
        "centre": [(lambda w: w - w.mean(0), "mean 0")],
        "backward": [(backward, "same gradient"), (by_autograd, "same gradient")],
    }
)


def verdict(name, answer, capsys) -> str:
    assert getattr(exercises, f"check_{name}")(answer) is None
    return " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(("name", "answer", "words"), WRONG)
def test_a_mistake_is_named(name, answer, words, capsys):
    said = verdict(name, answer, capsys)
    assert said.startswith("Not yet: ") and words in said, said


@pytest.mark.parametrize(("name", "answer", "words"), RIGHT)
def test_a_right_answer_is_praised(name, answer, words, capsys):
    said = verdict(name, answer, capsys)
    assert said.startswith("Correct: ") and words in said, said


def test_the_explanation_of_an_error_shows_the_line_of_the_learner(capsys):
    def mine(x, g, eps):
        return x @ g[:3]

    said = verdict("rms_norm", mine, capsys)
    assert "return x @ g[:3]" in said and "RuntimeError" in said
