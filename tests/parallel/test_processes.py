"""Many processes on gloo compute what one does; they stop, are killed, and go on, also as another number of processes.

Never run on GPUs: what depends on nccl is not tested here.
"""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from parallel_jobs import MESHES, MODELS, MUTATIONS
from places import ROOT
from programs import result_of

from llama_from_scratch import PRESETS
from llama_from_scratch.cli.main import main, parser
from llama_from_scratch.cli.train import EXAMPLES
from llama_from_scratch.files.run_folder import saves_in
from llama_from_scratch.parallel.plan import PLAN, check_batch, check_tensor, shapes
from llama_from_scratch.training.log import read_log

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
TORCHRUN += ["-m", "llama_from_scratch"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
SIZE = "--vocab-size 300 --dim 16 --layers 1 --heads 4 --kv-heads 2 --ffn-dim 24 --context 32 --batch-size 4".split()


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    """The program of parallel_jobs.py, run once for all tests of this file."""
    return result_of("parallel_jobs.py", tmp_path_factory.mktemp("jobs"))


# --- the same numbers ----------------------------------------------------------------------------------------------

# Largest difference in parts of the largest number of a tensor; of losses and norms relative. Processes sum in another
# order, so a sum differs by some steps of fp32, more of them the longer the sum. Seen, on two kinds of processor: 2
# for a loss, 11 for logits, 18 for gradients and the norm of all gradients after a step. Allowed is five times that.
# "weights" is how far two steps of AdamW moved: it divides by the size of a gradient, also where that is hardly more
# than rounding.
EPS = torch.finfo(torch.float32).eps
TOLERANCE = {"logits": 64 * EPS, "loss": 16 * EPS, "gradients": 96 * EPS, "norm": 96 * EPS, "weights": 5e-3}
TOLERANCE |= {"later loss": 16 * EPS, "held out": 16 * EPS, "loss after the text": 16 * EPS}
CASES = [(mesh, model) for mesh in MESHES for model in MODELS]
CASES += [(mesh, "tied, logits in parts") for mesh in ("FSDP 2", "TP 2")]


@pytest.mark.parametrize(("mesh", "model"), CASES)
def test_many_processes_compute_what_one_does(mesh, model, jobs):
    """In fp32, texts of 72 tokens, grouped queries, random norm weights, unequally many targets on each rank."""
    found = jobs[mesh][model]
    assert found["same text"]
    assert found.keys() == {*TOLERANCE, "same text"}
    assert {name: found[name] for name in TOLERANCE if not found[name] <= TOLERANCE[name]} == {}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_each_known_bug_shows(mutation, jobs):
    found = jobs["mutants"][mutation]
    assert max(value / TOLERANCE[name] for name, value in found.items()) > 30


def test_bfloat16_and_recomputing_under_fsdp(jobs):
    """Rows are summed up in another order, and bfloat16 rounds to parts of 2^-8: so that much of a gradient."""
    found = jobs["recomputed"]
    assert found["loss"] < 1e-5 < found["loss in fp32"]  # it was bfloat16
    assert found["gradients"] < 2**-7
    assert found["same bits"] and found["calls"] == [2, 4]  # of a block, for two micro-batches


@pytest.mark.parametrize("mesh", [(4, 1), (2, 2)])
def test_each_rank_has_the_part_that_the_drawing_of_the_plan_shows(mesh, jobs):
    assert jobs[f"plan {mesh}"] == dict.fromkeys(PLAN, True)


# --- saves ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("life", ["two", "grid"])
def test_as_many_processes_go_on_to_the_same_bits(life, jobs):
    """One of them was asked to stop; all did, at the same step."""
    assert jobs[f"life {life}, stopped"] == jobs[f"life {life}"]


@pytest.mark.parametrize("life", ["two", "grid", "one, grid, two", "tensor, four, one"])
def test_another_number_of_processes_goes_on_with_the_same_run(life, jobs):
    one, many = jobs["life one"], jobs[f"life {life}"]
    assert len(one) == len(many)
    for expected, found in zip(one, many, strict=True):
        close = {
            name: pytest.approx(expected[name], rel=TOLERANCE["norm"])
            for name in ("loss", "gradient_norm")
            if name in expected
        }
        assert found == expected | close  # also what it wrote


# --- the command line ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    file = tmp_path_factory.mktemp("text") / "text.txt"
    file.write_text("\n".join(f"the {i} quick brown foxes jump over {i * i} lazy dogs" for i in range(300)))
    return str(file)


def wait_for(condition, seconds=180):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def start(command: list[str]) -> subprocess.Popen:
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)


def steps(out: Path) -> list[int]:
    return [r["step"] for r in read_log(out / "log.jsonl") if r["kind"] == "step"]


