"""The sums that the reader chooses in the chapter on the residual stream are those of the package."""

import pytest
import torch
from web import PHONE, tab

from llama_from_scratch.plots.residual_stream import account, writings
from llama_from_scratch.plots.whole_llama import visible
from llama_from_scratch.tokenizer import load_tokenizer

pytestmark = pytest.mark.browser
PAGE = "notebooks/03_residual_stream.html"
NAMES = [" Paris", " London", " Berlin", " the", " a"]


@pytest.fixture(scope="module")
def numbers(smollm2):
    """What each writing gives to each token's logit."""
    tok = load_tokenizer("SmolLM2-135M-Instruct")
    with torch.no_grad():
        written = writings(smollm2, torch.tensor([tok.encode("The capital of France is")]))[-1]
        return account(smollm2, written, [tok.encode(name)[0] for name in NAMES])


@pytest.fixture
def widget(page, site):
    page.goto(f"{site}/{PAGE}")
    return page.locator("lfs-account")


def check(widget, expected) -> None:
    rows = widget.locator(".bars > div").all()
    assert [row.get_attribute("data-token") for row in rows] == [visible(name) for name in NAMES]
    found = [float(row.get_attribute("data-logit")) for row in rows]
    assert found == pytest.approx(expected.tolist(), abs=0.05)
    assert "best" in rows[int(expected.argmax())].get_attribute("class")
    shown = [float(row.locator("span").inner_text().replace("−", "-")) for row in rows]
    assert shown == pytest.approx(found, abs=0.051)


def move(widget, key: str, value: int) -> None:
    widget.locator(f"input[data-key={key}]").evaluate(
        "(e, v) => { e.value = v; e.dispatchEvent(new Event('input', {bubbles: true})); }", value
    )


def press(widget, name: str) -> None:
    widget.get_by_role("button", name=name, exact=True).click()


def test_all_writings_are_the_logits(widget, numbers):
    check(widget, numbers.sum(0))


def test_parts_and_blocks_are_left_out(widget, numbers):
    press(widget, "feed-forward")
    check(widget, numbers[[0, *range(1, 61, 2)]].sum(0))
    press(widget, "row of the table")
    move(widget, "from", 23)
    move(widget, "to", 23)
    check(widget, numbers[47])
    assert widget.locator(".best").get_attribute("data-token") == "␣Paris"
    press(widget, "all")
    check(widget, numbers.sum(0))


def test_the_ends_do_not_cross(widget):
    move(widget, "from", 20)
    move(widget, "to", 5)
    assert (widget.get_attribute("data-from"), widget.get_attribute("data-to")) == ("5", "5")


def test_keyboard(widget, numbers):
    slider = widget.locator("input[data-key=to]")
    slider.focus()
    slider.press("ArrowLeft")
    check(widget, numbers[:59].sum(0))


def test_fingers_have_room(browser, site):
    with tab(browser, PHONE) as (page, log):
        page.goto(f"{site}/{PAGE}")
        for target in page.locator("lfs-account :is(button, input)").all():
            assert target.bounding_box()["height"] >= 44
        assert not log.all()
