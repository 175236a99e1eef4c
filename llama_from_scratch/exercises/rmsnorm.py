"""Checks of the RMSNorm chapter. Each names the classic mistake that an answer shows, if it shows one."""

from collections.abc import Callable
from math import isfinite, sqrt

import torch
import torch.nn.functional as F
from torch import Tensor

from .verdict import NotYet, exercise, tensor_of

EPS = 1e-5


def _stub() -> NotYet:
    return NotYet("this is still the stub", "Replace its body, run the cell again and read the verdict.")


def _close(a: Tensor, b: Tensor, tolerance: float = 1e-4) -> bool:
    return torch.allclose(a.double(), b.double(), rtol=tolerance, atol=tolerance)


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(5)


@exercise
def check_by_hand(answer: object) -> str:
    """answer: RMSNorm of [3, -4, 12, 0], four numbers with at least two right decimals."""
    try:
        y = torch.as_tensor(answer, dtype=torch.float64)
    except (TypeError, ValueError):
        raise NotYet(
            f"the answer is {answer!r}", "Give four numbers with two decimals, without quotation marks."
        ) from None
    if tuple(y.shape) != (4,):
        raise NotYet(f"the answer has shape {list(y.shape)}", "Give four numbers, one for each feature.")
    if not y.any():
        raise _stub()
    x = torch.tensor([3.0, -4.0, 12.0, 0.0], dtype=torch.float64)
    square = x.pow(2).mean()  # 42.25
    right = x / square.sqrt()
    mistakes = {
        "the mean 2.75 is subtracted, which is LayerNorm": (x - x.mean()) / x.std(unbiased=False),
        "the vector has length 1: it is divided by the root of the sum of squares, 13": x / x.norm(),
        "the numbers are divided by the mean square, 42.25, and not by its root": x / square,
        "the numbers are divided by the standard deviation, whose square leaves out the mean": x
        / x.std(unbiased=False),
        "the numbers are divided by the mean of the absolute values, 4.75": x / x.abs().mean(),
        "a sign is lost: the square has none, and the −4 above the line keeps its own": right.abs(),
        "the mean is taken over three numbers, and the 0 is a feature too": x / (x.pow(2).sum() / 3).sqrt(),
    }
    if not _close(y, right, 5e-3):
        if torch.equal(y, right.mul(10).round() / 10):
            raise NotYet("this is right to one decimal", "Give two.")
        for because, wrong in mistakes.items():
            if _close(y, wrong, 5e-3):
                raise NotYet(because, "Square the numbers, take their mean, take its root, divide by that.")
        raise NotYet("these are not x divided by its root mean square", "The four squares are 9, 16, 144 and 0.")
    return "the mean square is 42.25, its root 6.5, and every number is divided by 6.5."


