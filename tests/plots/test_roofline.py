"""The roofline and the shares of each part are drawn where the numbers are."""

import matplotlib
import pytest

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

from llama_from_scratch import PRESETS, cost  # noqa: E402
from llama_from_scratch.plots import COLOUR, roofline  # noqa: E402

EIGHT = PRESETS["Llama-3.1-8B"]


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


def test_points_stand_where_they_were_measured_with_their_share_of_the_first_roof() -> None:
    points = {"decode": (1.0, 2.4e12), "prompt": (2000.0, 600e12), "batch 8": (8.0, 12e12)}
    roofline.draw_roofline({"measured": (800e12, 3e12), "data sheet": (1e15, 4e12)}, points)
    ax = plt.gcf().axes[0]
    drawn = {(line.get_xdata()[0], line.get_ydata()[0]) for line in ax.lines if line.get_marker() == "o"}
    assert drawn == {(1.0, 2.4), (2000.0, 600.0), (8.0, 12.0)}
    texts = [text.get_text() for text in ax.texts]
    assert {"decode, 80%", "prompt, 75%", "batch 8, 50%"} <= set(texts)
    assert {"measured: 800 TFLOP/s, 3 TB/s", "data sheet: 1000 TFLOP/s, 4 TB/s"} <= set(texts)
    # Names in the order of the points, so that their lines do not cross.
    assert [t for t in texts if "%" in t] == ["prompt, 75%", "batch 8, 50%", "decode, 80%"]
    heights = [text.get_position()[1] for text in ax.texts if "%" in text.get_text()]
    assert heights == sorted(heights, reverse=True)


def test_roofs_turn_where_memory_and_arithmetic_take_equally_long() -> None:
    roofline.draw_roofline({"a": (800e12, 4e12), "b": (900e12, 3e12)}, {"x": (1.0, 1e12)})
    first, second = (line for line in plt.gcf().axes[0].lines if len(line.get_xdata()) == 3)
    assert first.get_xdata()[1] == 200 and list(first.get_ydata()[1:]) == [800, 800]
    assert second.get_xdata()[1] == 300 and first.get_ydata()[0] == pytest.approx(4 * first.get_xdata()[0])


def test_parts_are_drawn_as_shares_with_their_sums() -> None:
    cases = {
        "one": (cost.decode_bytes(EIGHT, 1024), cost.forward_flops(EIGHT, 1024)),
        "many": (cost.decode_bytes(EIGHT, 8192, 64), cost.forward_flops(EIGHT, 8192)),
    }
    roofline.draw_parts(cases)
    axes = plt.gcf().axes
    parts = ["attention", "feed-forward", "output projection", "keys and values"]  # the rest is below half a per cent
    assert [label.get_text() for label in axes[0].get_yticklabels()] == parts
    for ax, count in zip(axes, [count for pair in cases.values() for count in pair], strict=True):
        shares = [count[part] / sum(count.values()) for part in parts]
        assert [bar.get_width() for bar in ax.patches] == pytest.approx(shares)
        assert [text.get_text() for text in ax.texts][:4] == [f"{share:.0%}" for share in shares]
        assert matplotlib.colors.to_hex(ax.patches[3].get_facecolor()).upper() == COLOUR["key"]
    assert [ax.get_title(loc=matplotlib.rcParams["axes.titlelocation"]) for ax in axes[:2]] == [
        "reads 15.1 GB",
        "computes 15.5 GFLOP",
    ]
