"""The command train: its output, interrupts, resuming, and error messages."""

import json
import os
import pty
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
from commands import COMMAND, files_of_at_most, hear_ctrl_c, in_process
from filelock import FileLock, Timeout

from llama_from_scratch.cli import main
from llama_from_scratch.cli.main import parser
from llama_from_scratch.cli.train import _resume_command
from llama_from_scratch.files.run_folder import saves_in
from llama_from_scratch.training.log import read_log

SIZE = "--vocab-size 300 --dim 16 --layers 1 --heads 4 --kv-heads 2 --ffn-dim 24 --context 32 --batch-size 2".split()


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    file = tmp_path_factory.mktemp("text") / "text.txt"
    file.write_text("\n".join(f"the {i} quick brown foxes jump over {i * i} lazy dogs" for i in range(300)))
    return str(file)


@pytest.fixture
def out(tmp_path):
    return str(tmp_path / "run")


def log(out) -> list[dict]:
    return list(read_log(Path(out, "log.jsonl")))


def steps(out) -> list[int]:
    return [record["step"] for record in log(out) if record["kind"] == "step"]


def without_times(out) -> list[dict]:
    times = ("seconds", "tokens_per_second")
    return [{k: v for k, v in record.items() if k not in times} for record in log(out)]


def test_train_generate_evaluate_inspect_resume(text, out, capsys):
    assert main(["train", text, "--out", out, "--steps", "6", "--evaluate-every", "3", *SIZE]) == 0
    shown = capsys.readouterr()
    losses = re.findall(r"^step (\d) of 6: held-out loss (\d\.\d{4})$", shown.out, re.MULTILINE)
    assert [step for step, _ in losses] == ["3", "6"]
    assert "--- a sample at step 6\n" in shown.out
    assert shown.err == f'Done. Try it: python -m llama_from_scratch generate "The" --model {out} --temperature 0.8\n'
    assert steps(out) == [1, 2, 3, 4, 5, 6]
    rates = [r["learning_rate"] for r in log(out) if r["kind"] == "step"]
    assert rates[0] == 2e-3 > rates[-1]  # so few steps have no warm-up

    for command in (["generate", "the 17", "--max-new-tokens", "5"], ["evaluate", text, "--stride", "16"]):
        assert main([*command, "--model", out]) == 0
        assert capsys.readouterr().out
    assert main(["inspect", out]) == 0
    assert "step-00000006" in capsys.readouterr().out
    assert main(["train", "--out", out, "--resume"]) == 0
    assert steps(out) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("switches", [["--recompute"], ["--compile", "--recompute"]])
def test_train_recompute_and_compile_keep_the_losses(switches, text, tmp_path):
    """With samples and evaluations; in a process without run-time type checks, which cannot be compiled."""
    arguments = ["--steps", "12", "--evaluate-every", "4", "--sample-every", "5", "--sample-tokens", "4", *SIZE]
    assert main(["train", text, "--out", f"{tmp_path}/plain", *arguments]) == 0
    command = [*COMMAND, "train", text, "--out", f"{tmp_path}/fast", *arguments, *switches]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    plain, fast = (log(f"{tmp_path}/{name}") for name in ("plain", "fast"))
    assert len(plain) == len(fast) == 12 + 3 + 3
    for one, other in zip(plain, fast, strict=True):
        assert other.get("loss") == pytest.approx(one.get("loss"), abs=1e-5) and other["kind"] == one["kind"]
        assert other.get("text") == one.get("text")
    assert (switches == ["--recompute"]) == (without_times(f"{tmp_path}/plain") == without_times(f"{tmp_path}/fast"))


