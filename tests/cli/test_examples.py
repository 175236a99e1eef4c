"""Every example in the help of every command is run as it is typed; only how long it works is cut short."""

import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import hear_ctrl_c

from llama_from_scratch.cli.main import EXAMPLES, PROGRAM, main
from llama_from_scratch.files.embedded import FOLIO

COMMANDS = ("generate", "chat", "evaluate", "train", "convert", "inspect", "bench")  # the order of the help
SMALL = "--vocab-size 300 --dim 16 --layers 1 --heads 4 --kv-heads 2 --ffn-dim 24 --context 32 --batch-size 2"
TORCHRUN = re.compile(r" +torchrun --nproc-per-node \d+ -m llama_from_scratch ")
SHORTER = {
    "generate": "--max-new-tokens 4",
    "chat": "--max-new-tokens 4",
    "evaluate": "--max-tokens 300",
    "train": f"{SMALL} --steps 4",
    "bench": "--rounds 1 --tokens 2",
}
NOT_RUN = {  # a word of the example -> why it is only parsed
    "meta-llama/": "a model on the hub, behind a licence",
    "shakespeare": "fetches its texts; tests/training/test_corpora.py does that where it can",
    "cuda": "needs a GPU",
    "--compile": "compiles for minutes; tests/bench/test_bench.py does it once",
    "--each": "takes minutes; tests/bench/test_bench.py does it with a small model",
    "--against": "takes minutes; tests/bench/test_bench.py does it with a small model",
}
UNTIL_STOPPED = "--steps 100000"


def examples_in(text: str) -> list[str]:
    """What stands after `python -m llama_from_scratch`, or the whole pipe that it stands in."""
    lines = [line.strip() for line in text.replace("PROGRAM", PROGRAM).splitlines() if line.startswith("  ")]
    return [line for line in lines if PROGRAM in line]


def of(command: str) -> list[str]:
    return examples_in(importlib.import_module(f"llama_from_scratch.cli.{command}").EXAMPLES)


def why_not(example: str) -> str | None:
    return next((reason for word, reason in NOT_RUN.items() if word in example), None)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Iterator[Path]:
    """The files that the examples speak of."""
    folder = tmp_path_factory.mktemp("examples")
    text = "\n".join(f"the {i} quick brown foxes jump over {i * i} lazy dogs" for i in range(300))
    (folder / "my-texts").mkdir()
    for name in ("my-texts/a.txt", "book.txt", "chapter1.txt", "text.txt"):
        (folder / name).write_text(text)
    (folder / "prompt.txt").write_text("Dear Sir or Madam,\n")
    (folder / "runs").mkdir()
    assert main(["convert", FOLIO, str(folder / "model.gguf")]) == 0
    yield folder
    shutil.rmtree(folder)  # a gigabyte of models


def shell(line: str, place: Path) -> subprocess.Popen:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.Popen(
        f"exec {line}" if line.startswith(PROGRAM) else line,
        shell=True,
        cwd=place,
        env=os.environ | {"PATH": path, "HF_HUB_OFFLINE": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hear_ctrl_c,
    )


def steps_done(place: Path, out: str) -> int:
    log = place / out / "log.jsonl"
    records = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    return max((record["step"] for record in records), default=0)


@pytest.mark.parametrize("command", COMMANDS)
def test_examples_run(command: str, place: Path) -> None:
    """One after the other, because some go on with what others have made."""
    run = [example for example in of(command) if why_not(example) is None]
    assert run
    for example in run:
        verb = example.partition(f"{PROGRAM} ")[2].split()[0]  # an example of train may generate
        line = f"{example} {SHORTER.get(verb, '')}"
        if "--resume" in example:
            line = example
            if "--steps" in example:
                line += f" --steps {steps_done(place, 'runs/wsd') + 200}"
        elif UNTIL_STOPPED in example:
            line = f"{example} {SMALL} --decay 4"
        process = shell(line, place)
        code = 0
        if UNTIL_STOPPED in example:
            end = time.monotonic() + 200
            while not steps_done(place, "runs/wsd") and process.poll() is None and time.monotonic() < end:
                time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            code = 130
        out, errors = process.communicate(timeout=300)
        assert process.returncode == code, f"{line}\n{errors}"
        assert (command == "chat" and example == f"{PROGRAM} chat") or out.strip() or errors.strip(), line


@pytest.mark.parametrize("command", COMMANDS)
def test_examples_parse_and_are_explained(command: str, capsys) -> None:
    """Each stands below a line that says what it does, and is one that the parser takes."""
    import shlex

    from llama_from_scratch.cli.main import parser

    text = importlib.import_module(f"llama_from_scratch.cli.{command}").EXAMPLES
    assert text.startswith("examples:\n  ")
    title = None
    for line in text.partition("\n\n")[0].splitlines()[1:]:
        if line.startswith("    "):
            assert title and ("PROGRAM" in line or TORCHRUN.match(line))
        else:
            title = line
            assert re.fullmatch(r"  \S.*:(?: …)?|  … .*:|  .* …", line), f"{line!r} should end in a colon"
    for example in of(command):
        parser().parse_args(shlex.split(example.partition(f"{PROGRAM} ")[2]))
    for line in filter(TORCHRUN.match, text.splitlines()):  # test_parallel.py runs such commands
        parser().parse_args(shlex.split(TORCHRUN.sub("", line)))


def test_help_shows_every_command_in_one_order(capsys) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    assert tuple(re.findall(r"^    (\w+) {2,}[A-Z]", shown, re.MULTILINE)) == COMMANDS
    assert [example.split()[3] for example in examples_in(EXAMPLES)] == list(COMMANDS)
    assert set(re.findall(r"^    (\w+) ", shown, re.MULTILINE)) == set(COMMANDS)
