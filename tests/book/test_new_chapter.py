"""One command makes a chapter that runs, is tested, and keeps the rules of all chapters."""

import os
import shutil
import subprocess
import sys

import nbformat
import new_chapter
import pytest
import yaml
from nbclient import NotebookClient
from places import ROOT


@pytest.fixture
def copy(tmp_path):
    """A copy of what a new chapter touches, with the package itself."""
    where = shutil.ignore_patterns("models", "__pycache__")
    shutil.copytree(ROOT / "llama_from_scratch", tmp_path / "llama_from_scratch", ignore=where)
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    for name in ("_toc.yml", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def run(copy, *command: str) -> subprocess.CompletedProcess:
    there = os.environ | {"PYTHONPATH": str(copy)}
    return subprocess.run([sys.executable, "-m", *command], cwd=copy, env=there, text=True, capture_output=True)


def test_new_chapter_runs_and_passes_its_tests(copy, capsys, monkeypatch):
    assert new_chapter.main(["02_tokens", "Tokens"], root=copy) == 0
    written = capsys.readouterr().out.splitlines()[:-1]
    assert all((copy / name).is_file() for name in written)

    toc = yaml.safe_load((copy / "_toc.yml").read_text())
    chapters = [c["file"] for part in toc["parts"] for c in part["chapters"] if "notebooks" in c["file"]]
    assert chapters[:2] == ["notebooks/01_whole_llama", "notebooks/02_tokens"] and chapters == sorted(chapters)

    tests = run(copy, "pytest", "-q", "-p", "no:cacheprovider", "--override-ini=pythonpath=", "tests")
    assert tests.returncode == 0 and "21 passed" in tests.stdout, tests.stdout
    style = run(copy, "ruff", "check", *[name for name in written if name.endswith(".py")])
    assert style.returncode == 0, style.stdout

    monkeypatch.setenv("PYTHONPATH", str(copy))
    nb = nbformat.read(copy / "notebooks" / "02_tokens.ipynb", as_version=4)
    NotebookClient(nb, kernel_name="python3", resources={"metadata": {"path": str(copy)}}).execute()
    said = "".join(out.get("text", "") for cell in nb.cells for out in cell.get("outputs", []))
    assert said.count("Not yet") == said.count("Correct") == 5  # each stub waits, each solution is right


@pytest.mark.parametrize(
    "name, title, said",
    [
        ("tokens", "Tokens", "'tokens' is no name of a chapter"),
        ("2_tokens", "Tokens", "two digits"),
        ("02_Tokens", "Tokens", "small words"),
        ("02_../x", "Tokens", "no name"),
        ("02-tokens", "Tokens", "no name"),
        ("02_tokens", "  ", "no title"),
        ("02_tokens", 'To"kens', "quotation marks"),
        ("05_tokens", "Tokens", "05_rmsnorm.ipynb has the number 05 already"),
        ("02_rmsnorm", "Tokens", "plots/rmsnorm.py is there already"),
    ],
)
def test_bad_name_is_refused_and_writes_nothing(capsys, name, title, said):
    before = subprocess.run(["git", "status", "--short"], cwd=ROOT, capture_output=True, text=True).stdout
    assert new_chapter.main([name, title]) == 2
    assert said in capsys.readouterr().err
    assert subprocess.run(["git", "status", "--short"], cwd=ROOT, capture_output=True, text=True).stdout == before


def test_chapter_is_entered_in_order():
    toc = "parts:\n      - file: notebooks/01_a\n      - file: notebooks/05_b\n  - caption: Reference\n"
    places = {name: new_chapter.enter(toc, name).splitlines().index(f"      - file: notebooks/{name}") for name in
              ("00_z", "02_c", "09_d")}  # fmt: skip
    assert places == {"00_z": 1, "02_c": 2, "09_d": 3}


def test_help_says_what_is_written(capsys):
    with pytest.raises(SystemExit):
        new_chapter.main(["--help"])
    assert "_toc.yml" in capsys.readouterr().out
