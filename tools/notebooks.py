"""Run the chapters in clean kernels and write their outputs back in one normal form, or check that form.

    python tools/notebooks.py                              run and rewrite every notebook
    python tools/notebooks.py notebooks/05_rmsnorm.ipynb   run and rewrite this one
    python tools/notebooks.py --times                      the same, and measure the times anew
    python tools/notebooks.py --check                      run nothing; list what breaks the house rules

The normal form holds nothing that differs between two runs on the same code: no random identifiers, cells counted
from 1. A cell tagged nbval-ignore-output, whose output is a time, is run but keeps the output it had, unless --times
is given or it has none. So running a second time changes no byte, and a diff shows what a change really did.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).resolve().parents[1]
CELL_METADATA = ("tags", "mystnb", "slideshow")
NOTEBOOK_METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python", "pygments_lexer": "ipython3"},
}
UUID = re.compile(r"(?<![0-9a-f])[0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12}(?![0-9a-f])")
MAX_LINES = 15  # of code in a cell; a longer thought is two cells
MAX_LINES_FOLDED = 20
MAX_WIDTH = 72  # characters; more scrolls sideways on a 1280 pixel screen
FOLDED = {"hide-input", "hide-cell", "remove-input", "remove-cell"}


def _stable_id(*parts: object) -> str:
    return hashlib.sha256("/".join(map(str, parts)).encode()).hexdigest()


def _normalise_outputs(outputs: list, stem: str, count: int, seen: dict[str, str]) -> list:
    def stable(match: re.Match) -> str:
        # Still 32 hexadecimal digits, so that the page's own references keep matching.
        return seen.setdefault(match.group(), _stable_id(stem, len(seen))[:32])

    merged: list = []
    for out in outputs:
        if "metadata" in out:
            out.metadata = nbformat.from_dict({})
        if out.output_type == "execute_result":
            out.execution_count = count
        if html := out.get("data", {}).get("text/html"):
            out.data["text/html"] = UUID.sub(stable, html)
        if svg := out.get("data", {}).get("image/svg+xml"):
            # What matplotlib leaves at line ends would trouble every diff and every `git add`.
            out.data["image/svg+xml"] = "\n".join(line.rstrip() for line in svg.splitlines()) + "\n"
        # A stream arrives in as many pieces as the kernel happened to flush.
        if (
            merged
            and out.output_type == "stream"
            and merged[-1].output_type == "stream"
            and merged[-1].name == out.name
        ):
            merged[-1].text += out.text
        else:
            merged.append(out)
    return merged


def normalise(nb: nbformat.NotebookNode, stem: str) -> str:
    """Bring `nb` into the normal form, in place. Returns the text of the file."""
    nb.metadata = nbformat.from_dict(NOTEBOOK_METADATA)
    nb.nbformat, nb.nbformat_minor = 4, 5
    count, seen = 0, {}
    for i, cell in enumerate(nb.cells):
        cell.id = _stable_id(stem, i)[:8]
        cell.metadata = nbformat.from_dict({k: cell.metadata[k] for k in CELL_METADATA if cell.metadata.get(k)})
        cell.source = cell.source.rstrip()
        if cell.cell_type == "code":
            count += 1
            cell.execution_count = count
            cell.outputs = _normalise_outputs(cell.outputs, stem, count, seen)
    return nbformat.writes(nb).rstrip("\n") + "\n"


def complaints(nb: nbformat.NotebookNode) -> list[str]:
    """What breaks the house rules, one plain sentence each."""
    cells = [cell for cell in nb.cells if cell.cell_type == "code"]
    return [
        f"code cell {i} ({cell.source[:40]!r}): {what}"
        for i, cell in enumerate(cells, 1)
        for what in (*_source_complaints(cell), *_output_complaints(cell))
    ]


def _source_complaints(cell: nbformat.NotebookNode) -> Iterator[str]:
    lines = cell.source.splitlines()
    limit = MAX_LINES_FOLDED if FOLDED.intersection(cell.metadata.get("tags", [])) else MAX_LINES
    if not lines:
        yield "is empty; remove it"
        return
    if len(lines) > limit:
        yield f"has {len(lines)} lines, {limit} is the limit; split it, or move drawing into llama_from_scratch/plots"
    for line in lines:
        if len(line) > MAX_WIDTH:
            yield f"has a line of {len(line)} characters, {MAX_WIDTH} is the limit: {line[:50]!r}"
    if lines[-1].rstrip().endswith(";"):
        yield "ends in a semicolon, which nbval does not honour; end with a call that returns None"


def _output_complaints(cell: nbformat.NotebookNode) -> Iterator[str]:
    mystnb = cell.metadata.get("mystnb", {})
    figure = mystnb.get("figure", {})
    for out in cell.outputs:
        if out.output_type == "error" and "raises-exception" not in cell.metadata.get("tags", []):
            yield f"shows an error, {out.ename}; mend it and run `make notebooks`"
        if out.output_type == "stream" and out.name == "stderr":
            yield f"writes to stderr: {out.text.strip()[:60]!r}; mend the cause"
        if any(mime.startswith("image/") for mime in out.get("data", {})):
            if not (figure.get("caption") and figure.get("name")):
                yield 'shows a picture without caption or name; set "mystnb": {"figure": {"caption": …, "name": …}}'
            if not mystnb.get("image", {}).get("alt"):
                yield 'shows a picture without alternative text; set "mystnb": {"image": {"alt": …}}'


def write_atomically(path: Path, text: str) -> None:
    fd, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(fd, "w", encoding="utf8") as f:
            f.write(text)
        os.chmod(name, path.stat().st_mode)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def check(path: Path) -> list[str]:
    """All complaints about the notebook in `path`, as it lies on the disk."""
    text = path.read_text(encoding="utf8")
    nb = nbformat.reads(text, as_version=4)
    found = complaints(nb)
    if normalise(nb, path.stem) != text:
        found.append(f"is not in the normal form; run `make notebooks` or `python tools/notebooks.py {path.name}`")
    return [f"{path.name}: {what}" for what in found]


def run(path: Path, timeout: int, times: bool = False) -> None:
    """Execute the notebook in `path` in a new kernel and write it back. Raises CellExecutionError if a cell does.

    times: measure anew what cells tagged nbval-ignore-output show; else they keep the output they have.
    """
    nb = nbformat.read(path, as_version=4)
    kept: dict[int, list] = {}
    for i, cell in enumerate(nb.cells):
        if cell.cell_type == "code":
            if cell.outputs and "nbval-ignore-output" in cell.metadata.get("tags", []) and not times:
                kept[i] = cell.outputs
            cell.outputs, cell.execution_count = [], None
    where = {"metadata": {"path": str(path.parent)}}
    NotebookClient(nb, timeout=timeout, kernel_name="python3", record_timing=False, resources=where).execute()
    for i, outputs in kept.items():
        nb.cells[i].outputs = outputs
    text = normalise(nb, path.stem)
    if text != path.read_text(encoding="utf8"):
        write_atomically(path, text)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="*", type=Path, help="notebooks; all of notebooks/ if none is given")
    parser.add_argument("--check", action="store_true", help="run nothing, only list what breaks the house rules")
    parser.add_argument("--times", action="store_true", help="also measure anew the times that the chapters show")
    parser.add_argument("--timeout", type=int, default=600, help="seconds that one cell may take (600)")
    args = parser.parse_args(argv)
    paths = [p.resolve() for p in args.paths] or sorted((ROOT / "notebooks").glob("*.ipynb"))
    failed = 0
    for i, path in enumerate(paths, 1):
        if not path.is_file():
            print(f"{path} is not a file. Give the path of a notebook.", file=sys.stderr)
            return 2
        if not args.check:
            print(f"[{i}/{len(paths)}] {path.name} ...", end="", flush=True)
            start = time.perf_counter()
            try:
                run(path, args.timeout, args.times)
            except CellExecutionError as error:
                print(f" failed; the file is as it was\n{error}")
                failed += 1
                continue
            print(f" {time.perf_counter() - start:.1f} s", flush=True)
        for line in check(path):
            print(line)
            failed += 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
