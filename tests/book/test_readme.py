"""Every command line and the Python block of the README are run, in order, in their own folder, without the network."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from places import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
PROGRAM = "python -m llama_from_scratch "
# Not run: this one fetches its texts.
NETWORK = {"train shakespeare web-bible --out runs/folio"}
# In the time of a test: what is shown is the same, less often.
QUICKER = {"bench decode --each --against transformers": "bench decode --rounds 1 --tokens 4 --against transformers"}


def indented(text: str) -> list[str]:
    """The lines of commands, those that are continued joined."""
    return re.findall(r"^    (.+)$", text.replace("\\\n", ""), re.MULTILINE)


COMMANDS = [line.removeprefix(PROGRAM) for line in indented(README) if line.startswith(PROGRAM)]
PYTHON = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Iterator[Path]:
    """A folder that looks like the repository to the commands, and takes what they write."""
    folder = tmp_path_factory.mktemp("readme")
    for name in ("llama_from_scratch", "tests"):
        (folder / name).symlink_to(ROOT / name)
    yield folder
    shutil.rmtree(folder)  # a gigabyte of models


def run(command: list[str] | str, place: Path) -> subprocess.CompletedProcess:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    offline = {"HF_HUB_OFFLINE": "1", "PIP_NO_INDEX": "1", "PATH": path}
    done = subprocess.run(
        command,
        shell=isinstance(command, str),
        cwd=place,
        env=os.environ | offline,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    return done


def test_the_commands_are_found() -> None:
    names = [command.split()[0] for command in COMMANDS]
    assert names[:4] == ["train", "generate", "convert", "evaluate"]
    assert {"chat", "inspect", "bench"} <= set(names)
    assert NETWORK | QUICKER.keys() <= set(COMMANDS) and len(PYTHON) == 1


def test_commands_run_one_after_the_other(place: Path) -> None:
    for command in COMMANDS:
        if command in NETWORK:
            continue
        done = run(PROGRAM + QUICKER.get(command, command), place)
        assert "Traceback" not in done.stderr
        if command.startswith("train"):
            # The model has learned something: a vocabulary of 1,024 begins at log(1024) = 6.9 nats.
            losses = [float(loss) for loss in re.findall(r"held-out loss (\d\.\d+)", done.stdout)]
            assert losses == sorted(losses, reverse=True) and losses[-1] < 5.0
            assert "--- a sample at step" in done.stdout
        elif command.startswith("evaluate"):
            assert re.search(r"^bits per byte +[1-3]\.\d+$", done.stdout, re.MULTILINE)
        elif command.startswith("convert"):
            assert "tensors" in done.stderr
        else:
            assert done.stdout.strip()
    assert (place / "small.gguf").read_bytes()[:4] == b"GGUF"


def test_python_of_the_readme(place: Path) -> None:
    assert " Paris" in run([sys.executable, "-c", PYTHON[0]], place).stdout


def test_files_that_the_readme_names_exist() -> None:
    for link in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / link).exists(), link
    for path in re.findall(r"^\| `([\w./]+)` \|", README, re.MULTILINE):
        assert (ROOT / path).exists(), path
