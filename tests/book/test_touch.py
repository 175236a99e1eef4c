"""Widgets under real fingers: touch events enter Chromium where the screen's own would, before it decides to scroll."""

import pytest
from web import PHONE, tab

pytestmark = pytest.mark.browser


def drag(page, start: tuple[float, float], by: tuple[float, float], steps: int = 8) -> None:
    """A finger goes down at `start`, moves by `by`, and is lifted."""
    cdp = page.context.new_cdp_session(page)

    def touch(kind: str, part: float) -> None:
        points = [] if kind == "touchEnd" else [{"x": start[0] + by[0] * part, "y": start[1] + by[1] * part}]
        cdp.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        page.wait_for_timeout(20)

    touch("touchStart", 0)
    for step in range(1, steps + 1):
        touch("touchMove", step / steps)
    touch("touchEnd", 1)
    page.wait_for_timeout(200)


def in_view(page, locator) -> dict:
    """Put the element in the middle of the screen and say where it is."""
    locator.evaluate("e => e.scrollIntoView({block: 'center', behavior: 'instant'})")
    page.wait_for_timeout(100)
    return locator.bounding_box()


def scrolled(page) -> float:
    return page.evaluate("scrollY")


def middle(box: dict) -> tuple[float, float]:
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


@pytest.fixture
def phone(browser):
    with tab(browser, PHONE) as (page, log):
        yield page
        assert not log.all()


def test_rmsnorm_dot_follows_a_finger_upwards(phone, site):
    phone.goto(f"{site}/notebooks/05_rmsnorm.html")
    widget = phone.locator("lfs-rmsnorm")
    dot = middle(in_view(phone, widget.locator(".handle .ring")))
    before, x2 = scrolled(phone), float(widget.get_attribute("data-x2"))
    drag(phone, dot, (0, -60))
    assert scrolled(phone) == before
    assert float(widget.get_attribute("data-x2")) > x2 + 0.5


def test_rmsnorm_drawing_beside_the_dot_scrolls_the_page(phone, site):
    phone.goto(f"{site}/notebooks/05_rmsnorm.html")
    widget = phone.locator("lfs-rmsnorm")
    box = in_view(phone, widget.locator("svg"))
    before, x2 = scrolled(phone), widget.get_attribute("data-x2")
    drag(phone, (box["x"] + 30, box["y"] + box["height"] - 30), (0, -120))
    assert scrolled(phone) > before + 50
    assert widget.get_attribute("data-x2") == x2


def test_rope_curve_follows_a_finger_sideways_and_scrolls_upwards(phone, site):
    phone.goto(f"{site}/notebooks/06_rope_rotations.html")
    widget = phone.locator("lfs-rope")
    box = in_view(phone, widget.locator(".curve"))
    before = scrolled(phone)
    drag(phone, (box["x"] + 0.2 * box["width"], box["y"] + 40), (0.4 * box["width"], 0))
    assert int(widget.get_attribute("data-m")) - int(widget.get_attribute("data-n")) == pytest.approx(120, abs=2)
    assert scrolled(phone) == before
    drag(phone, (box["x"] + 0.6 * box["width"], box["y"] + 40), (0, -120))
    assert scrolled(phone) > before + 50


@pytest.mark.parametrize("preset, heads", [("Llama-3-8B", 32), ("Llama-3.1-405B", 128)])
def test_gqa_head_under_the_finger_is_chosen(phone, site, preset, heads):
    phone.goto(f"{site}/notebooks/08_grouped_query_attention.html")
    widget = phone.locator("lfs-gqa")
    widget.locator("select[name=preset]").select_option(preset)
    box = in_view(phone, widget.locator("svg"))
    assert box["height"] >= 44 and box["width"] >= 44
    before = scrolled(phone)
    drag(phone, (box["x"] + 0.1 * box["width"], box["y"] + 30), (0.65 * box["width"], 0))
    chosen = int(0.75 * heads)
    said = widget.locator(".gqa-reads").inner_text()
    assert said.startswith((f"Query head {chosen - 1} ", f"Query head {chosen} "))
    assert scrolled(phone) == before
    number = int(said.split()[2])
    phone.wait_for_timeout(600)  # a finger that comes down at once after a drag would still belong to it
    widget.get_by_role("button", name="one query head on").tap()
    phone.wait_for_timeout(300)  # a tap becomes a click a little later
    assert widget.locator(".gqa-reads").inner_text().startswith(f"Query head {number + 1} ")


def test_rope_does_not_open_with_all_hands_aligned(phone, site):
    phone.goto(f"{site}/notebooks/06_rope_rotations.html")
    widget = phone.locator("lfs-rope")
    scores = widget.evaluate("e => JSON.parse(e.dataset.scores)")
    assert sum(score < 0.9 for score in scores) >= 3  # a score of 1: both hands lie on each other


def test_rope_numbers_stand_beside_the_curve(phone, site):
    phone.goto(f"{site}/notebooks/06_rope_rotations.html")
    curve = phone.locator("lfs-rope .curve").bounding_box()
    for label in phone.locator("lfs-rope .scores span").all():
        assert label.bounding_box()["x"] >= curve["x"] + curve["width"]
