"""Draw the picture that messengers show beside a link to the book: book/_static/card.png, 1200 x 630 pixels.

    python tools/card.py

Not part of the build: run it when the logo or the words change.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright
from web import NO_CHROMIUM, find_chromium, launch

ROOT = Path(__file__).resolve().parents[1]
CARD = ROOT / "book" / "_static" / "card.png"
SIZE = {"width": 1200, "height": 630}
HTML = """<body style="margin: 0; width: 1200px; height: 630px; display: grid; grid-template-columns: 360px 1fr;
    align-items: center; background: #fff; color: #222832; font-family: 'Segoe UI', 'Liberation Sans', sans-serif">
  <div style="padding-left: 70px">{logo}</div>
  <div style="padding: 0 70px 0 30px"><div style="font-size: 76px; font-weight: 700">Llama from Scratch</div>
  <p style="font-size: 40px; line-height: 1.35">You type “The capital of France is”. What happens before a Llama says
  “Paris”?</p></div></body>"""


def main() -> int:
    if find_chromium() is None:
        print(NO_CHROMIUM, file=sys.stderr)
        return 2
    logo = (ROOT / "book" / "_static" / "logo.svg").read_text(encoding="utf8").replace("<svg", '<svg width="280"', 1)
    with sync_playwright() as playwright:
        browser = launch(playwright)
        page = browser.new_page(viewport=SIZE)
        page.set_content(HTML.replace("{logo}", logo))
        picture = Image.open(io.BytesIO(page.screenshot()))
        browser.close()
    picture.convert("RGB").quantize(64).save(CARD, "PNG", optimize=True)
    print(f"{CARD.relative_to(ROOT)}: {CARD.stat().st_size / 1000:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
