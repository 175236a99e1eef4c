"""The built book in a real browser. The fixtures are known to every test file (conftest.py at the root names this one):

    built_book   Path of the rendered site, built once per test run
    site         its address on this machine, "http://127.0.0.1:<port>"; a page is f"{site}/notebooks/05_rmsnorm.html"
    browser      Chromium with the network closed: no name resolves. Where there is no Chromium, the test is skipped
    page         a fresh tab, 1280 x 900. Fails the test at its end if the page logged an error, asked anything of the
                 network, or asked for something that is not there

A test of a widget:

    @pytest.mark.browser
    def test_dial(page, site):
        page.goto(f"{site}/notebooks/05_rmsnorm.html")
        page.locator("lfs-dial input").fill("3")
        assert page.locator("lfs-dial output").inner_text() == "3"

On a phone: `with tab(browser, PHONE) as (page, log): ...`, with `from web import PHONE, tab`. Pages that were built
already are used instead of a new build when LFS_SITE names their folder (for the author of a widget).
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock
from places import ROOT
from web import NO_CHROMIUM, find_chromium, launch, serve, tab


@pytest.fixture(scope="session")
def book_build(tmp_path_factory, worker_id) -> tuple[Path, list[str]]:
    """The built site, and what was wrong with the build."""
    if ready := os.environ.get("LFS_SITE"):
        return Path(ready), []
    shared = tmp_path_factory.getbasetemp()
    if worker_id != "master":
        shared = shared.parent  # of all workers of this run
    said = shared / "book.txt"
    with FileLock(str(shared / "book.lock")):
        if not said.exists():  # in a new folder, so that every page is read and every warning heard
            command = [Path(sys.executable).with_name("jupyter-book"), "build", ROOT, "-W", "-n", "--keep-going"]
            command += ["--path-output", shared / "book"]
            result = subprocess.run(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            said.write_text(f"{result.returncode}\n{result.stdout}")
    code, *lines = said.read_text().splitlines()
    wrong = [line for line in lines if "WARNING:" in line or "ERROR:" in line]
    return shared / "book" / "_build" / "html", (wrong or lines[-30:]) if code != "0" else []


@pytest.fixture(scope="session")
def built_book(book_build) -> Path:
    html, wrong = book_build
    if not (html / "index.html").is_file():
        pytest.fail("the book was not built:\n" + "\n".join(wrong), pytrace=False)
    return html


@pytest.fixture(scope="session")
def site(built_book) -> str:
    with serve(built_book) as address:
        yield address


@pytest.fixture(scope="session")
def browser():
    if find_chromium() is None:
        pytest.skip(NO_CHROMIUM)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = launch(playwright)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser):
    with tab(browser) as (page, log):
        yield page
        assert not log.all()
