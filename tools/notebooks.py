"""Run the chapters in clean kernels and write their outputs back in one normal form, or check that form.

    python tools/notebooks.py                              run and rewrite every notebook
    python tools/notebooks.py notebooks/05_rmsnorm.ipynb   run and rewrite this one
    python tools/notebooks.py --times                      the same, and measure the times anew
    python tools/notebooks.py --form                       run nothing; renew numbers, minutes and the normal form
    python tools/notebooks.py --check                      run nothing; list what breaks the house rules
    python tools/notebooks.py --measure                    run nothing; print words, lines and minutes of each chapter

The normal form holds nothing that differs between two runs on the same code: no random identifiers, cells counted
from 1. A cell tagged nbval-ignore-output, whose output is a time, is run but keeps the output it had, unless --times
is given or it has none. So running a second time changes no byte, and a diff shows what a change really did.
What the tool writes into the text stands in chapter_form.py, the house rules in chapter_rules.py.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import os
import re
import sys
import tempfile
import time
from pathlib import Path

import nbformat
import yaml
from chapter_form import ROOT, chapters, measure, write_minutes, write_numbers
from chapter_rules import Complaint, complaints
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from PIL import Image

CELL_METADATA = ("tags", "jupyter", "mystnb", "slideshow")
NOTEBOOK_METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python", "pygments_lexer": "ipython3"},
}
UUID = re.compile(r"(?<![0-9a-f])[0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12}(?![0-9a-f])")
MAX_SIZE = 3_000_000  # bytes of a notebook
TO_MEND = Path(__file__).with_name("still_to_mend.yml")


def _stable_id(*parts: object) -> str:
    return hashlib.sha256("/".join(map(str, parts)).encode()).hexdigest()


def _normalise_outputs(outputs: list, stem: str, count: int, seen: dict[str, str]) -> list:
    def stable(match: re.Match) -> str:
        # Still 32 hexadecimal digits, so that the page's own references keep matching.
        return seen.setdefault(match.group(), _stable_id(stem, len(seen))[:32])

    merged: list = []
    for out in outputs:
        if "metadata" in out:  # a PNG of twice the size says how large it is to be shown
            size = out.metadata.get("image/png")
            out.metadata = nbformat.from_dict({"image/png": dict(size)} if size else {})
        if png := out.get("data", {}).get("image/png"):
            out.data["image/png"] = _small(png)
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


def _small(png: str) -> str:
    """The picture with a palette of 64 colours, which takes a third of the bytes. A picture that has one stays."""
    picture = Image.open(io.BytesIO(base64.b64decode(png)))
    if picture.mode == "P":
        return png
    to = io.BytesIO()
    flat = Image.new("RGB", picture.size, "white")
    flat.paste(picture, mask=picture.getchannel("A") if picture.mode == "RGBA" else None)
    flat.quantize(64, dither=Image.Dither.NONE).save(to, "PNG", optimize=True)
    return base64.b64encode(to.getvalue()).decode()


def normalise(nb: nbformat.NotebookNode, stem: str) -> str:
    """Bring `nb` into the normal form, in place. Returns the text of the file."""
    order = chapters()
    write_numbers(nb, order.index(stem) + 1 if stem in order else None)
    write_minutes(nb)
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


def all_complaints(path: Path) -> list[Complaint]:
    """All complaints about the notebook in `path`, as it lies on the disk: also those that wait to be mended."""
    text = path.read_text(encoding="utf8")
    nb = nbformat.reads(text, as_version=4)
    found = complaints(nb, whole=path.stem in chapters())
    if len(text.encode()) > MAX_SIZE:
        found.append(("size", f"has {len(text.encode()) / 1e6:.1f} MB, {MAX_SIZE / 1e6:.0f} is the limit"))
    if normalise(nb, path.stem) != text:
        found.append(("form", f"is not in the normal form; run `python tools/notebooks.py --form {path.name}`"))
    return found


def to_mend(stem: str) -> set[str]:
    """The rules that this chapter does not keep yet."""
    return set((yaml.safe_load(TO_MEND.read_text(encoding="utf8")) or {}).get(stem, []))


def check(path: Path) -> list[str]:
    """What breaks a rule in the notebook in `path`, less what waits to be mended."""
    waits = to_mend(path.stem)
    return [f"{path.name}: {sentence}" for rule, sentence in all_complaints(path) if rule not in waits]


def form(path: Path) -> None:
    """Bring the notebook in `path` into the normal form, without running it."""
    text = path.read_text(encoding="utf8")
    formed = normalise(nbformat.reads(text, as_version=4), path.stem)
    if formed != text:
        write_atomically(path, formed)


def size_of(path: Path) -> str:
    measured = measure(nbformat.read(path, as_version=4))
    parts = {"main path": [measured.main], "Deeper": measured.deeper.values()}
    said = [
        f"{name} {sum(p.words for p in amounts)} words, {sum(p.lines for p in amounts)} lines, "
        f"{sum(p.minutes for p in amounts)} min"
        for name, amounts in parts.items()
    ]
    return f"{path.stem}: " + "; ".join([*said, f"exercises {measured.exercises} min"])


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
    parser.add_argument("--all", action="store_true", help="with --check: also what tools/still_to_mend.yml excuses")
    parser.add_argument("--form", action="store_true", help="run nothing, only renew numbers and the normal form")
    parser.add_argument("--measure", action="store_true", help="run nothing, only print words, lines and minutes")
    parser.add_argument("--times", action="store_true", help="also measure anew the times that the chapters show")
    parser.add_argument("--timeout", type=int, default=600, help="seconds that one cell may take (600)")
    args = parser.parse_args(argv)
    paths = [p.resolve() for p in args.paths] or sorted((ROOT / "notebooks").glob("*.ipynb"))
    failed = 0
    for i, path in enumerate(paths, 1):
        if not path.is_file():
            print(f"{path} is not a file. Give the path of a notebook.", file=sys.stderr)
            return 2
        if args.measure:
            print(size_of(path))
            continue
        if args.form:
            form(path)
        elif not args.check:
            print(f"[{i}/{len(paths)}] {path.name} ...", end="", flush=True)
            start = time.perf_counter()
            try:
                run(path, args.timeout, args.times)
            except CellExecutionError as error:
                print(f" failed; the file is as it was\n{error}")
                failed += 1
                continue
            print(f" {time.perf_counter() - start:.1f} s", flush=True)
        everything = [f"{path.name}: [{rule}] {sentence}" for rule, sentence in all_complaints(path)]
        for line in everything if args.all else check(path):
            print(line)
            failed += 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
