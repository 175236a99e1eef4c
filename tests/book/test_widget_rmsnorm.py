"""The figure that the reader drags in the chapter on RMSNorm shows the package's numbers."""

import pytest
import torch
import torch.nn.functional as F
from web import PHONE, tab

from llama_from_scratch import RMSNorm

pytestmark = pytest.mark.browser
PAGE = "notebooks/05_rmsnorm.html"


@pytest.fixture
def widget(page, site):
    page.goto(f"{site}/{PAGE}")
    return page.locator("lfs-rmsnorm")


def move(widget, key: str, value: float) -> None:
    widget.locator(f"input[data-key={key}]").fill(str(value))


def press(widget, name: str) -> None:
    widget.get_by_role("button", name=name, exact=True).click()


def numbers(widget, *names: str) -> list[float]:
    return [float(widget.get_attribute(f"data-{name}")) for name in names]


def check(widget, gain=(1.0, 1.0)) -> None:
    """What the figure says of the vector that it shows is what the package and PyTorch say."""
    x, (eps, rms) = torch.tensor(numbers(widget, "x1", "x2")), numbers(widget, "eps", "rms")
    norm = RMSNorm(2, eps)
    norm.weight.data = torch.tensor(gain)
    assert numbers(widget, "y1", "y2") == pytest.approx(norm(x).tolist(), abs=1e-4)
    layer = F.layer_norm(x, (2,), norm.weight, None, eps)
    assert numbers(widget, "layer1", "layer2") == pytest.approx(layer.tolist(), abs=1e-4)
    assert rms == pytest.approx(x.pow(2).mean().sqrt().item(), abs=1e-5)
    # And the words beside it say the same.
    shown = widget.locator("[data-out=y]").inner_text().replace("−", "-").strip("()").split(", ")
    assert [float(v) for v in shown] == pytest.approx(norm(x).tolist(), abs=6e-4)
    dot = widget.locator("circle.y")
    scale = 62  # viewBox units per 1.0, y downwards
    assert float(dot.get_attribute("cx")) == pytest.approx(scale * norm(x)[0].item(), abs=0.01)
    assert float(dot.get_attribute("cy")) == pytest.approx(-scale * norm(x)[1].item(), abs=0.01)


def test_the_sliders(widget):
    check(widget)
    move(widget, "x1", -1.37)
    move(widget, "x2", 2.2)
    assert numbers(widget, "x1", "x2") == [-1.37, 2.2]
    check(widget)
    move(widget, "log", -0.5)
    assert numbers(widget, "eps") == pytest.approx([10**-0.5])
    check(widget)
    move(widget, "g1", 0.5)
    move(widget, "g2", -1.25)
    check(widget, gain=(0.5, -1.25))


def test_a_factor_does_not_move_rmsnorm_and_a_shift_does_not_move_layernorm(widget):
    move(widget, "log", -12)
    y, layer = numbers(widget, "y1", "y2"), numbers(widget, "layer1", "layer2")
    press(widget, "× 2")
    assert numbers(widget, "y1", "y2") == pytest.approx(y, abs=1e-6)
    press(widget, "× ½")
    press(widget, "+ 0.5 to both")
    assert numbers(widget, "layer1", "layer2") == pytest.approx(layer, abs=1e-6)
    assert numbers(widget, "y1", "y2") != pytest.approx(y, abs=0.05)
    check(widget)


def test_near_zero_eps_takes_length(widget):
    press(widget, "near 0")
    move(widget, "log", -2)
    check(widget)
    length = float(widget.locator("[data-out=length]").inner_text().split()[0])
    assert length < 0.3
    press(widget, "start again")
    assert numbers(widget, "eps") == [1e-5]
    check(widget)


def test_what_does_not_fit_is_not_offered(widget):
    move(widget, "x1", 2.2)
    assert widget.get_by_role("button", name="× 2", exact=True).is_disabled()
    assert widget.get_by_role("button", name="+ 0.5 to both", exact=True).is_disabled()
    assert widget.get_by_role("button", name="− 0.5 to both", exact=True).is_enabled()


def test_drag_and_arrow_keys(widget, page):
    handle = widget.locator(".handle")
    handle.scroll_into_view_if_needed()
    box = widget.locator("svg").bounding_box()
    unit = 62 * box["width"] / 360
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    x1, x2 = numbers(widget, "x1", "x2")
    page.mouse.move(middle[0] + x1 * unit, middle[1] - x2 * unit)
    page.mouse.down()
    page.mouse.move(middle[0] - 1.5 * unit, middle[1] - 1.0 * unit, steps=4)
    page.mouse.up()
    assert numbers(widget, "x1", "x2") == pytest.approx([-1.5, 1.0], abs=0.03)
    check(widget)
    handle.press("ArrowRight")
    handle.press("ArrowDown")
    assert numbers(widget, "x1", "x2") == pytest.approx([-1.4, 0.9], abs=0.03)
    check(widget)


def test_on_a_phone_it_fits_and_answers_to_touch(browser, site):
    with tab(browser, PHONE) as (page, log):
        page.goto(f"{site}/{PAGE}")
        widget = page.locator("lfs-rmsnorm")
        box = widget.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= page.viewport_size["width"]
        assert widget.evaluate("e => e.scrollWidth <= e.clientWidth")
        widget.get_by_role("button", name="+ 0.5 to both", exact=True).tap()
        check(widget)
        assert not log.all()