@exercise
def check_rms_norm(fn: Callable[[Tensor, Tensor, float], Tensor]) -> str:
    """fn(x[batch, seq, dim], weight[dim], eps) -> [batch, seq, dim], in the dtype of x."""
    generator = _seeded()
    x = torch.randn(2, 7, 16, generator=generator) * torch.linspace(0.2, 3.0, 7)[:, None] + 0.5
    g = torch.rand(16, generator=generator) + 0.5
    eps = 0.1  # large, so that its place shows
    before = x.clone()
    try:
        y = tensor_of(fn(x, g, eps), x.shape)
    except RuntimeError as error:
        if "must match the size" not in str(error):
            raise
        raise NotYet(
            f"two shapes do not fit: {str(error).splitlines()[0]}",
            "A mean over dim=-1 of [2, 7, 16] is [2, 7]; with `keepdim=True` it is [2, 7, 1] and fits.",
        ) from None
    if not torch.equal(x, before):
        raise NotYet("your function changes its input", "Avoid `x *= ...` and other calls that write into x.")
    if torch.equal(y, x):
        raise _stub()

    square = x.pow(2)
    mean = square.mean(-1, keepdim=True)
    right = x / (mean + eps).sqrt() * g
    if not _close(y, right):
        raise NotYet(*_rms_norm_mistake(y, x, g, eps))

    half = (x * 40).to(torch.bfloat16)
    low = tensor_of(fn(half, g, EPS), x.shape)
    if low.dtype != torch.bfloat16:
        raise NotYet(
            f"x is bfloat16 and the result is {str(low.dtype).removeprefix('torch.')}",
            "End with `.to(x.dtype)`, so that the layer gives back the kind of number that it was given.",
        )
    exact = F.rms_norm(half.double(), (16,), g.double(), EPS)
    error = ((low.double() - exact) / exact).abs()
    once = ((exact.to(torch.bfloat16).double() - exact) / exact).abs()
    twice = (F.rms_norm(half.double(), (16,), None, EPS).to(torch.bfloat16) * g.to(torch.bfloat16)).double()
    allowed = max(once.mean(), ((twice - exact) / exact).abs().mean())
    if error.mean() > 1.05 * allowed:
        raise NotYet(
            "in bfloat16 the errors are larger than rounding the result needs",
            "Start with `x.float()`, work in fp32 and round at the end.",
        )
    large = (x * 400).half()  # numbers above 256, whose squares float16 cannot hold
    if not _close(fn(large, g, EPS), F.rms_norm(large.double(), (16,), g.double(), EPS), 1e-2):
        raise NotYet("in float16 a square overflows: 256² is more than 65,504", "Start with `x.float()`.")
    return "root mean square over the features, eps inside the root, fp32 inside, and the dtype kept."


def _rms_norm_mistake(y: Tensor, x: Tensor, g: Tensor, eps: float) -> tuple[str, str]:
    mean, square = x.pow(2).mean(-1, keepdim=True), x.pow(2)
    centred = x - x.mean(-1, keepdim=True)
    scale = (mean + eps).rsqrt()
    guesses = [
        (x * scale, "weight is not used", "Multiply by it at the end, feature by feature."),
        (x * scale * (1 + g), "1 + weight is used", "That is Gemma's habit. Llama multiplies by weight itself."),
        (x * scale + g, "weight is added", "It is a gain: multiply by it."),
        (
            F.layer_norm(x, (16,), g, None, eps),
            "the mean is subtracted: this is LayerNorm",
            "RMSNorm leaves the mean where it is. Use the mean of x squared, and x itself above the line.",
        ),
        (centred * scale * g, "the mean is subtracted above the line", "RMSNorm leaves the mean where it is."),
        (
            x / (centred.pow(2).mean(-1, keepdim=True) + eps).sqrt() * g,
            "x is divided by its standard deviation",
            "Use the mean of x squared: the variance leaves out what the mean contributes.",
        ),
        (
            x / (mean.sqrt() + eps) * g,
            "eps is added outside the root",
            "Add it to the mean square, then take the root.",
        ),
        (x / mean.sqrt() * g, "eps is missing", "Add it to the mean square, before the root."),
        (x / mean.sqrt(), "eps and weight are missing", "Add eps before the root, and multiply by weight at the end."),
        (x * (mean + eps).sqrt() * g, "x is multiplied by the root", "Divide by it, or multiply by `rsqrt`."),
        (x / (mean + eps) * g, "the root is missing", "Divide by the root of the mean square."),
        (
            x / (square.sum(-1, keepdim=True) + eps).sqrt() * g,
            "the squares are summed, not averaged",
            "Use their mean; else a wider model gets smaller numbers.",
        ),
        (
            x / square.sum(-1, keepdim=True).sqrt() * g,
            "the squares are summed, not averaged, and eps is missing",
            "x.norm() is the root of the sum. Use the mean of the squares, and add eps before the root.",
        ),
        (
            x / (square.mean(1, keepdim=True) + eps).sqrt() * g,
            "the mean runs over the tokens (axis 1)",
            "It must run over the features, the last axis (dim=-1): a token must not see the others.",
        ),
        (
            x / (square.mean((1, 2), keepdim=True) + eps).sqrt() * g,
            "the mean runs over tokens and features together",
            "Use dim=-1 alone: each token has its own root mean square.",
        ),
        (x / (square.mean() + eps).sqrt() * g, "the mean runs over the whole tensor", "Use dim=-1, keepdim=True."),
    ]
    for wrong, because, hint in guesses:
        if _close(y, wrong):
            return because, hint
    return "the numbers differ from x / sqrt(mean(x²) + eps) · weight", "Print both for a single token and compare."


