"""The RoPE chapter's figures show the numbers they are given."""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pytest
import torch

from llama_from_scratch.plots import rope as draw


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


def test_clock_faces_show_one_score_for_one_distance(figure):
    q, k = torch.tensor([1.0, 0.2]), torch.tensor([0.9, 0.6])
    draw.draw_clock_faces(q, k, [(2, 0), (9, 7)], 0.45)
    scores = {axes.get_xlabel() for axes in figure().axes}
    angle = torch.tensor(2 * 0.45)
    turned = torch.stack((q[0] * angle.cos() - q[1] * angle.sin(), q[1] * angle.cos() + q[0] * angle.sin()))
    assert scores == {f"score {turned @ k:.2f}"}


def test_waves_mark_the_chosen_distance(figure):
    x = torch.arange(0, 10.0)
    draw.draw_waves(x, {"a": x.cos(), "b": x.sin()}, 7)
    for axes, want in zip(figure().axes, (x.cos(), x.sin()), strict=True):
        assert lines(axes)[0] == want.tolist() and lines(axes)[1] == [want[7]]


def test_likeness_marks_twins_only(figure):
    draw.draw_likeness({"a": torch.tensor([1.0, 0.5, 0.9999, 0.2]), "b": torch.tensor([1.0, 0.0, 0.0, 0.0])})
    a, b = figure().axes
    assert a.lines[1].get_xdata().tolist() == [2] and b.lines[1].get_xdata().tolist() == []


def test_angle_map_has_a_row_for_each_pair(figure):
    cosines = torch.rand(20, 5)
    draw.draw_angle_map(cosines)
    assert torch.equal(torch.tensor(figure().axes[0].images[0].get_array()), cosines.T)


def test_wavelengths_counts_pairs_that_turn(figure):
    draw.draw_wavelengths({"a": (torch.tensor([1.0, 0.1, 0.001]), 100)})
    assert "2 pairs turn" in words(figure()) and "1 pairs never" in words(figure())


def test_decay_draws_mean_and_one_draw(figure):
    x, draws = torch.arange(5), torch.randn(10, 5)
    draw.draw_decay(x, torch.ones(5), draws, torch.zeros(5), 3)
    top, middle, bottom = figure().axes
    assert lines(top)[0] == [1.0] * 5 and lines(middle)[0] == draws[0].tolist()
    torch.testing.assert_close(torch.tensor(lines(middle)[1]), draws.mean(0))
    assert list(bottom.lines[1].get_xdata()) == [3, 3]


def test_pair_strength_puts_the_line_before_the_first_slow_pair(figure):
    strength = torch.rand(4, 6) + 0.1
    draw.draw_pair_strength(strength, torch.tensor([9.0, 5.0, 2.0, 0.9, 0.5, 0.1]))
    top, heat = figure().axes[:2]
    assert [bar.get_height() for bar in top.patches] == pytest.approx(strength.mean(0).tolist())
    assert list(heat.lines[0].get_xdata()) == [2.5, 2.5]


def test_previous_token_head_draws_the_named_lines(figure):
    weights = torch.rand(6, 6)
    draw.draw_previous_token_head(weights, {name: torch.rand(3) for name in ("fast", "slow", "all")}, list("abcd"))
    image, below = figure().axes
    assert image.images[0].get_array().shape == (4, 4)
    assert "fast" in words(figure()) and len(below.lines) == 4


def test_losses_writes_each_value(figure):
    draw.draw_losses({"as it is": 1.5, "worse": 2.25})
    assert [bar.get_width() for bar in figure().axes[0].patches] == [1.5, 2.25]
    assert "1.500" in words(figure()) and "2.250" in words(figure())


def test_bug_table_says_caught_where_it_is(figure):
    caught = torch.tensor([[True, False], [False, True], [False, False]])
    draw.draw_bug_table(caught, list("abc"), list("xy"))
    assert [text.get_text() for text in figure().axes[0].texts] == ["caught", "—", "—", "caught", "—", "—"]
