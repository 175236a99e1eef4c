"""The query that the reader drags in the chapter on self-attention has the weights of PyTorch."""

import pytest
import torch
import torch.nn.functional as F
from web import PHONE, tab

pytestmark = pytest.mark.browser
PAGE = "notebooks/04_attention.html"
KEYS = torch.tensor([[-1.0, 1.0], [1.0, 0.0], [0.0, 2.0]])
VALUES = torch.tensor([[0.0, 1.0], [4.0, 0.0], [5.0, 5.0]])


@pytest.fixture
def widget(page, site):
    page.goto(f"{site}/{PAGE}")
    return page.locator("lfs-attention")


def numbers(widget, name: str) -> list[float]:
    return [float(number) for number in widget.get_attribute(f"data-{name}").split()]


def check(widget) -> list[float]:
    q = torch.tensor(numbers(widget, "q"))
    weights = (KEYS @ q / 2**0.5).softmax(0)
    assert numbers(widget, "weights") == pytest.approx(weights.tolist(), abs=1e-5)
    output = F.scaled_dot_product_attention(q[None, None], KEYS[None], VALUES[None])[0, 0]
    assert numbers(widget, "output") == pytest.approx(output.tolist(), abs=1e-4)
    shown = [float(widget.locator(f"[data-weight='{i}']").inner_text()) for i in range(3)]
    assert shown == pytest.approx(weights.tolist(), abs=6e-4)
    return q.tolist()


def test_it_begins_with_the_chapters_example(widget):
    assert check(widget) == [1, 1]
    assert numbers(widget, "weights") == pytest.approx([0.140, 0.284, 0.576], abs=6e-4)


def test_keys_and_buttons(widget):
    handle = widget.locator(".handle")
    handle.focus()
    for key in ("ArrowRight", "Shift+ArrowUp", "ArrowLeft", "ArrowDown"):
        handle.press(key)
        check(widget)
    assert numbers(widget, "q") == pytest.approx([1.0, 1.4])
    widget.get_by_role("button", name="query × 2", exact=True).click()
    assert check(widget) == pytest.approx([2.0, 2.8])
    assert widget.get_by_role("button", name="query × 2", exact=True).is_disabled()
    widget.get_by_role("button", name="start again").click()
    assert check(widget) == [1, 1]


def test_the_mouse_drags_it(widget, page):
    widget.scroll_into_view_if_needed()
    box = widget.locator(".handle .ring").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x - 60, y + 40, steps=4)
    page.mouse.up()
    q = check(widget)
    assert q[0] < 0.5 and q[1] < 0.7


def test_fingers_have_room(browser, site):
    with tab(browser, PHONE) as (page, log):
        page.goto(f"{site}/{PAGE}")
        for target in page.locator("lfs-attention :is(button, .handle)").all():
            assert target.bounding_box()["height"] >= 44
        assert not log.all()
