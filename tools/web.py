"""The rendered book on this machine's own address, and a browser that can reach nothing else.

Used by tests/browser.py and tools/shoot.py.
"""

from __future__ import annotations

import functools
import http.server
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

NO_CHROMIUM = "Chromium was not found, so no page was tried in a browser. To have that, run: apt install chromium"
DESKTOP = {"viewport": {"width": 1280, "height": 900}}
PHONE = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "is_mobile": True, "has_touch": True}

FLAGS = [
    "--no-sandbox",  # continuous integration runs as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # a page that asks the network for something shows it
]


def find_chromium() -> str | None:
    """Path of an installed Chromium or Chrome, None if there is none."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next((path for name in names if (path := shutil.which(name))), None)


def launch(playwright):
    """Chromium with the network closed. Raises RuntimeError where there is none."""
    path = find_chromium()
    if path is None:
        raise RuntimeError(NO_CHROMIUM)
    return playwright.chromium.launch(executable_path=path, args=FLAGS)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args) -> None:
        pass


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Serve `folder` to this machine alone while the block runs. Yields the address, without a slash at its end."""
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@dataclass
class Log:
    """What a tab did that a page of the book must not do."""

    left: list[str] = field(default_factory=list)  # requests to anything that is not this machine
    failed: list[str] = field(default_factory=list)  # requests without an answer, or answered by an error
    errors: list[str] = field(default_factory=list)  # console errors and uncaught exceptions

    def all(self) -> list[str]:
        return [f"{kind}: {what}" for kind, items in vars(self).items() for what in items]


@contextmanager
def tab(browser, device: dict = DESKTOP, scheme: str = "light") -> Iterator[tuple]:
    """A fresh tab, as a new visitor would have it. Yields (page, Log)."""
    context = browser.new_context(color_scheme=scheme, **device)
    log = Log()
    page = context.new_page()
    page.set_default_timeout(120_000)  # milliseconds; a busy machine takes more than the usual 30 seconds for a chapter
    local = ("http://127.0.0.1:", "file:", "data:", "blob:")
    page.on("request", lambda r: None if r.url.startswith(local) else log.left.append(r.url))
    # A page that is left aborts what it still waits for, such as its icon.
    page.on("requestfailed", lambda r: None if "ABORTED" in r.failure else log.failed.append(f"{r.url} {r.failure}"))
    page.on("response", lambda r: log.failed.append(f"{r.status} {r.url}") if r.status >= 400 else None)
    page.on("console", lambda m: log.errors.append(m.text[:300]) if m.type == "error" else None)
    page.on("pageerror", lambda e: log.errors.append(str(e)[:300]))
    try:
        yield page, log
    finally:
        context.close()


def settle(page) -> None:
    """Wait until the mathematics is drawn and every picture is there."""
    page.wait_for_load_state("load")
    page.evaluate("async () => { await window.MathJax?.startup?.promise }")
    page.evaluate(
        """async () => { for (const i of document.images) i.loading = 'eager';
        await Promise.all([...document.images].map(i => i.decode().catch(() => {}))) }"""
    )
