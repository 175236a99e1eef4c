"""The RMSNorm chapter's figures show what they say they show."""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from llama_from_scratch import Llama, LlamaConfig
from llama_from_scratch.inside import record
from llama_from_scratch.plots import rmsnorm as draw

CONFIG = LlamaConfig(vocab_size=50, dim=16, n_layers=3, n_heads=4, n_kv_heads=2, head_dim=4, ffn_dim=24)


@pytest.fixture(autouse=True)
def figure(monkeypatch):
    monkeypatch.setattr(plt, "show", lambda: None)
    yield plt.gcf
    plt.close("all")


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = Llama(CONFIG).requires_grad_(False)
    for weight in model.parameters():
        weight.copy_(torch.rand_like(weight) + 0.2 if weight.dim() == 1 else torch.randn_like(weight))
    return model


@pytest.fixture
def seen(model):
    return record(model, torch.randint(50, (1, 9)), "blocks.*_norm", "norm")


def y(line) -> list[float]:
    return np.asarray(line.get_ydata()).tolist()


def test_rms():
    assert draw.rms(torch.tensor([[1.0, 2, 3, 4, 5], [0, 0, 0, 0, 0]])).tolist() == pytest.approx([11**0.5, 0.0])


def test_depths_are_in_the_order_of_execution(seen):
    depths = [draw.depth(name, 3) for name in seen]
    assert depths == [0, 0.5, 1, 1.5, 2, 2.5, 3]


def test_levels(seen, figure):
    levels = draw.levels(seen, 1e-2)
    x, out = seen["blocks.1.ffn_norm"]
    size = x[0].pow(2).mean(-1).sqrt()
    assert levels["first"][1][3] == pytest.approx(size[0].item())
    assert levels["others"][1][3] == pytest.approx(size[1:].median().item())
    assert levels["ffn"][0].tolist() == [0.5, 1.5, 2.5]
    assert levels["ffn"][1][1] == pytest.approx(out[0, 1:].pow(2).mean(-1).sqrt().median().item())
    assert len(levels["attention"][0]) == 3
    assert levels["normed"][1][3] == pytest.approx((size[1:] / (size[1:] ** 2 + 1e-2).sqrt()).median().item())
    draw.draw_levels(seen, 1e-2)
    assert y(figure().axes[0].lines[1]) == pytest.approx(levels["others"][1].tolist())


def test_number_lines_mark_the_mean(figure):
    draw.draw_number_lines([("a", torch.tensor([1.0, 2, 6]), "residual"), ("b", torch.tensor([0.0, 1, 2]), "real")])
    dots, triangle = figure().axes[0].collections
    assert dots.get_offsets()[:, 0].tolist() == [1, 2, 6] and triangle.get_offsets()[0, 0] == 3


def test_mean_share_is_the_squared_cosine_with_ones(seen):
    x = seen["blocks.2.attention_norm"][0][0]
    cosine = torch.nn.functional.cosine_similarity(x, torch.ones(16), dim=-1)
    assert draw.mean_share(seen)["blocks.2.attention_norm"] == pytest.approx(cosine.pow(2).median().item(), rel=1e-4)


def test_mean_share_figure(seen, figure):
    draw.draw_mean_share(seen, random=0.05)
    axes = figure().axes[0]
    assert axes.lines[0].get_ydata()[0] == pytest.approx(5)
    assert axes.collections[0].get_offsets()[:, 1].tolist() == pytest.approx(
        [100 * share for share in draw.mean_share(seen).values()]
    )


def test_leak_bars(figure):
    change = torch.tensor([0.0, 0.5, 2.0])
    draw.draw_leak({"one": change, "two": 2 * change}, changed=2)
    assert [bar.get_height() for bar in figure().axes[1].patches] == [0.0, 1.0, 4.0]


def test_gain_bands(model, figure):
    bands = draw.gain_bands(model)
    weight = model.blocks[2].ffn_norm.weight.numpy()
    assert bands["ffn_norm"][2].tolist() == pytest.approx(np.quantile(weight, [0.05, 0.5, 0.95]).tolist(), rel=1e-5)
    draw.draw_gains(model)
    assert y(figure().axes[0].lines[0]) == pytest.approx(bands["attention_norm"][:, 1].tolist())


def test_loudness(figure):
    x = torch.tensor([[3.0, 4.0], [30.0, -40.0]])  # each token counts the same, whatever its size
    expected = [3 / 12.5**0.5, 4 / 12.5**0.5]
    assert draw.loudness(x).tolist() == pytest.approx(expected)
    draw.draw_loudness(x, torch.tensor([0.5, 2.0]), label=1)
    dots = figure().axes[0].collections[0].get_offsets()
    assert dots[:, 0].tolist() == pytest.approx(expected) and dots[:, 1].tolist() == [0.5, 2.0]
    assert [text.get_text() for text in figure().axes[0].texts] == ["feature 1"]


def test_the_gradient_through_a_norm_is_tangential_and_shrinks():
    x, upstream = torch.tensor([0.6, 1.1]), torch.tensor([1.0, 0.5])
    near, far = draw.through_norm(x, upstream), draw.through_norm(10 * x, upstream)
    assert (near @ x).item() == pytest.approx(0, abs=1e-4)
    assert (near.norm() / far.norm()).item() == pytest.approx(10, rel=1e-3)


def test_gradient_figure_has_an_arrow_for_each_place(figure):
    draw.draw_gradients(torch.tensor([1.0, 0.5]), radii=(1.0, 2.0), around=5)
    arrows = [text for text in figure().axes[0].texts if text.get_text() == ""]
    assert len(arrows) == 2 * 5 + 1


def test_depth_figure(figure):
    curves = {"before": torch.tensor([1.0, 2, 3]), "after": torch.tensor([3.0, 2, 1])}
    draw.draw_depth({"a": curves, "b": curves})
    assert y(figure().axes[1].lines[1]) == [3, 2, 1]


@pytest.mark.parametrize("eps", [1e-5, 1e-3])
def test_kept_length_is_what_the_norm_keeps(eps):
    x = torch.randn(5, 64, dtype=torch.float64) * torch.logspace(-4, 1, 5, dtype=torch.float64)[:, None]
    size = x.pow(2).mean(-1).sqrt()
    inside = torch.nn.functional.rms_norm(x, (64,), eps=eps).pow(2).mean(-1).sqrt()
    assert draw.kept_length(size, eps).tolist() == pytest.approx(inside.tolist())
    outside = (x / (size[:, None] + eps)).pow(2).mean(-1).sqrt()
    assert draw.kept_length(size, eps, inside=False).tolist() == pytest.approx(outside.tolist())


def test_eps_figure(figure):
    draw.draw_eps({"mark": 0.02})
    axes = figure().axes[0]
    at = np.asarray(axes.lines[0].get_xdata())
    assert y(axes.lines[0]) == pytest.approx((at / np.sqrt(at**2 + 1e-5)).tolist(), rel=1e-4)
    assert axes.lines[3].get_xdata()[0] == 0.02


def test_losses_are_smoothed_by_a_running_mean(figure):
    draw.draw_losses({"a": torch.arange(12.0)[None]}, {"a": "real"}, smooth=4)
    line = figure().axes[0].lines[0]
    assert y(line)[0] == pytest.approx(1.5) and list(line.get_xdata())[0] == 4
    assert len(y(line)) == 9
