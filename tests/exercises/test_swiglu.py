"""The checks of the chapter on SwiGLU say what is right, and name each classic mistake."""

import math

import pytest
import torch.nn.functional as F

from llama_from_scratch import exercises


def layer(f, x, g, u, d):
    return f(x @ g.T, x @ u.T) @ d.T


def right(x, g, u, d):
    return layer(lambda a, b: F.silu(a) * b, x, g, u, d)


def width(dim, m, f):
    return m * math.ceil(int(f * int(8 * dim / 3)) / m)


def neurons(x, g, u, d):
    return (F.silu(g @ x) * (u @ x))[:, None] * d.T


def flip(g, u, d, i):
    u[i], d[:, i] = -u[i], -d[:, i]
    return g, u, d


def flip_row(g, u, d, i):
    u[i], d[i] = -u[i], -d[i]
    return g, u, d


def flip_up(g, u, d, i):
    u[i] = -u[i]
    return g, u, d


def flip_gate(g, u, d, i):
    u[i], g[i] = -u[i], -g[i]
    return g, u, d


CASES = {
    "silu: right": ("check_silu", lambda x: x * x.sigmoid(), "Correct"),
    "silu: overflow": ("check_silu", lambda x: x * x.exp() / (1 + x.exp()), "overflows"),
    "silu: sigmoid": ("check_silu", lambda x: x.sigmoid(), "the factor alone"),
    "silu: relu": ("check_silu", lambda x: x.relu(), "ReLU"),
    "silu: gelu": ("check_silu", lambda x: F.gelu(x), "GELU"),
    "silu: sign": ("check_silu", lambda x: x / (1 + x.exp()), "sign in the exponent"),
    "silu: tanh": ("check_silu", lambda x: x.tanh(), "tanh"),
    "silu: same": ("check_silu", lambda x: x, "as they were"),
    "silu: stub": ("check_silu", lambda x: None, "returns None"),
    "layer: right": ("check_swiglu", right, "Correct"),
    "layer: exchanged": ("check_swiglu", lambda *m: layer(lambda a, b: a * F.silu(b), *m), "exchanged"),
    "layer: product": ("check_swiglu", lambda *m: layer(lambda a, b: F.silu(a * b), *m), "of the product"),
    "layer: both": ("check_swiglu", lambda *m: layer(lambda a, b: F.silu(a) * F.silu(b), *m), "of both"),
    "layer: sigmoid": ("check_swiglu", lambda *m: layer(lambda a, b: a.sigmoid() * b, *m), "older GLU"),
    "layer: added": ("check_swiglu", lambda *m: layer(lambda a, b: F.silu(a) + b, *m), "added"),
    "layer: linear": ("check_swiglu", lambda *m: layer(lambda a, b: a * b, *m), "non-linear"),
    "layer: no up": ("check_swiglu", lambda *m: layer(lambda a, b: F.silu(a), *m), "up is missing"),
    "layer: relu": ("check_swiglu", lambda *m: layer(lambda a, b: a.relu() * b, *m), "ReLU stands"),
    "layer: stub": ("check_swiglu", lambda *m: None, "returns None"),
    "width: right": ("check_width", width, "Correct"),
    "width: four": ("check_width", lambda dim, m, f: 4 * dim, "4 · dim"),
    "width: raw": ("check_width", lambda dim, m, f: int(f * int(8 * dim / 3)), "nothing is rounded"),
    "width: down": ("check_width", lambda dim, m, f: m * (int(f * int(8 * dim / 3)) // m), "rounded down"),
    "width: no multiplier": ("check_width", lambda dim, m, f: width(dim, m, 1), "left out"),
    "width: late": ("check_width", lambda dim, m, f: int(f * width(dim, m, 1)), "after the rounding"),
    "width: other": ("check_width", lambda dim, m, f: width(dim, m, f) + 1, "it gives"),
    "width: stub": ("check_width", lambda dim, m, f: None, "returns None"),
    "neuron: right": ("check_neuron", neurons, "Correct"),
    "neuron: columns": ("check_neuron", lambda *m: neurons(*m).T, "stand as columns"),
    "neuron: products": ("check_neuron", lambda x, g, u, d: F.silu(g @ x) * (u @ x), "products alone"),
    "neuron: exchanged": ("check_neuron", lambda x, g, u, d: neurons(x, u, g, d), "exchanged"),
    "neuron: order": ("check_neuron", lambda *m: neurons(*m).flip(0), "the parts are not"),
    "neuron: other": ("check_neuron", lambda *m: 2 * neurons(*m), "do not add up"),
    "neuron: stub": ("check_neuron", lambda *m: None, "returns None"),
    "flip: right": ("check_sign_flip", flip, "Correct"),
    "flip: row": ("check_sign_flip", flip_row, "row 5 of down"),
    "flip: up alone": ("check_sign_flip", flip_up, "something else now"),
    "flip: gate": ("check_sign_flip", flip_gate, "the gate was changed"),
    "flip: nothing": ("check_sign_flip", lambda g, u, d, i: (g, u, d), "kept its sign"),
    "flip: two": ("check_sign_flip", lambda g, u, d, i: (g, u), "three matrices"),
    "flip: stub": ("check_sign_flip", lambda g, u, d, i: None, "returns None"),
}


@pytest.mark.parametrize("case", CASES)
def test_check_says_what_is_wrong(case, capsys):
    check, answer, verdict = CASES[case]
    getattr(exercises, check)(answer)
    assert verdict in " ".join(capsys.readouterr().out.split())
