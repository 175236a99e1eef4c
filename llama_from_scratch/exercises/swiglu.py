"""Checks of the chapter on SwiGLU. Each names the classic mistake that an answer shows."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .verdict import NotYet, exercise, tensor_of


def _random(*shape: int, seed: int = 3) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, atol=1e-5)


@exercise
def check_silu(fn: Callable[[Tensor], Tensor]) -> str:
    """fn(x) -> SiLU of each number, without torch's own."""
    x = _random(50) * 3
    found = tensor_of(fn(x.clone()), x.shape)
    mistakes = {
        "this is the sigmoid, the factor alone": x.sigmoid(),
        "this is ReLU": x.relu(),
        "this is GELU, which has the normal distribution where SiLU has the sigmoid": F.gelu(x),
        "the sign in the exponent is wrong": x * (-x).sigmoid(),
        "this is tanh": x.tanh(),
        "the numbers come back as they were": x,
    }
    for because, wrong in mistakes.items():
        if _close(found, wrong):
            raise NotYet(because, "x times the sigmoid of x: x / (1 + e^(−x)).")
    if not _close(found, F.silu(x)):
        raise NotYet("these are other numbers", "x / (1 + e^(−x)).")
    large = fn(torch.tensor([-200.0, 200.0]))
    if not torch.isfinite(large).all():
        raise NotYet(f"±200 gives {large.tolist()}", "e^200 overflows in fp32; torch.sigmoid does not.")
    return "0 at 0, half as steep there as far out, a little below zero on the left."


@exercise
def check_swiglu(fn: Callable[..., Tensor]) -> str:
    """fn(x[seq, dim], gate[ffn, dim], up[ffn, dim], down[dim, ffn]) -> [seq, dim]."""
    x, gate, up, down = _random(7, 8), _random(20, 8, seed=1), _random(20, 8, seed=2), _random(8, 20, seed=4)
    a, b = x @ gate.T, x @ up.T
    found = tensor_of(fn(x.clone(), gate, up, down), x.shape)
    mistakes = {
        "gate and up are exchanged": (a * F.silu(b)) @ down.T,
        "SiLU is taken of the product": F.silu(a * b) @ down.T,
        "SiLU is taken of both": (F.silu(a) * F.silu(b)) @ down.T,
        "the factor is the sigmoid: that is the older GLU": (a.sigmoid() * b) @ down.T,
        "the two are added": (F.silu(a) + b) @ down.T,
        "nothing is non-linear": (a * b) @ down.T,
        "up is missing": F.silu(a) @ down.T,
        "ReLU stands where SiLU is meant": (a.relu() * b) @ down.T,
    }
    for because, wrong in mistakes.items():
        if _close(found, wrong):
            raise NotYet(because, "down · (SiLU(gate · x) ⊙ (up · x)).")
    if not _close(found, (F.silu(a) * b) @ down.T):
        raise NotYet("the result is another", "nn.Linear computes x @ W.T.")
    return "SiLU on the gate alone, a product with up, and down."


@exercise
def check_width(fn: Callable[[int, int, float], int]) -> str:
    """fn(dim, multiple_of, multiplier) -> the width by Meta's rule."""

    def rule(dim: int, multiple: int, multiplier: float = 1.0) -> int:
        return multiple * math.ceil(int(multiplier * int(2 * 4 * dim / 3)) / multiple)

    cases = [(4096, 256, 1.0), (4096, 1024, 1.3), (8192, 4096, 1.3), (2048, 256, 1.5), (576, 256, 1.0)]
    found = [fn(*case) for case in cases]
    if found[0] is None or found[0] is ...:
        raise NotYet("the function returns None", "Write its body and end it with `return`.")
    mistakes = {
        "this is 4 · dim": [4 * dim for dim, *_ in cases],
        "nothing is rounded up": [int(f * int(8 * dim / 3)) for dim, _, f in cases],
        "it is rounded down": [m * (int(f * int(8 * dim / 3)) // m) for dim, m, f in cases],
        "the multiplier is left out": [rule(dim, m) for dim, m, _ in cases],
        "the multiplier comes after the rounding": [int(f * rule(dim, m)) for dim, m, f in cases],
    }
    for because, wrong in mistakes.items():
        if found == wrong:
            raise NotYet(because, "Two thirds of 4 · dim, times the multiplier, up to the next multiple.")
    for case, number in zip(cases, found, strict=True):
        if number != rule(*case):
            raise NotYet(f"for dim {case[0]}, multiple {case[1]}, multiplier {case[2]} it gives {number}")
    return "11,008 for Llama 2 7B, 14,336 for Llama 3 8B, 28,672 for the 70B."


@exercise
def check_neuron(fn: Callable[..., Tensor]) -> str:
    """fn(x[dim], gate[ffn, dim], up[ffn, dim], down[dim, ffn]) -> [ffn, dim], what each neuron adds to the output."""
    x, gate, up, down = _random(8), _random(20, 8, seed=1), _random(20, 8, seed=2), _random(8, 20, seed=4)
    a, b = gate @ x, up @ x
    right = (F.silu(a) * b)[:, None] * down.T
    found = fn(x.clone(), gate, up, down)
    if isinstance(found, Tensor) and found.shape == (8, 20):
        raise NotYet("the neurons stand as columns", "A row for each neuron: transpose.")
    if isinstance(found, Tensor) and found.shape == (20,):
        raise NotYet("these are the products alone", "Each is multiplied by its neuron's column of down.")
    found = tensor_of(found, (20, 8))
    if _close(found, (F.silu(b) * a)[:, None] * down.T):
        raise NotYet("gate and up are exchanged", "SiLU belongs to the gate.")
    if not _close(found.sum(0), right.sum(0)):
        raise NotYet("the rows do not add up to the layer's output", "product · column of down, for each neuron.")
    if not _close(found, right):
        raise NotYet("the sum is right and the parts are not", "Neuron i writes along column i of down.")
    return "each neuron writes along its own column, and the columns add up."


@exercise
def check_sign_flip(fn: Callable[..., tuple]) -> str:
    """fn(gate, up, down, i) -> three matrices of the same layer, in which neuron i's up row has the other sign."""
    gate, up, down = _random(20, 8, seed=1), _random(20, 8, seed=2), _random(8, 20, seed=4)
    found = fn(gate.clone(), up.clone(), down.clone(), 5)
    if found is None or found is ...:
        raise NotYet("the function returns None", "Write its body and end it with `return`.")
    if not isinstance(found, tuple | list) or len(found) != 3:
        raise NotYet("three matrices are wanted: gate, up, down")
    new = [tensor_of(each, old.shape) for each, old in zip(found, (gate, up, down), strict=True)]
    if not _close(new[1][5], -up[5]):
        raise NotYet("row 5 of up has kept its sign" if _close(new[1][5], up[5]) else "row 5 of up is something else")
    if not _close(new[0], gate):
        raise NotYet("the gate was changed", "SiLU(−a) is not −SiLU(a): the gate must stay.")
    x = _random(6, 8)

    def layer(g: Tensor, u: Tensor, d: Tensor) -> Tensor:
        return (F.silu(x @ g.T) * (x @ u.T)) @ d.T

    if not _close(layer(*new), layer(gate, up, down)):
        wrong = "row 5 of down was changed" if _close(new[2][5], -down[5]) else "the layer computes something else now"
        raise NotYet(wrong, "What neuron 5 writes is column 5 of down.")
    return "two minus signs cancel, so the sign of a neuron means nothing by itself."
