"""Every usual mistake in the RoPE exercises is met with its own explanation; every right answer is praised."""

import math

import pytest
import torch

from llama_from_scratch import exercises
from llama_from_scratch.exercises.rope_rotations import ROPES, turn
from llama_from_scratch.rope import adjacent_to_halves, halves_to_adjacent, rope_frequencies, rotate_adjacent


def freqs(d, base, exponent=2.0):
    return base ** (-exponent * torch.arange(d // 2) / d)


def rotate_with(**mistake):
    return lambda x, positions, base: turn(x, positions, base, **mistake)


def package(x, positions, base):
    angles = positions[:, None] * rope_frequencies(x.shape[-1], base)
    return rotate_adjacent(x[None, None], angles.cos(), angles.sin())[0, 0]


def not_interleaved(x, positions, base):
    y = package(x, positions, base)
    return torch.cat((y[:, 0::2], y[:, 1::2]), dim=-1)


def one_sign(x, positions, base):
    y = package(x, positions, base)
    y[:, 1::2] = package(x, -positions, base)[:, 1::2]
    return y


def rule(first, second):
    """A rotation with its two formulas replaced; each gets a, b, cos and sin."""

    def rotation(x, positions, base):
        angles = positions[:, None] * rope_frequencies(x.shape[-1], base)
        parts = x[:, 0::2], x[:, 1::2], angles.cos(), angles.sin()
        return torch.stack((first(*parts), second(*parts)), dim=-1).flatten(-2)

    return rotation


def in_place(x, positions, base):
    angles = positions[:, None] * rope_frequencies(x.shape[-1], base)
    a, b = x[:, 0::2], x[:, 1::2]
    x[:, 0::2] = a * angles.cos() - b * angles.sin()
    x[:, 1::2] = a * angles.sin() + b * angles.cos()
    return x


def asserts(rope):
    assert complex_test(rope)
    return True


def first_numbers_only(q, distance, f):
    k = package_turn(q, distance, f)
    k[40:] = 0
    return k


def turned_by(distance):
    return lambda q, d, f: package_turn(q, distance(d), f)


def package_turn(q, position, f):
    return rotate_adjacent(q[None, None, None], (position * f).cos()[None], (position * f).sin()[None])[0, 0, 0]


def complex_test(rope, starts=(0, 1000), length=64):
    x, verdict = torch.randn(length, 32), True
    for start in starts:
        at = torch.arange(start, start + length)
        verdict = verdict and torch.allclose(rope(x, at), package(x, at, 10_000.0), atol=1e-4)
    return verdict


def step_30_60():
    c, s = math.cos(math.pi / 6), math.sin(math.pi / 6)
    return (3 * c - s, 3 * s + c, 5 * s - 2 * c, 5 * c + 2 * s)


CASES = [
    # check, answer, words that the verdict must hold
    ("check_turn_by_hand", (None,) * 4, "still missing"),
    ("check_turn_by_hand", ..., "still missing"),
    ("check_turn_by_hand", (1, -3, -5, -2), "clockwise"),
    ("check_turn_by_hand", (1, 3, -5, -2), "a minus is missing"),
    ("check_turn_by_hand", (-5, -1, 3, -2), "paired 3 with 5"),
    ("check_turn_by_hand", (-1, 3, -2, 5), "both pairs are turned by a quarter"),
    ("check_turn_by_hand", (3, 1, 5, 2), "nothing is turned"),
    ("check_turn_by_hand", step_30_60(), "one token's angle"),
    ("check_turn_by_hand", (-1, 3, -5, 2), "second pair is not right"),
    ("check_turn_by_hand", (-1, 4, -5, -2), "first pair is not right"),
    ("check_turn_by_hand", (-1, 3, -5), "shape [3]"),
    ("check_turn_by_hand", [-1, 3, -5, -2], "Correct"),
    ("check_frequencies", lambda d, base: ..., "returns None"),
    ("check_frequencies", lambda d, base: freqs(d, base, 1.0), "half of what it should be"),
    ("check_frequencies", lambda d, base: freqs(d, base, 4.0), "twice what it should be"),
    ("check_frequencies", lambda d, base: freqs(d, base, -2.0), "grow with i"),
    ("check_frequencies", lambda d, base: freqs(d, 10_000.0), "base is 10000"),
    ("check_frequencies", lambda d, base: base ** (-2 * torch.arange(1, d // 2 + 1) / d), "i starts at 1"),
    ("check_frequencies", lambda d, base: 2.0 ** torch.arange(d // 2), "powers of two"),
    ("check_frequencies", lambda d, base: torch.linspace(0, math.pi, d // 2), "evenly spaced"),
    ("check_frequencies", lambda d, base: freqs(d, base).flip(0), "order is reversed"),
    ("check_frequencies", lambda d, base: 2 * math.pi / freqs(d, base), "wavelengths"),
    ("check_frequencies", lambda d, base: freqs(d, base).repeat_interleave(2), "64 frequencies for 64 numbers"),
    ("check_frequencies", lambda d, base: freqs(d, base).bfloat16(), "rounded too much"),
    ("check_frequencies", freqs, "Correct"),
    ("check_rotate", rotate_with(sign=-1.0), "wrong way round"),
    ("check_rotate", rotate_with(pairs="halves"), "x_i is paired with"),
    ("check_rotate", not_interleaved, "their order is not"),
    ("check_rotate", rotate_with(unit=math.pi / 180), "read as degrees"),
    ("check_rotate", rotate_with(unit=180 / math.pi), "turned into degrees"),
    ("check_rotate", rotate_with(exponent=1.0), "half of what it should be"),
    ("check_rotate", rotate_with(exponent=4.0), "twice what it should be"),
    ("check_rotate", lambda x, p, base: package(x, p + 1, base), "one position too far"),
    ("check_rotate", lambda x, p, base: package(x, torch.arange(len(p)), base), "row number"),
    ("check_rotate", lambda x, p, base: package(x, p, 100_000.0), "base is 100000"),
    ("check_rotate", lambda x, p, base: x, "nothing is turned"),
    ("check_rotate", one_sign, "second sin term"),
    ("check_rotate", rule(lambda a, b, c, s: a * c + b * s, lambda a, b, c, s: a * s + b * c), "first sin term"),
    ("check_rotate", rule(lambda a, b, c, s: a * s - b * c, lambda a, b, c, s: a * c + b * s), "are exchanged"),
    ("check_rotate", rule(lambda a, b, c, s: 2 * a, lambda a, b, c, s: b), "change their length"),
    ("check_rotate", in_place, "from the new first one"),
    ("check_rotate", lambda x, p, base: package(x, 2 * p, base), "row at position"),
    ("check_rotate", lambda x, p, base: x[:, :4] @ x, "RuntimeError"),
    ("check_rotate", package, "Correct"),
    ("check_key_that_peaks", lambda q, d, f: q, "largest at distance 0"),
    ("check_key_that_peaks", lambda q, d, f: 0 * q, "key is zero"),
    ("check_key_that_peaks", turned_by(lambda d: -d), "ahead of the query"),
    ("check_key_that_peaks", turned_by(lambda d: -d), "1 token ahead"),
    ("check_key_that_peaks", turned_by(lambda d: d + 3), "largest at 4"),
    ("check_key_that_peaks", first_numbers_only, "another key of the same length scores higher"),
    ("check_key_that_peaks", lambda q, d, f: turn(q[None], torch.tensor([d]), pairs="halves")[0], "half-split"),
    ("check_key_that_peaks", lambda q, d, f: 100 * package_turn(q, d, f), "Correct"),
    ("check_key_that_peaks", turned_by(lambda d: d), "Correct"),
    ("check_to_halves", lambda w, n: w, "where they were"),
    ("check_to_halves", halves_to_adjacent, "way back"),
    ("check_to_halves", lambda w, n: adjacent_to_halves(w, 1), "as if they were one"),
    ("check_to_halves", lambda w, n: halves_to_adjacent(w, 1), "backwards"),
    ("check_to_halves", lambda w, n: adjacent_to_halves(w.T.contiguous(), n).T, "columns are reordered"),
    ("check_to_halves", lambda w, n: w.flip(0), "another order"),
    ("check_to_halves", lambda w, n: w + 1, "not the rows that went in"),
    ("check_to_halves", adjacent_to_halves, "Correct"),
    ("check_rope_test", lambda rope: ..., "returns None"),
    ("check_rope_test", lambda rope: False, "rejects a correct"),
    ("check_rope_test", lambda rope: True, f"{len(ROPES)} of {len(ROPES)} broken"),
    ("check_rope_test", lambda rope: complex_test(rope, starts=(0,), length=1), "broken versions pass"),
    ("check_rope_test", lambda rope: complex_test(rope, starts=(0,)), "counts positions from 0 again"),
    ("check_rope_test", asserts, "Return False instead"),
    ("check_rope_test", complex_test, "Correct"),
]


@pytest.mark.parametrize(("check", "answer", "words"), CASES, ids=[f"{c}-{w}" for c, _, w in CASES])
def test_verdict(check, answer, words, capsys):
    assert getattr(exercises, check)(answer) is None
    said = " ".join(capsys.readouterr().out.split())
    assert words in said
    assert said.startswith("Correct: " if words == "Correct" else "Not yet: ")


@pytest.mark.parametrize("positions", [torch.arange(64), torch.arange(500, 564)])
def test_the_checks_own_rotation_is_the_packages(positions):
    x = torch.randn(64, 32)
    # Angles of up to 564 radians in fp32 are off by up to 3e-5, and so are their sines.
    torch.testing.assert_close(turn(x, positions), package(x, positions, 10_000.0), atol=2e-4, rtol=0)


@pytest.mark.parametrize("name", ROPES)
def test_each_broken_version_is_broken(name):
    x, positions = torch.randn(64, 32), torch.arange(1000, 1064)
    assert (ROPES[name](x, positions) - turn(x, positions)).abs().max() > 0.1
