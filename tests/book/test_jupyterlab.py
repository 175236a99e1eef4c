"""A fresh copy of a chapter, which nobody has trusted, in JupyterLab: every figure and every caption is there."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest
from chapter_form import figure_name
from places import ROOT
from web import tab

pytestmark = pytest.mark.browser
CHAPTERS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def lab(tmp_path_factory, browser):
    """Address of a JupyterLab that has never seen these notebooks. `browser` comes first: no browser, no server."""
    home = tmp_path_factory.mktemp("lab")
    (home / "notebooks").mkdir()
    for path in CHAPTERS:
        shutil.copy(path, home / "notebooks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {f"JUPYTER_{kind}_DIR": str(home / kind) for kind in ("DATA", "CONFIG", "RUNTIME")}
    command = [Path(sys.executable).with_name("jupyter"), "lab", "--no-browser", "--allow-root", f"--port={port}"]
    command += ["--IdentityProvider.token=", f"--ServerApp.root_dir={home / 'notebooks'}"]
    bin_first = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    with open(home / "log.txt", "w") as log:
        server = subprocess.Popen(command, env=os.environ | own | bin_first, stdout=log, stderr=subprocess.STDOUT)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"{address}/api", timeout=5)
                break
            except OSError:
                assert server.poll() is None, (home / "log.txt").read_text()
                time.sleep(0.5)
        yield address
    finally:
        server.terminate()
        server.wait()


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_fresh_chapter_shows_every_figure(browser, lab, path):
    nb = nbformat.read(path, as_version=4)
    names = [name for cell in nb.cells if (name := figure_name(cell))]
    # So high that no cell waits to be scrolled to.
    with tab(browser, {"viewport": {"width": 1280, "height": 60_000}}) as (page, _):
        page.goto(f"{lab}/lab/workspaces/{path.stem}/tree/{path.name}")  # a fresh one: no other notebook opens
        page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=120_000)
        pictures = page.locator(".jp-OutputArea-output img")
        cells = page.locator(".jp-Notebook .jp-Cell:not(.jp-mod-placeholder)")
        for _ in range(300):  # it draws cell after cell
            if cells.count() >= len(nb.cells):
                break
            page.wait_for_timeout(1000)
        assert pictures.count() == len(names)
        assert all(width > 300 for width in pictures.evaluate_all("all => all.map(i => i.naturalWidth)"))
        text = page.locator(".jp-Notebook").inner_text()
        assert "<Figure size" not in text
        solutions = [cell for cell in nb.cells if cell.source.startswith("# Solution")]
        shown = [text for text in page.locator(".jp-CodeCell .jp-Editor").all_inner_texts() if "# Solution" in text]
        assert solutions and not shown
