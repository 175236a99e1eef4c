"""The drawings of the chapter on self-attention show what they are given."""

import matplotlib
import pytest
import torch

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

from llama_from_scratch.plots import attention as draw  # noqa: E402


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


def axes() -> list:
    return plt.gcf().axes


def test_mean_of_values_marks_the_mean():
    v, weights = torch.tensor([[0.0, 1.0], [4.0, 0.0], [5.0, 5.0]]), torch.tensor([0.2, 0.3, 0.5])
    draw.draw_mean_of_values(["a", "b", "c"], torch.ones(2), torch.ones(3, 2), v, weights)
    star = next(line for line in axes()[1].lines if line.get_marker() == "*")
    assert (star.get_xdata()[0], star.get_ydata()[0]) == pytest.approx((3.7, 2.7))


def test_scale_draws_each_curve():
    largest = {name: [0.1, 0.2, 0.3] for name in ("÷ √head_dim", "÷ √n_heads", "undivided")}
    draw.draw_scale([4, 8, 16], [4.1, 7.9, 16.2], largest)
    top, bottom = axes()
    assert list(top.lines[1].get_ydata()) == [4.1, 7.9, 16.2]
    assert len(bottom.lines) == 3


def test_bytes_written_counts_copies_and_not_views():
    q, k = torch.randn(2, 8, 1, 16), torch.randn(2, 2, 64, 16)
    assert draw.bytes_written(lambda k: k.transpose(2, 3)[:, :1].unsqueeze(0), k) == 0
    assert draw.bytes_written(lambda k: k.repeat_interleave(4, dim=1), k) >= 4 * k.nbytes
    # broadcast axes of a matrix product are copied out, silently
    assert draw.bytes_written(lambda q, k: q.unflatten(1, (2, 4)) @ k.unsqueeze(2).mT, q, k) > 4 * k.nbytes


def test_patterns_and_maps_show_each_number():
    numbers = torch.rand(5, 6)
    draw.draw_patterns({"the token before": numbers, "after the copy": numbers / 2})
    assert torch.equal(torch.tensor(axes()[1].images[0].get_array()), numbers / 2)
    weights = torch.rand(2, 9, 9)
    draw.draw_maps({"a": weights[0], "b": weights[1]})
    assert torch.equal(torch.tensor(axes()[1].images[0].get_array()), weights[1])
