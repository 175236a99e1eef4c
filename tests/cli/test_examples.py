"""Every example in the help, and every command of the README, is run once; only how long it works is cut short.

In this process, with each model loaded once, except where a signal ends it.
"""

import importlib
import json
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import Done, in_a_folder_with_program, run_line
from places import ROOT

from llama_from_scratch.cli import options
from llama_from_scratch.cli.main import EXAMPLES, PROGRAM, main, parser
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
FEWER_STEPS = "--steps 120 --evaluate-every 60 --sample-tokens 20"  # for the README's training run


def examples_in(text: str) -> list[str]:
    """What stands after `python -m llama_from_scratch`, or the whole pipe that it stands in."""
    lines = [line.strip() for line in text.replace("PROGRAM", PROGRAM).splitlines() if line.startswith("  ")]
    return [line for line in lines if PROGRAM in line]


def of(command: str) -> list[str]:
    return examples_in(importlib.import_module(f"llama_from_scratch.cli.{command}").EXAMPLES)


def why_not(example: str) -> str | None:
    return next((reason for word, reason in NOT_RUN.items() if word in example), None)


def readme_commands() -> list[str]:
    """The indented lines of the README that start our program, those that are continued joined."""
    lines = re.findall(
        r"^    (.+)$", (ROOT / "README.md").read_text(encoding="utf-8").replace("\\\n", ""), re.MULTILINE
    )
    return [line for line in lines if line.startswith(PROGRAM)]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Iterator[Path]:
    """The files that the examples speak of, in a folder that looks like the repository to those of the README."""
    folder = tmp_path_factory.mktemp("examples")
    for name in ("llama_from_scratch", "tests"):
        (folder / name).symlink_to(ROOT / name)
    text = "\n".join(f"the {i} quick brown foxes jump over {i * i} lazy dogs" for i in range(300))
    (folder / "my-texts").mkdir()
    for name in ("my-texts/a.txt", "book.txt", "chapter1.txt", "text.txt"):
        (folder / name).write_text(text)
    (folder / "prompt.txt").write_text("Dear Sir or Madam,\n")
    (folder / "runs").mkdir()
    assert main(["convert", FOLIO, str(folder / "model.gguf")]) == 0
    yield folder
    shutil.rmtree(folder)  # a gigabyte of models


@pytest.fixture(scope="module")
def run_once(place) -> Iterator:
    """Runs a line unless it was run before, in `place`, without the network."""
    done: dict[str, Done] = {}

    def run(line: str) -> Done:
        if (typed := shlex.join(shlex.split(line, comments=True))) not in done:
            done[typed] = run_line(line)
        return done[typed]

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setattr(options, "load", loaded_once())
        yield run


def loaded_once():
    """`options.load`, which remembers what models it has loaded. Those of runs change, and are loaded again."""
    load, models = options.load, {}

    def remembering(arguments):
        names = ("model", "dtype", "device", "threads", "fast", "quantise")
        key = tuple(getattr(arguments, name, None) for name in names)
        if "runs/" in arguments.model:
            return load(arguments)
        if key not in models:
            models.clear()  # one at a time in memory
            models[key] = load(arguments)
        return models[key]

    return remembering


def steps_done(place: Path, out: str) -> int:
    log = place / out / "log.jsonl"
    records = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    return max((record["step"] for record in records), default=0)


def shortened(example: str, place: Path) -> str:
    if "--resume" in example:
        return f"{example} --steps {steps_done(place, 'runs/wsd') + 200}" if "--steps" in example else example
    verb = example.partition(f"{PROGRAM} ")[2].split()[0]  # an example of train may generate
    return f"{example} {SHORTER.get(verb, '')}"


def stop_with_ctrl_c(example: str, place: Path) -> None:
    """In a process of its own, as soon as it has made a step."""
    line = f"exec {example} {SMALL} --decay 4"
    process = subprocess.Popen(line, shell=True, stderr=subprocess.PIPE, text=True, **in_a_folder_with_program(place))
    end = time.monotonic() + 300
    while not steps_done(place, "runs/wsd") and process.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 130, errors


@pytest.mark.parametrize("command", COMMANDS)
def test_examples_run(command: str, place: Path, run_once, as_users_run_it) -> None:
    """One after the other, because some go on with what others have made."""
    run = [example for example in of(command) if why_not(example) is None]
    assert run
    for example in run:
        if UNTIL_STOPPED in example:
            stop_with_ctrl_c(example, place)
            continue
        done = run_once(shortened(example, place))
        assert done.code == 0, f"{example}\n{done.err}"
        assert (command == "chat" and example == f"{PROGRAM} chat") or done.out.strip() or done.err.strip(), example


def test_readme_commands_run(place: Path, run_once, as_users_run_it) -> None:
    commands = readme_commands()
    assert [line.split()[3] for line in commands][:4] == ["train", "generate", "convert", "evaluate"]
    assert {"chat", "inspect", "bench"} <= {line.split()[3] for line in commands}
    for line in commands:
        if "shakespeare" in line:  # fetches its texts
            continue
        verb = line.split()[3]
        if verb == "train":
            typed = f"{line} {FEWER_STEPS}"
        elif "small" in line:  # the model just trained, as it is typed
            typed = line
        else:
            typed = shortened(line.replace(" --each", ""), place)
        done = run_once(typed)
        assert done.code == 0, f"{line}\n{done.err}"
        if verb == "train":
            # The model has learned something: a vocabulary of 1,024 begins at log(1024) = 6.9 nats.
            losses = [float(loss) for loss in re.findall(r"held-out loss (\d\.\d+)", done.out)]
            assert losses == sorted(losses, reverse=True) and losses[-1] < 5.6
            assert "--- a sample at step" in done.out
        elif verb == "evaluate":
            assert re.search(r"^bits per byte +[1-3]\.\d+$", done.out, re.MULTILINE)
        elif verb == "convert":
            assert "tensors" in done.err
        else:
            assert done.out.strip()
    assert (place / "small.gguf").read_bytes()[:4] == b"GGUF"


@pytest.mark.parametrize("command", COMMANDS)
def test_examples_parse_and_are_explained(command: str, capsys) -> None:
    """Each stands below a line that says what it does, and is one that the parser takes."""
    text = importlib.import_module(f"llama_from_scratch.cli.{command}").EXAMPLES
    assert text.startswith("examples:\n  ")
    title = None
    for line in text.partition("\n\n")[0].splitlines()[1:]:
        if line.startswith("    "):
            assert title and ("PROGRAM" in line or TORCHRUN.match(line))
        else:
            title = line
            assert re.fullmatch(r"  \S.*:(?: \.\.\.)?|  \.\.\. .*:|  .* \.\.\.", line), f"{line!r} needs a colon"
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
