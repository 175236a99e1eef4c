"""A program for tests/training/test_resume.py: trains tiny models in processes that are killed, and reports their ends.

It imports torch once and forks for every process, so that twenty kills take seconds.

    python training_lives.py FOLDER

writes one JSON object to stdout: for each way of living, the end of the run, and how many kills hit what.
"""

import hashlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from llama_from_scratch.training import Recipe, Routine, begin, fresh_state, reopen, train
from llama_from_scratch.training.log import Log, read_log

RECIPE = dict(
    vocab_size=300,
    dim=16,
    layers=1,
    heads=4,
    kv_heads=2,
    ffn_dim=24,
    context=16,
    batch_size=3,
    accumulate=2,
    warmup=16,
    learning_rate=5e-3,
    seed=3,
)
ROUTINE = Routine(evaluate_every=7, evaluate_tokens=200, sample_every=11, sample_tokens=5, save_every=1, keep=2)
MUTATIONS = ("generator", "optimizer", "weights", "position", "schedule", "log")
MEMORY_FILE = "training/shard-00001-model-00001-of-00001.safetensors"  # what only training needs
TIMES = ("seconds", "tokens_per_second")


def live(folder: Path, mutation: str = "", die_after: int | None = None) -> None:
    """One process' part of a run: from its latest save to its end, or until it kills itself after so many records."""
    run = reopen(folder)
    state = fresh_state(run.recipe)
    # Noise from the global generator, as dropout has it: without it nothing would depend on that generator's state.
    state.model.embedding.register_forward_hook(lambda _module, _inputs, output: F.dropout(output, 0.2))
    _mutate(mutation, run, state)
    for n, _ in enumerate(train(run, state, run.tokenizer(), ROUTINE)):
        if n == die_after:
            os.kill(os.getpid(), signal.SIGKILL)


def _mutate(mutation: str, run, state) -> None:
    """Plant one of the bugs that resumed training is known for."""
    from llama_from_scratch.training import loop, run_state, saves

    original = loop.restore
    if mutation == "generator":
        run_state.torch.set_rng_state = lambda _: None
    elif mutation == "optimizer":
        state.optimizer.load_state_dict = lambda _: None
    elif mutation == "weights":
        saves._copy_weights = lambda *_: None
    elif mutation in ("position", "schedule"):
        begun = {}

        def restore(run, state):
            length = original(run, state)
            begun["step"] = state.step
            return length

        loop.restore = restore
        if mutation == "position":
            get = loop.Batches.__getitem__
            loop.Batches.__getitem__ = lambda self, i: get(self, i - begun["step"] * RECIPE["accumulate"])
        else:
            rate = Recipe.learning_rate_at
            Recipe.learning_rate_at = lambda self, step: rate(self, step - begun["step"])
    elif mutation == "log":
        loop.Log = lambda path, _length: Log(path, path.stat().st_size)


def fork(*arguments) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        live(*arguments)
        os._exit(0)
    except BaseException as error:
        print(type(error), error, file=sys.stderr, flush=True)
        os._exit(1)


def wait(pid: int) -> str:
    _, status = os.waitpid(pid, 0)
    return "killed" if os.WIFSIGNALED(status) else "done" if os.waitstatus_to_exitcode(status) == 0 else "failed"


def ending(folder: Path) -> dict[str, object]:
    """Everything that must be equal: weights, optimizer and generators bit for bit, and the log but for its times."""
    save = sorted((folder / "saves").glob("step-*"))[-1]
    memory = hashlib.sha256()
    for name, tensor in sorted(load_file(save / MEMORY_FILE).items()):  # the file's head is written in any order
        memory.update(name.encode() + tensor.numpy().tobytes())
    weights = hashlib.sha256((save / "model.safetensors").read_bytes())
    digests = {"weights": weights.hexdigest(), "memory": memory.hexdigest()}
    log = [{k: v for k, v in record.items() if k not in TIMES} for record in read_log(folder / "log.jsonl")]
    return {**digests, "step": save.name, "log": log}


def steps_saved(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("saves/step-*"))


def kill_twenty_times(folder: Path, seconds_a_step: float) -> dict[str, object]:
    """Odd processes are killed while they save, the others at any time; the last one trains to the end."""
    chance, during_save, reached = random.Random(), 0, []
    for death in range(20):
        saved, logged, pid = steps_saved(folder), (folder / "log.jsonl").stat().st_size, fork(folder)
        if death % 2:
            while steps_saved(folder) == saved or not any(folder.glob("saves/.step-*.saving")):
                time.sleep(0.0005)
            time.sleep(chance.uniform(0, seconds_a_step / 10))
        else:
            while (folder / "log.jsonl").stat().st_size == logged:
                time.sleep(0.0005)
            time.sleep(chance.uniform(0, 4 * seconds_a_step))
        os.kill(pid, signal.SIGKILL)
        assert wait(pid) == "killed", "it was finished before it could be killed"
        during_save += any(folder.glob("saves/.step-*.saving"))
        reached.append(max(steps_saved(folder), default=""))
    assert wait(fork(folder)) == "done"
    return {**ending(folder), "during a save": during_save, "reached": reached}


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    text = folder / "text.txt"
    text.write_text("\n".join(f"the {i} quick brown foxes jump over {i * i} lazy dogs" for i in range(300)))

    def fresh(name: str, steps: int) -> Path:
        return begin(folder / name, Recipe(data=(str(text),), steps=steps, **RECIPE)).folder

    long, short = fresh("calm", steps=60), fresh("calm, short", steps=16)
    live(fresh("here", steps=16))  # all that is imported late is imported now, once for all lives
    results = {}
    started = time.monotonic()
    for name, run in (("calm", long), ("calm, short", short)):
        assert wait(fork(run)) == "done"
        results[name] = ending(run)
    results["killed"] = kill_twenty_times(fresh("killed", steps=60), (time.monotonic() - started) / 76)
    for mutation in ("", *MUTATIONS):
        run = fresh(f"mutant {mutation}", steps=16)
        ends = [wait(fork(run, mutation, die_after)) for die_after in (7, 6, None)]
        assert ends == ["killed", "killed", "done"], (mutation, ends)
        results[f"mutant {mutation}"] = ending(run)
    print(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
