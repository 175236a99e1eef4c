"""Photograph pages of the built book as a desktop and as a phone show them, light and dark.

    python tools/shoot.py OUT notebooks/05_rmsnorm.html book/index.html
    python tools/shoot.py OUT notebooks/05_rmsnorm.html --site /tmp/mybuild/_build/html --only phone-dark --tall 3000

Writes OUT/05_rmsnorm.desktop-light.png and so on, and prints for each page what a reader would stumble over: console
errors, requests that leave the machine, and what sticks out at the side. A page higher than --tall pixels is cut into
several pictures, so that each can be looked at in full size.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright
from web import DESKTOP, NO_CHROMIUM, PHONE, find_chromium, launch, serve, settle, tab

ROOT = Path(__file__).resolve().parents[1]
STICKS_OUT = """() => { const width = document.documentElement.clientWidth;
    if (document.documentElement.scrollWidth <= width + 1) return [];
    return [...document.querySelectorAll('article *')].filter(e => e.getBoundingClientRect().right > width + 2)
        .slice(0, 5).map(e => `${e.tagName.toLowerCase()}.${e.className} sticks out`) }"""


def shoot(browser, url: str, target: Path, device: dict, scheme: str, tall: int) -> list[str]:
    """Write the pictures of one page, named after `target`. Returns what is wrong with the page."""
    with tab(browser, device, scheme) as (page, log):
        page.goto(url)
        settle(page)
        width = device["viewport"]["width"]
        height = page.evaluate("document.documentElement.scrollHeight")
        # A window as high as the page: Chromium's own full-page picture moves the theme's side bars.
        page.set_viewport_size({"width": width, "height": height})
        page.wait_for_timeout(300)
        parts = range(0, height, tall)
        for i, top in enumerate(parts, 1):
            path = target if len(parts) == 1 else target.with_name(f"{target.stem}.{i:02}.png")
            page.screenshot(path=str(path), clip={"x": 0, "y": top, "width": width, "height": min(tall, height - top)})
        return log.all() + [f"too wide: {what}" for what in page.evaluate(STICKS_OUT)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for the pictures")
    parser.add_argument("pages", nargs="+", help="paths inside the site, for example book/index.html")
    parser.add_argument("--site", type=Path, default=ROOT / "_build" / "html", help="folder of the built book")
    parser.add_argument("--only", nargs="*", help="desktop-light, desktop-dark, phone-light, phone-dark")
    parser.add_argument("--tall", type=int, default=2400, help="pixels of the page in one picture (2400)")
    args = parser.parse_args()
    if find_chromium() is None:
        print(NO_CHROMIUM, file=sys.stderr)
        return 2
    for name in args.pages:
        if not (args.site / name).is_file():
            print(
                f"{args.site / name} is not there. Run `make book`, or give the site's folder by --site.",
                file=sys.stderr,
            )
            return 2
    args.out.mkdir(parents=True, exist_ok=True)
    defects = 0
    with serve(args.site) as base, sync_playwright() as playwright:
        browser = launch(playwright)
        for name in args.pages:
            for kind, device in {"desktop": DESKTOP, "phone": PHONE}.items():
                for scheme in ("light", "dark"):
                    look = f"{kind}-{scheme}"
                    if args.only and look not in args.only:
                        continue
                    wrong = shoot(
                        browser, f"{base}/{name}", args.out / f"{Path(name).stem}.{look}.png", device, scheme, args.tall
                    )
                    print(f"{name} {look}: {'; '.join(wrong) or 'nothing wrong seen'}")
                    defects += len(wrong)
        browser.close()
    return 1 if defects else 0


if __name__ == "__main__":
    sys.exit(main())
