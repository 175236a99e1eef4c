"""Every page on phones of 390 and 360 pixels: half of the readers have nothing else in their hands."""

import pytest
import yaml
from places import ROOT
from web import PHONE, settle, tab

from notebooks import to_mend

TOC = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf8"))
PAGES = [TOC["root"]] + [chapter["file"] for part in TOC["parts"] for chapter in part["chapters"]]
WIDTHS = (390, 360)

# What a page shows too wide, too small or too near. Text inside a paragraph may hold links of the text's own height
# (WCAG 2.2, 2.5.8, "inline"); a checkbox is as large as the label around it.
LOOK = """() => {
    const seen = {visibilityProperty: true, opacityProperty: true};
    const shown = e => e.checkVisibility(seen) && e.getClientRects().length;
    const all = (selector, root = document) => [...root.querySelectorAll(selector)].filter(shown);
    const name = e => (e.getAttribute('aria-label') || e.textContent || e.id || e.tagName)
        .trim().replace(/\\s+/g, ' ').slice(0, 50);
    document.querySelectorAll('article details').forEach(d => d.open = true);
    const column = document.querySelector('article').clientWidth;
    const wide = all('article mjx-container[display="true"]').filter(e =>
        e.scrollWidth > e.clientWidth + 1 || e.getBoundingClientRect().width > column + 1);
    const code = all('article div.cell_input pre, article div.highlight pre')
        .filter(e => !e.closest('div.cell_output') && e.scrollWidth > e.clientWidth + 1);
    const printed = all('article div.cell_output pre').filter(e => e.scrollWidth > e.clientWidth + 1);
    const scrolls = e => /auto|scroll/.test(getComputedStyle(e).overflowX)
        && getComputedStyle(e).backgroundImage.includes('gradient');
    const tables = all('article table.table').filter(t =>
        all('td', t).some(td => getComputedStyle(td).display === 'table-cell')
        || t.scrollWidth > t.parentElement.clientWidth + 1);
    const labels = all('article svg text').filter(e => {
        const size = parseFloat(getComputedStyle(e).fontSize), by = e.getScreenCTM();
        return size * Math.hypot(by.a, by.b) < 9.95; });
    const small = (least, list) => list.filter(e => {
        const box = (e.matches('input[type=checkbox]') && e.closest('label') || e).getBoundingClientRect();
        return Math.min(box.width, box.height) < least - 0.5; });
    const inText = e => e.matches('a') && e.closest('p, li, td, dd, figcaption, h1, h2, h3, h4, dt, text, .reference');
    const controls = all('button, summary, select, input, a[href]')
        .filter(e => !e.closest('#pst-skip-link')); // it shows when it has the focus
    return {
        'equations': wide.map(name),
        'code that scrolls sideways': code.map(name),
        'output that scrolls and does not say so': printed.filter(e => !scrolls(e)).map(name),
        'tables that are no cards': tables.map(name),
        'labels below 10 pixels': labels.map(name),
        'targets below 24 pixels': small(24, controls.filter(e => !inText(e))).map(name),
        'targets below 44 pixels in a widget': small(44, controls.filter(e => e.closest('.lfs-widget'))).map(name),
    };
}"""


@pytest.mark.browser
@pytest.mark.parametrize("name", PAGES)
def test_page_fits_a_phone(browser, site, name):
    waits = "equations" in to_mend(name.rpartition("/")[2])
    wrong, equations = {}, 0
    for width in WIDTHS:
        device = PHONE | {"viewport": {"width": width, "height": 844}}
        with tab(browser, device) as (page, _):
            page.goto(f"{site}/{name}.html")
            settle(page)
            seen = page.evaluate(LOOK)
            equations += len(seen["equations"])
            if waits:
                del seen["equations"]
            wrong |= {f"{width}: {what}": found for what, found in seen.items() if found}
    assert not wrong
    assert not waits or equations, "every equation fits: take `equations` out of tools/still_to_mend.yml"


@pytest.mark.browser
def test_gate_sees_what_does_not_fit(browser, site):
    """A page with one of each fault shows each of them."""
    page_html = """<main><article style="width: 340px">
        <mjx-container display="true" style="display: block; width: 500px"></mjx-container>
        <div class="cell_input"><pre style="overflow: auto; width: 300px">{0}</pre></div>
        <div class="cell_output"><pre style="overflow: auto; width: 300px">{0}</pre></div>
        <table class="table"><tr><td>a</td></tr></table>
        <svg viewBox="0 0 600 60" width="300"><text y="20" font-size="16">small</text></svg>
        <button style="width: 20px; height: 20px; padding: 0">x</button>
        <div class="lfs-widget"><button style="height: 30px; width: 60px">y</button></div></article></main>"""
    with tab(browser, PHONE) as (page, _):
        page.set_content(page_html.replace("{0}", "long " * 30))
        seen = page.evaluate(LOOK)
    assert {what: len(found) for what, found in seen.items()} == dict.fromkeys(seen, 1)
