"""The built book as readers meet it: the network closed, from a server or from a folder, on a desk and on a phone."""

import re

import nbformat
import pytest
import yaml
from places import ROOT
from web import DESKTOP, PHONE, settle, tab

from llama_from_scratch.plots import COLOUR

TOC = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf8"))
PAGES = [TOC["root"]] + [chapter["file"] for part in TOC["parts"] for chapter in part["chapters"]]
EXTRA = ["search", "genindex"]
TOO_WIDE = """() => [...document.querySelectorAll('body *')]
    .filter(e => e.getBoundingClientRect().right > document.documentElement.clientWidth + 1 && e.checkVisibility())
    .map(e => `${e.tagName.toLowerCase()}.${e.className}`).slice(0, 5)"""


def test_the_book_builds_without_a_warning(book_build):
    html, wrong = book_build
    assert not wrong, "\n".join(wrong)
    assert [name for name in PAGES if not (html / f"{name}.html").is_file()] == []


def test_every_notebook_is_in_the_table_of_contents():
    there = {f"notebooks/{p.stem}" for p in (ROOT / "notebooks").glob("*.ipynb")}
    assert there == {name for name in PAGES if name.startswith("notebooks/")}


def test_no_page_loads_anything_from_elsewhere(built_book):
    """What a page would fetch stands in src, in link and in @import; a link that a reader may click stands in href."""
    fetched = re.compile(
        r"""<link[^>]+href=["']((?:https?:)?//[^"']+)|\ssrc=["']((?:https?:)?//[^"']+)|@import\s+url"""
    )
    found = {
        f"{path.name}: {match.group()}"
        for path in built_book.rglob("*.html")
        if "_sources" not in path.parts
        for match in fetched.finditer(path.read_text(encoding="utf8"))
        if 'rel="canonical"' not in match.group()
    }
    assert not found


@pytest.mark.browser
@pytest.mark.parametrize("name", PAGES + EXTRA)
def test_page(browser, site, name):
    """On a desk and on a phone: nothing leaves, nothing fails, all mathematics is drawn, nothing sticks out."""
    wrong = []
    for look, device in {"desktop": DESKTOP, "phone": PHONE}.items():
        with tab(browser, device) as (page, log):
            page.goto(f"{site}/{name}.html")
            settle(page)
            drawn = page.evaluate(
                """() => ({
                    formulas: document.querySelectorAll('.math').length,
                    drawn: document.querySelectorAll('.math mjx-container').length,
                    bad: document.querySelectorAll('mjx-merror, [data-mjx-error], [data-mml-node="merror"]').length,
                    nameless: [...document.querySelectorAll('article img')].filter(i => !i.alt.trim()).length,
                    broken: [...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src),
                    width: document.documentElement.scrollWidth - document.documentElement.clientWidth,
                })"""
            )
            wrong += [f"{look}: {what}" for what in log.all()]
            if drawn["drawn"] < drawn["formulas"]:
                wrong.append(f"{look}: {drawn['drawn']} of {drawn['formulas']} formulas are drawn")
            if drawn["bad"]:
                wrong.append(f"{look}: MathJax shows {drawn['bad']} errors")
            if drawn["nameless"]:
                wrong.append(f"{look}: {drawn['nameless']} pictures have no text in their place")
            if drawn["broken"]:
                wrong.append(f"{look}: pictures do not load: {drawn['broken']}")
            if drawn["width"] > 1:
                wrong.append(f"{look}: scrolls sideways by {drawn['width']} pixels: {page.evaluate(TOO_WIDE)}")
    assert not wrong


@pytest.mark.browser
@pytest.mark.parametrize("name", PAGES)
def test_page_from_a_folder(browser, built_book, name):
    """Unpacked somewhere and opened without any server."""
    with tab(browser) as (page, log):
        page.goto((built_book / f"{name}.html").as_uri())
        settle(page)
        assert page.locator("article h1").count() == 1
        assert not log.all()


@pytest.mark.browser
@pytest.mark.parametrize("name", PAGES)
def test_code_does_not_scroll_on_a_desk(page, site, name):
    page.goto(f"{site}/{name}.html")
    settle(page)
    page.evaluate("() => document.querySelectorAll('details').forEach(d => d.open = true)")
    scrolling = page.evaluate(
        """() => [...document.querySelectorAll('div.highlight pre, div.cell_output pre')]
            .filter(e => e.scrollWidth > e.clientWidth + 2).map(e => e.innerText.slice(0, 60))"""
    )
    assert not scrolling


@pytest.mark.browser
def test_search_finds_a_chapter(page, site):
    page.goto(f"{site}/search.html?q=RMSNorm")
    page.wait_for_selector("#search-results li a", timeout=15_000)
    assert page.locator("#search-results li a").count() >= 1


@pytest.mark.browser
def test_search_as_you_type(page, site):
    page.goto(f"{site}/{TOC['root']}.html")
    settle(page)
    page.keyboard.press("Control+k")
    page.keyboard.type("RMSNorm")
    page.wait_for_selector("#pst-search-dialog #search-results li a", timeout=15_000)
    assert page.locator("#pst-search-dialog #search-results li a").count() >= 1