@exercise
def check_eps(answer: object) -> str:
    """answer: the RMS at which eps = 1e-5 makes the output 1 % shorter."""
    rms = float(answer)
    if rms == 1:
        raise _stub()
    if not (isfinite(rms) and rms > 0):
        raise NotYet(f"the answer is {answer!r}", "Give the root mean square as a number above 0.")
    right = 0.99 * sqrt(EPS / (1 - 0.99**2))  # 0.02220
    mistakes = {
        right**2: ("this is the mean square", "The question asks for its root."),
        sqrt(EPS / 0.01): (
            "here eps is 1 % of the mean square",
            "The root halves a small change: 1 % more under the root shortens the output by about half a percent.",
        ),
        99 * EPS: ("this is the answer for an eps outside the root", "Solve r / sqrt(r² + eps) = 0.99 for r."),
        sqrt(EPS): ("there the output is shorter by 29 %", "Solve r / sqrt(r² + eps) = 0.99 for r."),
    }
    if abs(rms / right - 1) > 0.02:
        for wrong, reason in mistakes.items():
            if abs(rms / wrong - 1) < 0.02:
                raise NotYet(*reason)
        kept = rms / sqrt(rms**2 + EPS)
        raise NotYet(f"at that RMS the output keeps {kept:.2%} of its length", "Solve r / sqrt(r² + eps) = 0.99 for r.")
    return "below an RMS of about 0.022, eps takes more than 1 %."


@exercise
def check_fold(fn: Callable[[Tensor, Tensor], Tensor]) -> str:
    """fn(matrix[out, in], gain[in]) -> [out, in]: what F.linear(x * gain, matrix) does, F.linear(x, result) must do."""
    generator = _seeded()
    matrix, gain = torch.randn(6, 6, generator=generator), torch.rand(6, generator=generator) + 0.5
    before = matrix.clone()
    folded = tensor_of(fn(matrix, gain), matrix.shape)
    if not torch.equal(matrix, before):
        raise NotYet("your function changes the matrix it is given", "Return a new one: `matrix * ...`.")
    if not _close(folded, matrix * gain):
        if _close(folded, matrix * gain[:, None]):
            raise NotYet(
                "row i is multiplied by gain i, which scales the outputs",
                "The gain belongs to the inputs, and column j of the matrix is what input j meets.",
            )
        if _close(folded, matrix / gain):
            raise NotYet("the columns are divided by the gain", "The layer must do the gain's work: multiply.")
        if _close(folded, matrix):
            raise _stub()
        raise NotYet(
            "linear(x, folded) is not linear(x * gain, matrix)", "Write out output i as a sum over the inputs j."
        )
    wide = torch.randn(3, 6, generator=generator)
    if not _close(tensor_of(fn(wide, gain), wide.shape), wide * gain):
        raise NotYet("a matrix of 3 rows and 6 columns comes out wrong", "Let `matrix * gain` broadcast over the rows.")
    return "column j carries gain j, and the norm needs no weight any more."


