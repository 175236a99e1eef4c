"""The landing page: every number in its picture is the model's own, and every link leads somewhere."""

import re
from xml.etree import ElementTree

import pytest
import torch
from places import ROOT

from llama_from_scratch import PRESETS
from llama_from_scratch.tokenizer import load_tokenizer

PICTURE = ROOT / "book" / "_static" / "llama.svg"
PAGE = ROOT / "book" / "index.md"
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def picture():
    return ElementTree.parse(PICTURE).getroot()


def test_numbers_are_those_of_the_config(picture):
    config = PRESETS["SmolLM2-135M"]
    marked = picture.findall(".//*[@data-n]")
    assert {e.get("data-n") for e in marked} >= {"vocab_size", "dim", "n_layers", "n_heads", "n_kv_heads", "ffn_dim"}
    for element in marked:
        assert element.text == f"{getattr(config, element.get('data-n')):,}"
    for field, shape in (("n_heads", f"{SVG}circle"), ("n_kv_heads", f"{SVG}g")):
        (group,) = picture.findall(f".//*[@data-count='{field}']")
        assert len(group.findall(shape)) == getattr(config, field)


def test_no_other_number_is_drawn(picture):
    checked = ("data-n", "data-id", "data-p")
    for element in picture.iter():
        if element.tag in (f"{SVG}text", f"{SVG}tspan") and not any(name in element.attrib for name in checked):
            assert not re.search(r"\d", element.text or ""), element.text
        assert not re.search(r"\d", element.tail or ""), element.tail


def test_tokens_and_next_tokens_are_those_of_the_model(picture, smollm2):
    tokenizer = load_tokenizer("SmolLM2-135M-Instruct")
    (prompt,) = picture.findall(".//*[@data-tokens]")
    pieces = prompt.get("data-tokens").split("|")
    ids = tokenizer.encode("".join(pieces))
    assert [tokenizer.decode([i]) for i in ids] == pieces
    drawn = [text.text for text in prompt.iter(f"{SVG}text")]
    assert drawn == [piece.strip() for piece in pieces] + [str(i) for i in ids]

    with torch.inference_mode():
        best = smollm2(torch.tensor([ids]))[0, -1].softmax(0).topk(3)
    bars = picture.findall(".//*[@data-token]")
    assert [bar.get("data-token") for bar in bars] == [tokenizer.decode([i]) for i in best.indices.tolist()]
    for bar, chance in zip(bars, best.values.tolist(), strict=True):
        name, number = bar.findall(f"{SVG}text")
        assert name.text == bar.get("data-token").strip()
        assert number.text == f"{chance:.2f}"
        width = float(bar.find(f"{SVG}rect").get("width"))
        assert abs(width - 240 * chance) < 1, "240 units are a probability of 1"


def test_links_lead_to_chapters(picture):
    links = [a.get("href") for a in picture.iter(f"{SVG}a")]
    links += re.findall(r'href="([^"]+)"', PAGE.read_text(encoding="utf-8"))
    assert len(set(links)) == 4  # the start, and one for each idea
    for link in links:
        assert (PAGE.parent / link.replace(".html", ".ipynb")).resolve().is_file(), link


def test_picture_speaks_for_itself(picture):
    assert picture.get("role") == "img" and picture.get("aria-labelledby")
    assert picture.find(f"{SVG}title").text and len(picture.find(f"{SVG}desc").text) > 100
    assert all(a.get("aria-label") for a in picture.iter(f"{SVG}a"))


def test_colours_follow_the_theme_and_match_the_figures():
    from llama_from_scratch.plots import COLOUR

    css = PICTURE.read_text(encoding="utf-8")
    fallbacks = dict(re.findall(r"var\(--lfs-(\w+), (#\w+)\)", css))
    assert fallbacks.keys() >= {"query", "key", "value", "position", "normalised", "residual", "real"}
    for name, colour in fallbacks.items():
        if name in COLOUR:
            assert colour.lower() == COLOUR[name].lower(), name
    without = re.sub(r"var\([^)]*\)", "", css)
    assert not re.search(r"(?:fill|stroke)\s*[:=]\s*\"?#\w", without), "a colour that does not follow the theme"


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_ideas_can_be_tapped_on_a_phone(browser, site, scheme):
    from web import PHONE, tab

    for name in ("05_rmsnorm", "06_rope_rotations", "08_grouped_query_attention"):
        with tab(browser, PHONE, scheme) as (page, log):
            page.goto(f"{site}/book/index.html")
            link = page.locator(f"#llama-map a[href*='{name}']").first
            box = link.bounding_box()
            assert box["height"] > 24 and box["x"] >= 0 and box["x"] + box["width"] <= 390
            link.click()
            page.wait_for_url(f"**/{name}.html")
            assert not log.all()