def test_train_compile_without_a_compiler_is_refused(text, out, capsys, monkeypatch):
    from torch._inductor import cpp_builder

    def none_found():
        raise RuntimeError("no compiler")

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", none_found)
    assert main(["train", text, "--out", out, "--steps", "4", "--compile", *SIZE]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("error: compiling needs a C++ compiler and none was found; install g++")
    assert errors.count("\n") == 1 and not os.path.exists(out)


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_train_interrupted_saves_and_prints_how_to_resume(number, text, tmp_path):
    """The resumed run ends exactly as an uninterrupted one."""
    whole, out = str(tmp_path / "whole"), str(tmp_path / "my run")
    arguments = ["--steps", "60", "--save-every", "1000", "--evaluate-every", "20", "--sample-every", "20", *SIZE]
    arguments += ["--prompt", "the 17"]
    process = subprocess.Popen(
        [*COMMAND, "train", text, "--out", out, *arguments], stderr=subprocess.PIPE, preexec_fn=hear_ctrl_c, text=True
    )
    wait_for(lambda: os.path.exists(f"{out}/log.jsonl") and os.path.getsize(f"{out}/log.jsonl") > 0)
    with pytest.raises(Timeout):
        FileLock(Path(out, ".lock"), timeout=0).acquire()
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    found = re.fullmatch(
        r"Finishing this step, then saving ...\n"
        r"Saved at step (\d+). Go on with: (python -m llama_from_scratch train .*)\n\n",
        errors,
    )
    stopped, command = int(found[1]), found[2]
    assert stopped < 60 and [save.name for save in saves_in(Path(out))] == [f"step-{stopped:08}"]
    assert main(shlex.split(command)[3:]) == 0
    assert main(["train", text, "--out", whole, *arguments]) == 0
    assert without_times(out) == without_times(whole)


@pytest.mark.parametrize(
    "asked",
    [
        [],
        ["--keep", "9", "--save-every", "7", "--prompt", "it's a", "--compile", "--recompute", "--device", "cuda"],
        ["--tensorboard", "--wandb", "mine", "--threads", "1", "--tensor-parallel", "2", "--prompt=-x"],
    ],
)
def test_resume_command_keeps_the_options(asked):
    """All but the recipe, which the run holds. With a smaller --keep, for example, saves would be removed."""
    out = ["--out", "my runs/one"]
    command = shlex.split(_resume_command(parser().parse_args(["train", "a.txt", *out, "--dim", "32", *asked])))
    assert command[:3] == ["python", "-m", "llama_from_scratch"]
    assert parser().parse_args(command[3:]) == parser().parse_args(["train", *out, "--resume", *asked])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "0"], "--steps is 0; it must be a whole number of at least 1"),
        (["--steps", "many"], "--steps is 'many'; it must be a whole number"),
        (["--learning-rate", "nan"], "--learning-rate is nan; it must be a finite number of at least 0"),
        (["--schedule", "linear"], "--schedule is 'linear'; it must be one of cosine, wsd"),
        (["--decay", "5"], "--decay is 5; it must be 0 where the schedule is cosine"),
        (["--heads", "3"], "--dim is 16; it must be a multiple of --heads 3"),
        (["--save-every", "0"], "--save-every is 0; it must be a whole number of at least 1"),
        (["--threads", "0"], "--threads is 0; it must be from 1 to"),
        (["--device", "cuda:99"], "--device is cuda:99, and PyTorch sees"),
        (["--vocab-size", "9"], "vocab_size is 9; it must be at least 257"),
        (["--tokenizer", "no-such-model"], "there is no model 'no-such-model'"),
        (["--resume"], "there is no run in {out}; begin one there"),
    ],
)
def test_train_mistakes_are_one_line_and_leave_nothing(arguments, message, text, out, capsys):
    command = ["train", text, "--out", out, "--steps", "4", *SIZE, *arguments]
    try:
        code = main(command)
    except SystemExit as end:  # argparse's own
        code = end.code
    errors = capsys.readouterr().err
    assert code == 2
    assert errors.startswith("error: " + message.format(out=out)) and errors.count("\n") == 1
    assert not os.path.exists(out)


def test_train_with_too_long_a_prompt_is_refused(text, out, capsys):
    assert main(["train", text, "--out", out, "--steps", "2", "--prompt", "x" * 40, *SIZE]) == 2
    message = "error: the prompt of the samples has 40 tokens, and the context is 32; shorten --prompt\n"
    assert capsys.readouterr().err == message
    assert main(["train", "--out", out, "--resume", "--prompt", "the 17"]) == 0
    assert "--- a sample at step 2\nthe 17" in capsys.readouterr().out


def test_train_on_a_missing_text_is_refused(out, capsys):
    assert main(["train", "nowhere", "--out", out]) == 2
    assert capsys.readouterr().err.startswith("error: there is no text 'nowhere'; give a text file, a folder of .txt")
    assert not os.path.exists(out)


def test_train_reads_files_in_a_folder_called_txt(text, out, tmp_path):
    texts = tmp_path / "texts"
    (texts / "old.txt").mkdir(parents=True)
    shutil.copy(text, texts / "old.txt" / "a.txt")
    assert main(["train", str(texts), "--out", out, "--steps", "1", *SIZE]) == 0
    found = json.loads(Path(out, "data", "data.json").read_text())
    assert [document["name"] for document in found["train"]["documents"]] == [str(texts / "old.txt" / "a.txt")]


def test_train_without_text_is_refused(out, capsys):
    assert main(["train", "--out", out]) == 2
    assert (
        capsys.readouterr().err
        == "error: there is no text to train on; give a text file, a folder, or a named corpus\n"
    )


def test_train_second_run_in_a_folder_is_refused(text, out, capsys):
    command = ["train", text, "--out", out, "--steps", "2", *SIZE]
    assert main(command) == 0
    capsys.readouterr()
    assert main(command) == 2
    assert capsys.readouterr().err.startswith(f"error: {out} already holds a run; resume it, or")
    assert main([*command, "--resume"]) == 0  # the same settings, spelled out, are no contradiction
    assert main([*command, "--resume", "--dim", "32"]) == 2
    assert "--dim is 32, and the run in" in capsys.readouterr().err


def test_train_begin_of_a_locked_run_is_refused(text, out, capsys):
    """The staging folder of the first, which is alive, is not removed."""
    writing = Path(out).parent / f".{Path(out).name}.saving" / Path(out).name
    writing.mkdir(parents=True)
    command = ["train", text, "--out", out, "--steps", "1", *SIZE]
    with FileLock(Path(out).parent / f".{Path(out).name}.lock"):
        assert main(command) == 2
    assert capsys.readouterr().err == (
        f"error: another process is beginning a run in {out} now; wait until it has, or choose another folder\n"
    )
    assert writing.exists()
    assert main(command) == 0
    assert [path.name for path in Path(out).parent.iterdir()] == [Path(out).name]


