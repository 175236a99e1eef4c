"""Checks for the chapter *RoPE: rotations*. Each knows the usual mistakes and names the one it sees."""

import math
from collections.abc import Callable, Iterable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..rope import adjacent_to_halves, halves_to_adjacent, rope_frequencies
from .verdict import NotYet, exercise, tensor_of


def turn(
    x: Float[Tensor, "seq head_dim"],
    positions: Int[Tensor, " seq"],
    base: float = 10_000.0,
    *,
    sign: float = 1.0,
    pairs: str = "adjacent",
    exponent: float = 2.0,
    unit: float = 1.0,
    dtype: torch.dtype = torch.float64,
) -> Float[Tensor, "seq head_dim"]:
    """Rotate adjacent pairs, or make one of the usual mistakes: the keywords away from their defaults are the mistakes.

    sign -1 turns clockwise; pairs "halves" pairs x_i with x_(i + head_dim/2); exponent 1 forgets a factor of two;
    unit π/180 reads the angles as degrees; dtype is the type in which positions and angles are held.
    """
    i = torch.arange(x.shape[-1] // 2)
    freqs = (base ** (-exponent * i.double() / x.shape[-1])).to(dtype)
    angles = (sign * unit * positions.to(dtype)[:, None] * freqs).double()
    cos, sin = angles.cos(), angles.sin()
    a, b = (x[:, 0::2], x[:, 1::2]) if pairs == "adjacent" else x.chunk(2, dim=-1)
    turned = (a * cos - b * sin, b * cos + a * sin)
    result = _pairs(*turned) if pairs == "adjacent" else torch.cat(turned, dim=-1)
    return result.to(x.dtype)


def _pairs(a: Float[Tensor, "seq half"], b: Float[Tensor, "seq half"]) -> Float[Tensor, "seq head_dim"]:
    return torch.stack((a, b), dim=-1).flatten(-2)


def _recognise(result: Tensor, mistakes: Iterable[tuple[Tensor, str, str]], tolerance: float = 1e-3) -> None:
    for wrong, because, hint in mistakes:
        if wrong.shape == result.shape and torch.allclose(
            result.double(), wrong.double(), atol=tolerance, rtol=tolerance
        ):
            raise NotYet(because, hint)


@exercise
def check_turn_by_hand(answer: object) -> str:
    """[3, 1, 5, 2] at position 3, adjacent pairs, frequencies π/6 and π/3: four numbers."""
    if answer is None or answer is ... or any(number is None or number is ... for number in answer):
        raise NotYet("some of the four numbers are still missing", "Put numbers in the place of None.")
    y = tensor_of(torch.as_tensor(answer, dtype=torch.float64), (4,))
    a, b = "Counter-clockwise means (a, b) becomes (-b, a) after a quarter turn.", "Angle = position × frequency."
    known = [
        ([1, -3, -5, -2], "the first pair is turned clockwise", a),
        ([1, 3, -5, -2], "the first pair is swapped, but a minus is missing", a),
        ([-5, -1, 3, -2], "you paired 3 with 5 and 1 with 2", "Adjacent pairs are (3, 1) and (5, 2)."),
        ([-1, 3, -2, 5], "both pairs are turned by a quarter circle", "The second pair's frequency is π/3, not π/6."),
        ([3, 1, 5, 2], "nothing is turned", b),
    ]
    mistakes = [(torch.tensor(wrong, dtype=torch.float64), *why) for wrong, *why in known]
    one_step = [c * math.cos(t) - s * math.sin(t) for c, s, t in [(3, 1, math.pi / 6), (5, 2, math.pi / 3)]]
    if torch.allclose(y[0::2], torch.tensor(one_step, dtype=torch.float64), atol=0.02):
        raise NotYet("the pairs are turned by one token's angle", f"The position is 3. {b}")
    _recognise(y, mistakes, 0.02)
    want = torch.tensor([-1.0, 3.0, -5.0, -2.0], dtype=torch.float64)
    for pair, name in ((slice(0, 2), "first"), (slice(2, 4), "second")):
        if not torch.allclose(y[pair], want[pair], atol=0.02):
            length = (
                "" if math.isclose(y[pair].norm(), want[pair].norm(), rel_tol=0.01) else " A turn keeps the length."
            )
            raise NotYet(f"the {name} pair is not right", f"{b}{length}")
    return "a quarter turn for the first pair, half a turn for the second."


@exercise
def check_frequencies(fn: Callable[[int, float], Tensor]) -> str:
    """fn(head_dim, base) gives the radians per token of each pair, fastest first: [head_dim / 2]."""
    for d, base in ((64, 100_000.0), (128, 500_000.0)):
        result = fn(d, base)
        if isinstance(result, Tensor) and tuple(result.shape) == (d,):
            raise NotYet(
                f"there are {d} frequencies for {d} numbers", "A pair shares one: let i run from 0 to d/2 - 1."
            )
        y = tensor_of(result, (d // 2,))
        i = torch.arange(d // 2).double()
        exact = base ** (-2 * i / d)
        mistakes = [
            (
                base ** (-i / d),
                "the slowest pair turns too fast: the exponent is half of what it should be",
                "It is -2i/d.",
            ),
            (base ** (-4 * i / d), "the exponent is twice what it should be", "It is -2i/d with i = 0, 1, 2, …"),
            (base ** (2 * i / d), "the frequencies grow with i", "The exponent is negative."),
            (10_000 ** (-2 * i / d), "the base is 10000 whatever is asked for", "Use the argument `base`."),
            (base ** (-2 * (i + 1) / d), "i starts at 1, so the fastest pair is missing", "The first frequency is 1."),
            (2.0**i, "these are powers of two, and all of them turn at least a radian per token", "Use base^(-2i/d)."),
            (exact.flip(0), "the order is reversed", "The fastest pair comes first."),
            (2 * math.pi / exact, "these are wavelengths, in tokens per turn", "A frequency is 2π / wavelength."),
        ]
        for lo, hi in ((0.0, math.pi), (0.0, 1.0), (1.0, float(exact[-1])), (float(exact[-1]), 1.0)):
            line = torch.linspace(lo, hi, d // 2).double()
            mistakes.append(
                (line, "the frequencies are evenly spaced", "Each should be a constant factor below the last.")
            )
        if torch.allclose(y.double(), exact, rtol=1e-5, atol=0):
            continue
        _recognise(y, mistakes, 1e-4)
        if y.dtype in (torch.bfloat16, torch.float16) or torch.allclose(y.double(), exact, rtol=0.01):
            raise NotYet("the values are close, but rounded too much", "Compute in float32 or better.")
        raise NotYet(
            f"for head_dim {d} entry 1 is {y[1]:.4g}, not {exact[1]:.4g}", "θ_i = base^(-2i/d), i = 0 … d/2 - 1."
        )
    return "from one radian per token down to almost none, each a constant factor slower."


@exercise
def check_rotate(fn: Callable[[Tensor, Tensor, float], Tensor]) -> str:
    """fn(x [seq, head_dim], positions [seq], base) rotates adjacent pairs; the result has the shape of x."""
    g = torch.Generator().manual_seed(0)
    x, base = torch.randn(64, 16, generator=g), 10_000.0
    for start in (0, 100):  # the second time, a hundred tokens are in the cache already
        positions = torch.arange(start, start + 64)
        y = tensor_of(fn(x.clone(), positions.clone(), base), x.shape)
        right = turn(x, positions, base)
        if torch.allclose(y.double(), right.double(), atol=1e-3):
            continue
        a, b, x_a, x_b = right[:, 0::2], right[:, 1::2], x[:, 0::2], x[:, 1::2]
        angles = positions[:, None] * rope_frequencies(16, base)
        cos, sin = angles.cos(), angles.sin()
        index = torch.arange(64)
        halves = turn(x, positions, base, pairs="halves")
        mistakes = [
            (
                turn(x, positions, base, sign=-1.0),
                "the rotation goes the wrong way round",
                "Swap the signs of the two sin terms.",
            ),
            (halves, "x_i is paired with x_(i + d/2)", "Here the pairs are neighbours: x[..., 0::2] and x[..., 1::2]."),
            (
                _pairs(x_a * sin - x_b * cos, x_a * cos + x_b * sin),
                "at position 0 nothing should turn, and here it does: cos and sin are exchanged",
                "The first number of a pair is a cos - b sin.",
            ),
            (
                _pairs(a, a * sin + x_b * cos),
                "the second number of each pair is computed from the new first one",
                "A slice is a view: compute both from the old a and b, then write.",
            ),
            (
                _pairs(a, x_b * cos - x_a * sin),
                "the second sin term has the wrong sign, so the vectors change their length",
                "(a cos - b sin, a sin + b cos).",
            ),
            (
                _pairs(x_a * cos + x_b * sin, b),
                "the first sin term has the wrong sign, so the vectors change their length",
                "(a cos - b sin, a sin + b cos).",
            ),
            (
                torch.cat((a, b), -1),
                "the numbers are right, their order is not",
                "Interleave them: stack on a last axis, flatten.",
            ),
            (
                turn(x, positions, base, unit=math.pi / 180),
                "the angles are read as degrees",
                "torch.cos wants radians as they are.",
            ),
            (
                turn(x, positions, base, unit=180 / math.pi),
                "the angles were turned into degrees",
                "torch.cos wants radians.",
            ),
            (turn(x, positions, base, exponent=1.0), "the exponent is half of what it should be", "It is -2i/d."),
            (
                turn(x, positions, base, exponent=4.0),
                "the exponent is twice what it should be",
                "It is -2i/d, i = 0, 1, 2, …",
            ),
            (
                turn(x, positions + 1, base),
                "every token is turned one position too far",
                "The first token has position 0.",
            ),
            (
                turn(x, index, base),
                "the row number is used as the position: right for a first pass, wrong once tokens are cached",
                "Use the argument `positions`.",
            ),
            (turn(x, positions, 100_000.0), "the base is 100000 whatever is asked for", "Use the argument `base`."),
            (x, "nothing is turned", "Multiply by cos and sin."),
        ]
        _recognise(y, mistakes)
        if not torch.allclose(y.norm(dim=-1), x.norm(dim=-1), rtol=1e-3):
            raise NotYet("the vectors change their length, so this is no rotation", "(a cos - b sin, a sin + b cos).")
        row = int((y - right).abs().amax(-1).argmax())
        raise NotYet(f"the row at position {int(positions[row])} is wrong", "Turn pair i by position × base^(-2i/d).")
    return "64 tokens, from position 0 and from position 100, agree with the package."


@exercise
def check_key_that_peaks(fn: Callable[[Tensor, int, Tensor], Tensor]) -> str:
    """fn(q [head_dim], distance, freqs [half]) gives a key whose score with q is largest `distance` tokens back."""
    g = torch.Generator().manual_seed(0)
    far, base = 1000, 10_000.0
    for distance in (1, 40, 333):
        q = torch.randn(64, generator=g)
        k = tensor_of(fn(q.clone(), distance, rope_frequencies(64, base)), (64,))
        if float(k.norm()) < 1e-6:
            raise NotYet("the key is zero, so its score is zero everywhere", "Start from q.")
        distances = torch.arange(-far, far + 1)  # negative: the key stands behind the query
        scores = turn(k.expand(len(distances), -1), -distances, base) @ q
        peak = int(distances[scores.argmax()])
        if peak == distance:
            if scores.max() < (1 - 1e-4) * q.norm() * k.norm():
                raise NotYet(
                    "the peak is at the right place, but another key of the same length scores higher",
                    "Turn all of q, and change no lengths.",
                )
            continue
        if torch.allclose(k, turn(q[None], torch.tensor([distance]), base, pairs="halves")[0], atol=1e-3):
            raise NotYet("you turned the pairs of the half-split layout", "Here the pairs are neighbours.")
        if peak == 0:
            raise NotYet(
                "the score is largest at distance 0", "Turn q by just the angle that the distance will take away."
            )
        if peak == -distance:
            tokens = "token" if distance == 1 else "tokens"
            raise NotYet(f"the score is largest {distance} {tokens} ahead of the query", "Turn the other way.")
        raise NotYet(
            f"asked for distance {distance}, the score is largest at {peak}", "Rotate q as if it stood at `distance`."
        )
    return "the score is largest exactly there, and no key of this length scores higher."


@exercise
def check_to_halves(fn: Callable[[Tensor, int], Tensor]) -> str:
    """fn(weight [rows, dim], n_heads) reorders the rows of a q or k weight from adjacent pairs to halves."""
    g = torch.Generator().manual_seed(0)
    for n_heads, head_dim, dim in ((3, 8, 24), (1, 4, 6), (4, 64, 32)):
        w = torch.randn(n_heads * head_dim, dim, generator=g)
        y = tensor_of(fn(w.clone(), n_heads), w.shape)
        if torch.equal(y, adjacent_to_halves(w, n_heads)):
            continue
        whole = "all heads are reordered as if they were one"
        mistakes = [
            (w, "the rows are where they were", "Within a head, rows 0 1 2 3 … become 0 2 4 … 1 3 5 …"),
            (halves_to_adjacent(w, n_heads), "this is the way back, from halves to adjacent", "Even rows go first."),
            (adjacent_to_halves(w, 1), whole, "Split the rows into heads first, and reorder within each."),
            (halves_to_adjacent(w, 1), f"{whole}, and backwards", "Split into heads; even rows go first."),
        ]
        if dim % (2 * n_heads) == 0:
            columns = adjacent_to_halves(w.T.contiguous(), n_heads).T
            mistakes.append(
                (columns, "the columns are reordered", "A row of the weight makes one number of q: move rows.")
            )
        _recognise(y, mistakes, 1e-6)
        if torch.equal(y.sort(0).values, w.sort(0).values):
            raise NotYet("these are the same rows in another order", "Within a head: even rows, then odd rows.")
        raise NotYet("these are not the rows that went in", "Only move rows; change no number.")
    return "each head's even rows, then its odd rows: a model in the other layout now gives the same scores."


def _restart(x: Tensor, positions: Tensor) -> Tensor:
    return turn(x, torch.arange(len(positions)))


def _one_sign(x: Tensor, positions: Tensor) -> Tensor:
    y, back = turn(x, positions), turn(x, positions, sign=-1.0)
    y[:, 1::2] = back[:, 1::2]
    return y


ROPES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "pairs x_i with x_(i + d/2)": lambda x, p: turn(x, p, pairs="halves"),
    "turns the wrong way": lambda x, p: turn(x, p, sign=-1.0),
    "has one sign wrong": _one_sign,
    "uses base 500": lambda x, p: turn(x, p, 500.0),
    "counts positions from 0 again, cache or not": _restart,
    "holds positions and angles in bfloat16": lambda x, p: turn(x, p, dtype=torch.bfloat16),
    "turns nothing": lambda x, p: x.clone(),
}


@exercise
def check_rope_test(fn: Callable[[Callable[[Tensor, Tensor], Tensor]], bool]) -> str:
    """fn(rope): True if rope(x [seq, head_dim], positions [seq]) is right (adjacent pairs, base 10000), else False."""
    try:
        verdict = fn(turn)
        missed = [name for name, rope in ROPES.items() if fn(rope)]
    except AssertionError:
        raise NotYet("your test stops at an `assert`", "Return False instead of asserting.") from None
    if verdict is None or verdict is ...:
        raise NotYet("your test returns None", "Return True or False.")
    if not verdict:
        raise NotYet("your test rejects a correct implementation", "Leave room for rounding, about 1e-4 in float32.")
    if missed:
        hint = "Compare at many positions, some far from 0, and also with a piece that starts in the middle."
        raise NotYet(
            f"{len(missed)} of {len(ROPES)} broken versions pass your test; for one, the version that {missed[0]}", hint
        )
    return f"all {len(ROPES)} broken versions fail your test, and the right one passes."
