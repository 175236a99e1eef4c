"""The drawings of the chapter on grouped-query attention show what they are given."""

import matplotlib
import pytest
import torch
import torch.nn.functional as F

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.colors import to_hex  # noqa: E402
from matplotlib.patches import Rectangle  # noqa: E402

from llama_from_scratch import Llama, LlamaConfig  # noqa: E402
from llama_from_scratch.attention import causal_mask  # noqa: E402
from llama_from_scratch.plots import COLOUR  # noqa: E402
from llama_from_scratch.plots import grouped_query_attention as gqa


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


def axes() -> list:
    return plt.gcf().axes


def boxes(ax, colour: str) -> int:
    return sum(isinstance(p, Rectangle) and to_hex(p.get_facecolor()).upper() == COLOUR[colour] for p in ax.patches)


def test_look_sees_what_the_model_computes(monkeypatch):
    config = LlamaConfig(50, dim=24, n_layers=3, n_heads=6, n_kv_heads=2, head_dim=8, ffn_dim=32)
    torch.manual_seed(0)
    model = Llama(config)
    model.init_weights(0.5)
    tokens = torch.randint(50, (1, 40))
    kernel, given = F.scaled_dot_product_attention, []

    def spy(q, k, v, **rest):
        given.append((q, k, v, kernel(q, k, v, **rest)))
        return given[-1][-1]

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    q, k, v, weights = gqa.look(model, tokens)
    assert weights.shape == (3, 6, 40, 40)
    for layer, (q_seen, k_seen, v_seen, mixed) in enumerate(given):
        for ours, seen in ((q, q_seen), (k, k_seen), (v, v_seen)):
            torch.testing.assert_close(ours[layer], seen[0])
        by_hand = weights[layer] @ v[layer].repeat_interleave(3, dim=0)
        torch.testing.assert_close(by_hand, mixed[0], atol=1e-5, rtol=1e-4)


def test_dial_joins_each_query_to_its_group():
    gqa.draw_dial(6, [6, 2, 1])
    for ax, kv_heads in zip(axes(), [6, 2, 1], strict=True):
        ends = [line.get_xdata()[1] for line in ax.lines]
        group = 6 // kv_heads
        assert [ends.index(x) // group for x in ends] == [h // group for h in range(6)]
        assert boxes(ax, "query") == 6 and boxes(ax, "key") == boxes(ax, "value") == kv_heads


def test_decode_step_computes_one_row():
    gqa.draw_decode_step(5)
    (ax,) = axes()
    assert boxes(ax, "query") == 5 and boxes(ax, "faint") == 10
    assert boxes(ax, "key") == boxes(ax, "value") == 1  # the new token's; the kept ones are outlines


def test_cache_sizes_stand_where_they_are():
    gqa.draw_cache_sizes({"a": (128.0, 512.0), "b": (512.0, 512.0)})
    (ax,) = axes()
    assert [line.get_xdata()[0] for line in ax.lines if line.get_marker() == "o"][:4] == [512, 128, 512, 512]
    number, factor, other = ax.texts[:3]
    assert [x.get_text() for x in (number, factor, other)] == ["128", "÷ 4", "512"]
    assert number.get_position()[0] < 128 and factor.get_position()[0] > 512  # each beside its own circle


def test_roofline_puts_decoding_on_the_slope():
    gqa.draw_roofline([1, 8], [16], 1e15, 2e12, 3000.0)
    (ax,) = axes()
    points = {line.get_xdata()[0]: line.get_ydata()[0] for line in ax.lines if line.get_marker() == "o"}
    assert points == pytest.approx({1: 2.0, 8: 16.0})
    assert list(ax.lines[0].get_ydata())[1:] == pytest.approx([1000, 1000])


def test_decode_times_and_pooling_are_drawn_as_given():
    gqa.draw_decode_times([4, 2, 1], [[2, 1, 3], [1.2] * 3, [0.6] * 3], [[2], [1.8], [1.5]], [1, 0.5, 0.25])
    assert list(axes()[0].lines[1].get_ydata()) == pytest.approx([1, 0.6, 0.3])  # medians
    assert list(axes()[0].lines[2].get_ydata()) == pytest.approx([1, 0.9, 0.75])
    gqa.draw_pooling([3.5, 3.0], 3.2, {"untouched": 3.2, "mean": 9.0})
    assert [bar.get_height() for bar in axes()[0].patches] == pytest.approx([0.3, -0.2])
    assert [bar.get_width() for bar in axes()[1].patches] == [3.2, 9.0]


def test_cache_growth_ends_at_each_models_context():
    gqa.draw_cache_growth({"small": LlamaConfig.preset("Llama-2-7B"), "large": LlamaConfig.preset("Llama-3.1-8B")})
    ends = [(line.get_xdata()[-1], line.get_ydata()[-1]) for line in axes()[0].lines]
    assert (4096, pytest.approx(4096 * 524288 / 1e9)) in ends and (131072, pytest.approx(131072**2 / 1e9)) in ends


def test_masks_and_groups_show_every_cell():
    right = causal_mask(torch.arange(4, 7), 7)
    gqa.draw_masks({"right": right, "corner": torch.ones(3, 7, dtype=torch.bool).tril()})
    assert [boxes(ax, "query") for ax in axes()] == [18, 6]
    weights = torch.rand(2, 3, 3)
    gqa.draw_group(weights, ["a", "b", "c"], ["head 0", "head 1"])
    assert torch.equal(torch.tensor(axes()[1].images[0].get_array()), weights[1])