def test_train_of_a_locked_run_is_refused(text, out, capsys):
    """test_train_interrupted_saves_and_prints_how_to_resume shows that a real process holds this lock."""
    assert main(["train", text, "--out", out, "--steps", "1", *SIZE]) == 0
    capsys.readouterr()
    with FileLock(Path(out, ".lock")):
        assert main(["train", "--out", out, "--resume"]) == 2
    message = f"error: {out} is being trained by another process; wait for it, or stop it first\n"
    assert capsys.readouterr().err == message


def test_train_save_on_a_full_disk_keeps_older_saves(text, out):
    """The system refuses files above 8 KB, as a full disk would; what was saved is not touched."""
    assert main(["train", text, "--out", out, "--steps", "4", "--save-every", "2", *SIZE]) == 0
    shutil.rmtree(f"{out}/saves/step-00000004")
    before = {path: path.read_bytes() for path in Path(out, "saves").rglob("*") if path.is_file()}
    assert {path.relative_to(f"{out}/saves").parts[0] for path in before} == {"step-00000002"}
    with files_of_at_most(8192):
        limited = in_process(["train", "--out", out, "--resume"])
    assert limited.code == 2
    assert re.fullmatch(
        rf"error: step 4 cannot be saved in {re.escape(out)}/saves \(.*(File too large|Errno 27).*\); "
        r"the save of step 2 is complete; make room, then resume\n",
        limited.err,
    )
    assert {path: path.read_bytes() for path in Path(out, "saves").rglob("*") if path.is_file()} == before
    assert main(["train", "--out", out, "--resume"]) == 0


def test_train_begin_on_a_full_disk_leaves_nothing(text, out):
    with files_of_at_most(8192):
        limited = in_process(["train", text, "--out", out, "--steps", "4", *SIZE])
    assert limited.code == 2
    assert re.fullmatch(r"error: .*(File too large|Errno 27).*\n", limited.err)
    assert not os.path.exists(out)


def test_train_on_a_terminal_shows_a_bar(text, out):
    leader, follower = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    process = subprocess.Popen(
        [*COMMAND, "train", text, "--out", out, "--steps", "50", *SIZE],
        stdout=follower,
        stderr=follower,
        env=environment,
    )
    os.close(follower)
    seen = ""
    while process.poll() is None or select.select([leader], [], [], 0)[0]:
        if select.select([leader], [], [], 0.2)[0]:
            try:
                seen += os.read(leader, 4096).decode(errors="replace")
            except OSError:
                break
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen)
    assert re.search(r"50/50 loss \d\.\d{3} +[\d,]+ tokens/s +0:00:00", plain)
    assert "step 50 of 50: held-out loss" in plain
    assert process.wait() == 0


def test_train_tensorboard_equals_the_log(text, out):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    command = ["--evaluate-every", "5", "--save-every", "4", "--tensorboard"]
    assert main(["train", text, "--out", out, "--steps", "10", *command, *SIZE]) == 0
    events = EventAccumulator(f"{out}/tensorboard").Reload()
    records = log(out)
    for kind in ("step", "held_out"):
        expected = [(r["step"], pytest.approx(r["loss"], rel=1e-6)) for r in records if r["kind"] == kind]
        assert [(event.step, event.value) for event in events.Scalars(f"{kind}/loss")] == expected


def test_train_wandb_receives_the_log(text, out, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert main(["train", text, "--out", out, "--steps", "2", "--wandb", "mine", *SIZE]) == 2
    assert capsys.readouterr().err == "error: Weights & Biases needs the package wandb; run: pip install wandb\n"

    class Tracker:
        opened, logged, closed = 0, [], 0

        def __init__(self, **given):
            Tracker.opened += 1

        def __enter__(self):
            return self

        def __exit__(self, *_):
            Tracker.closed += 1

        def log(self, numbers, step):
            self.logged.append((step, numbers))

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=Tracker))
    with FileLock(Path(out, ".lock")):  # another process trains it: nothing of its is opened
        assert main(["train", "--out", out, "--resume", "--wandb", "mine"]) == 2
    assert Tracker.opened == 0
    assert main(["train", "--out", out, "--resume", "--wandb", "mine"]) == 0
    assert Tracker.opened == Tracker.closed == 1
    assert [step for step, _ in Tracker.logged] == [1, 2, 2, 2]
    assert Tracker.logged[0][1]["step/loss"] == log(out)[0]["loss"]


def test_run_json_holds_the_recipe_and_versions(text, out):
    assert main(["train", text, "--out", out, "--steps", "2", "--seed", "9", *SIZE]) == 0
    stored = json.loads(open(f"{out}/run.json").read())
    assert stored["recipe"]["seed"] == 9 and stored["recipe"]["data"] == [text]
    assert {"python", "torch", "numpy", "safetensors"} <= stored["versions"].keys()
