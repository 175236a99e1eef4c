"""The clock hands of the RoPE chapter, driven in a browser and compared with the package."""

import json

import pytest
import torch

from llama_from_scratch.rope import rope_frequencies, rotate_adjacent

pytestmark = pytest.mark.browser
PAGE = "notebooks/06_rope_rotations.html"


def shown(page) -> dict:
    """What the widget says it shows, and the text that a reader sees."""
    widget = page.locator("lfs-rope")
    numbers = {
        name: json.loads(widget.get_attribute(f"data-{name}")) for name in ("m", "n", "q", "k", "scores", "score")
    }
    faces = [text.replace("−", "-") for text in widget.locator(".face .score").all_inner_texts()]
    return numbers | {"faces": faces, "sum": widget.locator(".sum").inner_text().replace("−", "-")}


def by_package(seen: dict) -> torch.Tensor:
    """The score of each pair at the widget's positions, turned by the package."""
    angles = torch.tensor([seen["m"], seen["n"]])[:, None] * rope_frequencies(16, 10_000.0)
    x = torch.tensor([seen["q"], seen["k"]])[None, None]
    q, k = rotate_adjacent(x, angles.cos(), angles.sin())[0, 0].unflatten(-1, (8, 2))
    return (q * k).sum(-1)


@pytest.fixture
def widget(page, site):
    page.goto(f"{site}/{PAGE}")
    page.locator("lfs-rope .face").first.wait_for()
    return page.locator("lfs-rope")


@pytest.mark.parametrize("kind", ["peak", "ones", "random"])
def test_scores_are_those_of_the_package(widget, page, kind):
    widget.locator("#rope-key").select_option(kind)
    for m, n in ((12, 8), (0, 0), (200, 3), (57, 37)):
        widget.locator("#rope-m").fill(str(m))
        widget.locator("#rope-n").fill(str(n))
        seen = shown(page)
        assert (seen["m"], seen["n"]) == (m, n)
        want = by_package(seen)
        torch.testing.assert_close(torch.tensor(seen["scores"]), want, atol=1e-4, rtol=0)
        assert seen["score"] == pytest.approx(float(want.sum()), abs=1e-3)
        assert [float(text) for text in seen["faces"]] == pytest.approx(want.tolist(), abs=0.006)
        assert float(seen["sum"]) == pytest.approx(float(want.sum()), abs=0.006)


def test_locked_distance_moves_both_and_changes_no_score(widget, page):
    before = shown(page)
    widget.locator("#rope-lock").check()
    widget.locator("#rope-m").fill("150")
    after = shown(page)
    assert (after["m"], after["n"]) == (150, 150 - (before["m"] - before["n"]))
    assert after["scores"] == pytest.approx(before["scores"], abs=1e-9)
    assert after["faces"] == before["faces"]


def test_unlocked_a_move_changes_the_score(widget, page):
    before = shown(page)
    widget.locator("#rope-m").fill("150")
    assert abs(shown(page)["score"] - before["score"]) > 0.1


def test_built_key_peaks_where_it_says(widget, page):
    widget.locator("#rope-key").select_option("peak")
    widget.locator("#rope-m").fill("200")
    scores = {}
    for n in range(150, 201):
        widget.locator("#rope-n").fill(str(n))
        scores[200 - n] = shown(page)["score"]
    assert max(scores, key=scores.get) == 20
    assert scores[20] == pytest.approx(8.0)


def test_a_key_cannot_pass_its_query(widget, page):
    widget.locator("#rope-n").fill("90")
    assert (shown(page)["m"], shown(page)["n"]) == (90, 90)
    widget.locator("#rope-m").fill("30")
    assert (shown(page)["m"], shown(page)["n"]) == (30, 30)


def test_keyboard_moves_the_query_by_one(widget, page):
    widget.locator("#rope-m").press("ArrowRight")
    assert shown(page)["m"] == 21


def test_buttons_move_by_one_token(widget, page):
    for name, want in (("query one token on", (21, 8)), ("key one token back", (21, 7)), ("key one token on", (21, 8))):
        widget.get_by_role("button", name=name).click()
        assert (shown(page)["m"], shown(page)["n"]) == want
    widget.locator("#rope-lock").check()
    widget.get_by_role("button", name="query one token back").click()
    assert (shown(page)["m"], shown(page)["n"]) == (20, 7)


def test_dragging_on_the_curve_chooses_the_distance(widget, page):
    curve = widget.locator(".curve")
    widget.locator("#rope-lock").check()
    curve.scroll_into_view_if_needed()
    box = curve.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.1, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + box["height"] / 2)
    page.mouse.up()
    seen = shown(page)
    assert seen["m"] - seen["n"] == 100
    assert not widget.locator("#rope-lock").is_checked()  # the curve changes the distance, so it is kept no longer
