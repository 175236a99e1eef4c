"""The gated neuron of the chapter on SwiGLU, moved in a browser, has PyTorch's numbers."""

import pytest
import torch
import torch.nn.functional as F
from web import PHONE, tab

pytestmark = pytest.mark.browser
PAGE = "notebooks/09_swiglu.html"
GATES = {"silu": F.silu, "relu": F.relu, "gelu": F.gelu}


@pytest.fixture
def widget(page, site):
    page.goto(f"{site}/{PAGE}")
    return page.locator("lfs-swiglu")


def check(widget) -> tuple[float, float]:
    gate, up = (float(widget.get_attribute(f"data-{key}")) for key in ("gate", "up"))
    for name, fn in GATES.items():
        wanted = fn(torch.tensor(gate, dtype=torch.float64)).item() * up
        assert float(widget.get_attribute(f"data-{name}")) == pytest.approx(wanted, abs=2e-5)
    shown = widget.locator("[data-product=SiLU]").inner_text().replace("−", "-")
    assert float(shown) == pytest.approx(F.silu(torch.tensor(gate)).item() * up, abs=0.0051)
    return gate, up


@pytest.mark.parametrize(("gate", "up"), [(2, -1.5), (-1.3, 4), (4, 4), (0, 3), (-4, -4)])
def test_sliders(widget, gate, up):
    for key, value in (("gate", gate), ("up", up)):
        widget.locator(f"input[data-key={key}]").fill(str(value))
    assert check(widget) == (gate, up)
    cross = widget.locator(".cross").get_attribute("transform")
    assert cross == f"translate({(gate + 4) * 32:g} {256 - (up + 4) * 32:g})"


def test_keyboard(widget):
    slider = widget.locator("input[data-key=gate]")
    slider.focus()
    slider.press("ArrowRight")
    assert check(widget)[0] == pytest.approx(2.05)


def test_fingers_have_room(browser, site):
    with tab(browser, PHONE) as (page, log):
        page.goto(f"{site}/{PAGE}")
        for target in page.locator("lfs-swiglu input").all():
            assert target.bounding_box()["height"] >= 44
        assert not log.all()
