"""The two sliders of "A whole Llama on one page", driven in a browser and compared with the package."""

import pytest
import torch

from llama_from_scratch.plots.whole_llama import round_rank, visible
from llama_from_scratch.tokenizer import load_tokenizer

pytestmark = pytest.mark.browser
PAGE = "notebooks/01_whole_llama.html"


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("SmolLM2-135M-Instruct")


@pytest.fixture(scope="module")
def lens_logits(smollm2, tokenizer):
    """Logits [31, vocab] that the last token's stream would give after 0, 1 … 30 blocks."""
    streams = []
    hooks = [m.register_forward_hook(lambda _, i, o: streams.append(o[0, -1])) for m in smollm2.blocks]
    hooks.append(smollm2.embedding.register_forward_hook(lambda _, i, o: streams.append(o[0, -1])))
    with torch.inference_mode():
        smollm2(torch.tensor([tokenizer.encode("The capital of France is")]))
        logits = smollm2.norm(torch.stack(streams)) @ smollm2.embedding.weight.T
    for hook in hooks:
        hook.remove()
    return logits


def visit(page, site) -> None:
    """Go to the chapter and unfold its sections *Deeper*."""
    page.goto(f"{site}/{PAGE}")
    page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true; })")


def bars(widget) -> list[tuple[str, float, str]]:
    rows = widget.locator(".lfs-whole-bars > div").all()
    return [(row.get_attribute("data-token"), float(row.get_attribute("data-p")), row.inner_text()) for row in rows]


def move(widget, value: int) -> None:
    slider = widget.locator("input[type=range]")
    slider.evaluate("(e, v) => { e.value = v; e.dispatchEvent(new Event('input', {bubbles: true})); }", value)


def test_lens_shows_the_models_guesses(page, site, tokenizer, lens_logits):
    visit(page, site)
    widget = page.locator("lfs-lens")
    paris = tokenizer.encode(" Paris")[0]
    assert widget.locator("input").get_attribute("max") == "30"
    for blocks in (0, 1, 17, 24, 29, 30):
        move(widget, blocks)
        logits = lens_logits[blocks]
        best = logits.softmax(0).topk(5)
        for (token, p, text), i, wanted in zip(bars(widget), best.indices, best.values, strict=True):
            assert token == visible(tokenizer.decode([int(i)]))
            assert p == pytest.approx(wanted.item(), abs=0.0051)
            assert token in text and (f"{p:.2f}" if p else "<0.01") in text
        rank = int((logits > logits[paris]).sum()) + 1
        assert int(widget.get_attribute("data-rank")) == pytest.approx(round_rank(rank), rel=0.1)
        assert f"{blocks} block" in widget.locator("output").inner_text()
    assert widget.locator(".answer").get_attribute("data-token") == "␣Paris"


def test_lens_by_keyboard_and_play(page, site):
    visit(page, site)
    widget = page.locator("lfs-lens")
    widget.locator("input").focus()
    page.keyboard.press("End")
    assert widget.locator("output").inner_text() == "30 blocks"
    page.keyboard.press("ArrowLeft")
    assert widget.locator("output").inner_text() == "29 blocks"
    widget.get_by_role("button", name="Play").click()
    page.wait_for_function(
        "() => { const at = +document.querySelector('lfs-lens input').value; return at > 1 && at < 29 }"
    )
    page.wait_for_function("() => document.querySelector('lfs-lens output').textContent === '30 blocks'")


def test_temperature_is_softmax_of_the_real_logits(page, site, tokenizer, lens_logits):
    visit(page, site)
    widget = page.locator("lfs-temperature")
    logits = lens_logits[30]
    for tenths in (1, 5, 10, 15, 20):
        move(widget, tenths)
        wanted = (logits.double() / (tenths / 10)).softmax(0).topk(8)
        *rows, rest = bars(widget)
        for (token, p, _), i, q in zip(rows, wanted.indices, wanted.values, strict=True):
            assert token == visible(tokenizer.decode([int(i)]))
            assert p == pytest.approx(q.item(), abs=0.0006)
        assert rest[0] == f"{len(logits) - 8:,} others"
        assert rest[1] == pytest.approx(1 - wanted.values.sum().item(), abs=0.0006)
        assert sum(p for _, p, _ in rows) + rest[1] == pytest.approx(1, abs=0.006)


def test_drawn_tokens_come_from_the_shown_ones(page, site):
    visit(page, site)
    widget = page.locator("lfs-temperature")
    move(widget, 1)  # at 0.1 the best token has all
    widget.get_by_role("button", name="Draw 10 tokens").click()
    assert widget.locator("p[aria-live]").inner_text().split() == ["␣Paris"] * 10


def test_draws_follow_the_probabilities(page, site, tokenizer, lens_logits):
    """Each number u in [0, 1) belongs to the token in whose share of the sorted probabilities it falls."""
    visit(page, site)
    widget = page.locator("lfs-temperature")
    for tenths in (5, 10, 20):
        move(widget, tenths)
        p, order = (lens_logits[30].double() / (tenths / 10)).softmax(0).sort(descending=True)
        ends = p.cumsum(0)
        for place in (0, 3, 7, 8, 40, 300):
            if p[place] < 1e-4:
                continue  # less than the rounding of what comes before
            u = (ends[place] - p[place] / 2).item()
            drawn = widget.evaluate("(e, u) => e.draw(u)", u)
            slack = place // 20  # the page holds logits to three decimals
            near = {visible(tokenizer.decode([int(i)])) for i in order[max(place - 1 - slack, 0) : place + 2 + slack]}
            assert drawn in near, (tenths, place)
    assert widget.evaluate("e => e.draw(0.9999999)") == "(rarer)"


def test_the_note_says_what_the_temperature_does(page, site):
    visit(page, site)
    widget = page.locator("lfs-temperature")
    for tenths, said in ((5, "Cold"), (10, "The model's own"), (20, "Hot")):
        move(widget, tenths)
        assert widget.locator(".lfs-note").inner_text().startswith(said)


def test_on_a_phone_nothing_sticks_out(browser, site):
    from web import PHONE, tab

    with tab(browser, PHONE, "dark") as (page, log):
        visit(page, site)
        for name in ("lfs-lens", "lfs-temperature"):
            box = page.locator(f"{name} .lfs-widget").bounding_box()
            assert box["x"] >= 0 and box["x"] + box["width"] <= 390
        assert not log.all()


def test_without_the_script_there_is_a_table(browser, site):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    visit(page, site)
    assert page.locator("lfs-lens table tr").count() == 32
    assert page.locator("lfs-lens .lfs-widget").count() == 0
    context.close()