@exercise
def check_centre(fn: Callable[[Tensor], Tensor]) -> str:
    """fn(matrix[dim, in]) -> [dim, in], which writes what matrix writes, less its mean over the dim features."""
    matrix = torch.randn(8, 5, generator=_seeded()) + 0.3
    centred = tensor_of(fn(matrix.clone()), matrix.shape)
    if not _close(centred, matrix - matrix.mean(0)):
        if _close(centred, matrix - matrix.mean(1, keepdim=True)):
            raise NotYet(
                "the mean of each row is removed, the mean over the inputs",
                "The mean that LayerNorm removes runs over the outputs: over the rows, for each column.",
            )
        if _close(centred, matrix - matrix.mean()):
            raise NotYet("one number is removed everywhere", "Each column has a mean of its own.")
        if _close(centred, matrix):
            raise _stub()
        raise NotYet("the outputs' mean is not removed", "Write mean(W h) as one row vector times h.")
    return "all that this matrix writes has mean 0, and there LayerNorm and RMSNorm are one."


@exercise
def check_backward(fn: Callable[[Tensor, Tensor, Tensor, float], Tensor]) -> str:
    """fn(grad_y[..., dim], x[..., dim], weight[dim], eps) -> grad_x[..., dim]."""
    generator = _seeded()
    x = torch.randn(3, 4, 8, generator=generator, dtype=torch.float64)
    up = torch.randn(3, 4, 8, generator=generator, dtype=torch.float64)
    g = torch.rand(8, generator=generator, dtype=torch.float64) + 0.5
    eps = 0.1
    got = tensor_of(fn(up.clone(), x.clone(), g.clone(), eps), x.shape)

    inverse = (x.pow(2).mean(-1, keepdim=True) + eps).rsqrt()
    n, unit, u = x.shape[-1], x * inverse, up * g
    along = (u * unit).sum(-1, keepdim=True)
    bare = x.pow(2).mean(-1, keepdim=True).rsqrt()
    guesses = [
        (
            u * inverse,
            "the root mean square is treated as a constant",
            "It depends on x too: a second term is missing.",
        ),
        (
            inverse * (up - unit * (up * unit).sum(-1, keepdim=True) / n),
            "the gain is missing",
            "Multiply grad_y by weight first: that is the gradient that reaches x̂.",
        ),
        (
            g * inverse * (up - unit * (up * unit).sum(-1, keepdim=True) / n),
            "the gain is applied last",
            "Backward runs in the opposite order: first the gain, then the projection.",
        ),
        (inverse * (u - unit * along), "the factor 1/n of the second term is missing", "x̂ · x̂ is n, not 1."),
        (inverse * (u + unit * along / n), "the second term has the wrong sign", "What points along x̂ is taken away."),
        (u - unit * along / n, "the division by the root mean square is missing", "Both terms carry 1/r."),
        (
            inverse * (u - u.mean(-1, keepdim=True) - unit * along / n),
            "this is the backward pass of LayerNorm",
            "Nothing subtracted the mean on the way forward.",
        ),
        (bare * (u - x * bare * (u * x * bare).mean(-1, keepdim=True)), "eps is left out", "Add it under the root."),
        (
            inverse * (u - x * (u * x).sum(-1, keepdim=True) / x.pow(2).sum(-1, keepdim=True)),
            "all that points along x is taken away, which is right only for eps = 0",
            "With eps, x̂ · x̂ is a little less than n: divide by n.",
        ),
        (inverse * (u - x * (u * x).mean(-1, keepdim=True)), "x stands in the place of x̂", "x̂ is x divided by r."),
        (
            inverse * (u - unit * (u * unit).mean()),
            "the mean runs over the whole tensor",
            "Each token has its own: use dim=-1, keepdim=True.",
        ),
    ]
    if not _close(got, inverse * (u - unit * along / n), 1e-6):
        if torch.equal(got, up):
            raise _stub()
        for wrong, because, hint in guesses:
            if _close(got, wrong, 1e-6):
                raise NotYet(because, hint)
        raise NotYet(
            "autograd finds another gradient", "Start from the Jacobian and multiply it from the left by grad_y."
        )
    return "autograd finds the same gradient. Beside x it takes one number per token from the way forward, 1/r."