@pytest.mark.browser
def test_theme_switch(page, site):
    page.goto(f"{site}/{TOC['root']}.html")
    settle(page)

    def looks():
        return page.evaluate(
            "() => [document.documentElement.dataset.theme, getComputedStyle(document.body).backgroundColor]"
        )

    seen = {tuple(looks())}
    for _ in range(3):  # light, dark and whatever the system prefers
        page.locator("button.theme-switch-button").first.click()
        seen.add(tuple(looks()))
    assert {theme for theme, _ in seen} == {"light", "dark"}
    assert len({background for _, background in seen}) == 2


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_ideas_can_be_read_in_both_themes(browser, site, scheme):
    """WCAG 2.2, 1.4.3: text colours have a contrast of 4.5 : 1 with the page; 1.4.11: lines and dots have 3 : 1."""
    with tab(browser, scheme=scheme) as (page, _):
        page.goto(f"{site}/{TOC['root']}.html")
        contrast = page.evaluate(
            """ideas => (() => {
                const style = getComputedStyle(document.documentElement);
                const part = x => (x /= 255) <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4;
                const light = name => { const hex = style.getPropertyValue(name).trim().slice(1);
                    const [r, g, b] = [0, 2, 4].map(i => part(parseInt(hex.slice(i, i + 2), 16)));
                    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
                const ratio = name => { const [a, b] = [light(name), light('--lfs-paper')].sort((x, y) => x - y);
                    return (b + 0.05) / (a + 0.05); };
                return ideas => Object.fromEntries(ideas.map(i => [i, ratio(`--lfs-${i}-text`)])); })()(ideas)""",
            list(COLOUR),
        )
    assert list(contrast) == list(COLOUR)
    assert {idea: ratio for idea, ratio in contrast.items() if not ratio >= 4.5} == {}


def test_the_page_has_the_colours_of_the_figures():
    css = (ROOT / "book" / "_static" / "custom.css").read_text(encoding="utf8")
    light = css[css.index(":root {") : css.index('html[data-theme="dark"]')]
    assert {idea: re.search(rf"--lfs-{idea}: (#\w+);", light).group(1).upper() for idea in COLOUR} == COLOUR
    assert all(f'g[fill="{colour}" i]' in css for colour in COLOUR.values())


def test_numbers_in_the_notebooks_are_those_of_the_book(built_book):
    """The tool counts figures and equations for JupyterLab, Sphinx for the book: independently, and alike."""
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        html = (built_book / "notebooks" / f"{path.stem}.html").read_text(encoding="utf8")
        nb = nbformat.read(path, as_version=4)
        text = "\n".join(cell.source for cell in nb.cells if cell.cell_type == "markdown")
        book = re.findall(r'<span class="caption-number">Fig\. (\S+)\s*</span>', html)
        assert re.findall(r"^\*\*Fig\. ([\d.]+)\.\*\*", text, re.MULTILINE) == book, path.stem
        book = re.findall(r'<span class="eqno">\(([\d.]+)\)', html)
        assert re.findall(r"\\tag\{([\d.]+)\}", text) == book, path.stem


def test_every_page_says_what_it_is_about(built_book):
    for name in PAGES:
        html = (built_book / f"{name}.html").read_text(encoding="utf8")
        (text,) = re.findall(r'<meta name="description" content="([^"]*)"', html)
        assert 30 < len(text) <= 260, name  # 200 characters, some of them escaped
        assert f'<meta property="og:description" content="{text}"' in html


@pytest.mark.browser
def test_search_shows_no_raw_formula(page, site):
    page.goto(f"{site}/search.html?q=gain")
    page.wait_for_selector("#search-results li p.context", timeout=15_000)
    page.wait_for_timeout(1000)
    assert "\\(" not in page.locator("#search-results").inner_text()


def test_card_needs_the_books_address_and_no_network(monkeypatch):
    """og:image is a full address: it is there when html_baseurl says where the book lies, and left out else."""
    import types

    monkeypatch.syspath_prepend(str(ROOT / "book" / "_ext"))
    import lfs_book
    from docutils.core import publish_doctree

    page = publish_doctree("Question. Why does a Llama divide a vector by its size?\n\nMore.")
    for base, images in (("", 0), ("https://example.org/llama/", 1)):
        app = types.SimpleNamespace(config=types.SimpleNamespace(html_baseurl=base, html_title="Book"))
        context = {"title": "<em>RMSNorm</em>"}
        lfs_book.add_card(app, "notebooks/a", "page.html", context, page)
        assert 'name="description" content="Why does a Llama divide a vector by its size?"' in context["metatags"]
        assert 'property="og:title" content="RMSNorm"' in context["metatags"]
        assert context["metatags"].count("https://example.org/llama/_static/card.png") == images
    assert (ROOT / "book" / "_static" / "card.png").stat().st_size < 100_000
