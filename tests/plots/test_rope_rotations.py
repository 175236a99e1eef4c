"""The RoPE chapter's figures show the numbers they are given."""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pytest
import torch

from llama_from_scratch.plots import rope_rotations as draw


@pytest.fixture(autouse=True)
def figure(monkeypatch):
    monkeypatch.setattr(plt, "show", lambda: None)
    yield plt.gcf
    plt.close("all")


def lines(axes) -> list[list[float]]:
    return [
        line.get_ydata().tolist() if hasattr(line.get_ydata(), "tolist") else list(line.get_ydata())
        for line in axes.lines
    ]


def words(figure) -> str:
    return " ".join(text.get_text() for axes in figure.axes for text in (*axes.texts, axes.title, axes.xaxis.label))


def test_clock_faces_show_a_score_for_each_distance(figure):
    q, k = torch.tensor([1.0, 0.2]), torch.tensor([0.9, 0.6])
    draw.draw_clock_faces(q, k, [(2, 0), (5, 3), (9, 7), (9, 5)], 0.45)
    want = []
    for distance in (2, 2, 2, 4):
        angle = torch.tensor(distance * 0.45)
        turned = torch.stack((q[0] * angle.cos() - q[1] * angle.sin(), q[1] * angle.cos() + q[0] * angle.sin()))
        want.append(f"distance {distance}: score {turned @ k:.2f}")
    assert [axes.get_xlabel() for axes in figure().axes] == want


def test_waves_mark_the_chosen_distance(figure):
    x = torch.arange(0, 10.0)
    draw.draw_waves(x, {"a": x.cos(), "b": x.sin()}, 7)
    for axes, want in zip(figure().axes, (x.cos(), x.sin()), strict=True):
        assert lines(axes)[0] == want.tolist() and lines(axes)[1] == [want[7]]


def test_likeness_marks_twins_only(figure):
    draw.draw_likeness({"a": torch.tensor([1.0, 0.5, 0.9999, 0.2]), "b": torch.tensor([1.0, 0.0, 0.0, 0.0])}, 0.999)
    a, b = figure().axes
    assert a.lines[1].get_xdata().tolist() == [2] and b.lines[1].get_xdata().tolist() == []


def test_angle_map_has_a_row_for_each_pair(figure):
    cosines = torch.rand(20, 5)
    draw.draw_angle_map(cosines)
    assert torch.equal(torch.tensor(figure().axes[0].images[0].get_array()), cosines.T)


def test_wavelengths_counts_pairs_that_turn(figure):
    draw.draw_wavelengths({"a": (torch.tensor([1.0, 0.1, 0.001]), 100), "b": (torch.tensor([1.0, 0.5]), 5)})
    assert "a\n2 of 3 turn" in words(figure()) and "b\n0 of 2 turn" in words(figure())


def test_decay_draws_mean_and_one_draw(figure):
    x, draws = torch.arange(60), torch.randn(10, 60)
    draw.draw_decay(x, torch.arange(60.0), draws, torch.zeros(60), 3)
    top, middle, bottom = figure().axes
    assert lines(top)[0] == list(range(60)) and lines(top)[1] == pytest.approx(range(20, 40))
    assert lines(middle)[0] == draws[0].tolist()
    torch.testing.assert_close(torch.tensor(lines(middle)[1]), draws.mean(0))
    assert list(bottom.lines[1].get_xdata()) == [3, 3]


def test_pair_strength_puts_lines_between_the_groups(figure):
    bound, spread = torch.rand(4, 6) + 0.1, torch.rand(4, 6) + 0.1
    draw.draw_pair_strength(bound, spread, {"fast": 0, "slow": 3})
    top, middle, heat = figure().axes[:3]
    for axes, strength in ((top, bound), (middle, spread)):
        assert [bar.get_height() for bar in axes.patches] == pytest.approx(strength.mean(0).tolist())
    torch.testing.assert_close(torch.tensor(heat.images[0].get_array().data), spread)
    assert [list(line.get_xdata()) for line in heat.lines] == [[2.5, 2.5]]


def test_previous_token_head_draws_the_named_lines(figure):
    weights, hands = torch.rand(6, 6), {name: torch.rand(3) for name in ("hand 0", "hand 1")}
    sums = {name: torch.rand(40) for name in ("fast", "slow", "all")}
    draw.draw_previous_token_head(weights, hands, sums, list("abcd"))
    image, near, far = figure().axes
    assert image.images[0].get_array().shape == (4, 4)
    assert lines(near)[:2] == [line.tolist() for line in hands.values()]
    assert lines(far)[:3] == [line.tolist() for line in sums.values()]
    assert all(name in words(figure()) for name in (*hands, *sums))


def test_digits_are_those_of_binary_numbers_and_hands_that_halve():
    bits, cosines = draw.digits(16)
    assert ["".join(map(str, column[::-1])) for column in bits.T] == [f"{n:04b}" for n in range(16)]
    assert cosines.shape == (4, 16)
    for place in range(4):  # a hand is where it was after twice the place's value
        whole = 2 ** (place + 1)
        assert abs(cosines[place, 1 + whole :] - cosines[place, 1:-whole]).max(initial=0) < 1e-9


def test_bug_table_says_caught_where_it_is(figure):
    caught = torch.tensor([[True, False], [False, True], [False, False]])
    draw.draw_bug_table(caught, list("abc"), list("xy"))
    assert [text.get_text() for text in figure().axes[0].texts] == ["caught", "—", "—", "caught", "—", "—"]