def test_a_killed_process_ends_the_job_and_it_goes_on(text, tmp_path):
    """A real kill (SIGKILL) of the second of two processes, a resume, a request to stop, and an end in one process."""
    out = tmp_path / "run"
    settings = ["--steps", "100000", "--schedule", "wsd", "--warmup", "2", "--save-every", "20", *SIZE]
    # torchrun ends the first process as soon as it looks; rarely, so that the process says what it noticed itself.
    command = [*TORCHRUN, "train", text, "--out", str(out), *settings]
    command[3:3] = ["--monitor-interval", "5"]
    job = start(command)
    wait_for(lambda: saves_in(out) or job.poll() is not None)
    workers = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()
    ranks = [dict(e.split("=", 1) for e in _environment(worker))["RANK"] for worker in workers]
    os.kill(int(workers[ranks.index("1")]), signal.SIGKILL)
    killed = time.monotonic()
    _, errors = job.communicate(timeout=120)
    assert time.monotonic() - killed < 30
    assert job.returncode != 0
    ours = [line for line in errors.splitlines() if line.startswith("error: ")]
    command = "torchrun --nproc-per-node 2 -m llama_from_scratch train --out {out} --resume --save-every 20"
    assert ours == [
        "error: another process of this job has ended, killed or short of memory perhaps; go on with: "
        + command.format(out=out)
    ]
    assert "/llama_from_scratch/" not in errors  # no traceback of ours

    saved = int(saves_in(out)[-1].name.removeprefix("step-"))
    job = start([*TORCHRUN, *shlex.split(command.format(out=out))[5:]])
    wait_for(lambda: steps(out)[-1] > saved + 30 or job.poll() is not None)
    job.send_signal(signal.SIGINT)
    _, errors = job.communicate(timeout=120)
    stopped = int(re.search(r"^Saved at step (\d+)\. Go on with: (.*)$", errors, re.MULTILINE)[1])
    assert saves_in(out)[-1].name == f"step-{stopped:08}"
    assert steps(out) == list(range(1, stopped + 1))
    assert main(["train", "--out", str(out), "--resume", "--steps", str(stopped + 5)]) == 0
    assert steps(out) == list(range(1, stopped + 6))


def _environment(process: str) -> list[str]:
    return [entry for entry in Path(f"/proc/{process}/environ").read_bytes().decode().split("\0") if "=" in entry]


def test_what_all_processes_refuse_is_said_once(text, tmp_path):
    out = tmp_path / "run"
    job = start([*TORCHRUN, "train", text, "--out", str(out), *SIZE, "--kv-heads", "1", "--tensor-parallel", "2"])
    _, errors = job.communicate(timeout=120)
    assert job.returncode != 0
    ours = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert len(ours) == 1 and ours[0].startswith("error: --tensor-parallel 2 cannot share out 1 key/value heads evenly")
    assert not out.exists()


def test_what_the_first_process_alone_refuses_is_said_once(text, tmp_path):
    """The other waits for it, and only learns that it is gone."""
    out = tmp_path / "run"
    out.mkdir()
    (out / "run.json").write_text("{}")
    job = start([*TORCHRUN, "train", text, "--out", str(out), *SIZE])
    _, errors = job.communicate(timeout=120)
    assert job.returncode != 0
    ours = [line for line in errors.splitlines() if line.startswith("error:")]
    assert ours == [f"error: {out} already holds a run; resume it, or choose another folder"]


def test_one_process_has_nobody_to_share_with(text, tmp_path, capsys):
    assert main(["train", text, "--out", str(tmp_path / "run"), *SIZE, "--tensor-parallel", "2"]) == 2
    assert capsys.readouterr().err == (
        "error: --tensor-parallel is 2, and it must divide the processes, which are 1; "
        "start as many with torchrun --nproc-per-node\n"
    )


@pytest.mark.parametrize("tensor", [0, -1])
def test_a_number_of_processes_that_is_none(tensor, text, tmp_path, capsys):
    assert main(["train", text, "--out", str(tmp_path / "run"), *SIZE, "--tensor-parallel", str(tensor)]) == 2
    assert capsys.readouterr().err.startswith(f"error: --tensor-parallel is {tensor}; it must be a whole number of at")


def test_examples_of_torchrun_are_commands_that_there_are():
    """They want GPUs, or time; the tests above run what is like them."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.findall(r"^ +torchrun --nproc-per-node \d -m llama_from_scratch (.+)$", readme + EXAMPLES, re.MULTILINE)
    assert len(found) == 4
    for command in found:
        parser().parse_args(command.split())


# --- the plan ------------------------------------------------------------------------------------------------------


def test_what_cannot_be_shared_out():
    eight = PRESETS["Llama-3.1-8B"]
    for tensor in (1, 2, 4, 8):
        check_tensor(eight, tensor)
    with pytest.raises(ValueError, match="16 cannot share out 8 key/value heads evenly; take 8, or"):
        check_tensor(eight, 16)
    with pytest.raises(ValueError, match="2 cannot share out 3 key/value heads evenly; change the model, or"):
        check_tensor(PRESETS["SmolLM2-135M"], 2)
    check_batch(12, 4)
    with pytest.raises(ValueError, match="batch_size is 10, .* multiple of the 4 among which .*, such as 12"):
        check_batch(10, 4)


def test_the_plan_can_be_drawn():
    import matplotlib

    matplotlib.use("Agg")
    from llama_from_scratch.plots import sharding

    matrices = shapes(PRESETS["Llama-3.1-8B"])
    assert matrices["k_proj"] == (1024, 4096) and matrices.keys() < PLAN.keys()
    sharding.draw_plan(matrices, {"both": ({"data": 2, "tensor": 2}, PLAN)})
