"""Train a model on text."""

import argparse
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import MISSING, fields
from pathlib import Path
from types import FrameType

import torch
from torch.distributed.device_mesh import DeviceMesh

from ..fast.compile import check_compiler
from ..parallel import ranks
from ..training import Recipe, Routine, Run, begin, check_shares, fresh_state, reopen, resume, train
from ..training.faster import compile_training, recompute_blocks
from ..training.log import Record
from ..training.tokens import count_unspellable
from ..training.trackers import tensorboard, weights_and_biases
from . import options
from .terminal import console, note, write

EXAMPLES = """examples:
  your own text, a file or a folder of .txt files:
    PROGRAM train my-texts/ --out runs/mine --steps 500
  Shakespeare and the Bible in modern English, fetched once:
    PROGRAM train shakespeare web-bible --out runs/folio --steps 2000
  stopped by Ctrl-C, a crash or a power cut? Go on from the last save:
    PROGRAM train --out runs/mine --resume
  what it has learned, also while it is still learning:
    PROGRAM generate "Once upon a time" --model runs/mine --temperature 0.8
  a larger model, and a batch of 8 windows four times where memory is short:
    PROGRAM train my-texts/ --out runs/big --dim 512 --layers 8 --ffn-dim 1408 --batch-size 8 --accumulate 4
  a schedule that lets you decide late how long to train: stop this when it is good enough (Ctrl-C) ...
    PROGRAM train my-texts/ --out runs/wsd --steps 100000 --schedule wsd --decay 400
  ... and end it with the 400 steps in which the learning rate decays:
    PROGRAM train --out runs/wsd --resume --steps 5000
  four processes, each on a GPU of its own, that share the model and the batch (for CPUs, leave --device out):
    torchrun --nproc-per-node 4 -m llama_from_scratch train my-texts/ --out runs/four --device cuda
  ... and two of them to each product, for a model too large for one or a batch too small for four:
    torchrun --nproc-per-node 4 -m llama_from_scratch train my-texts/ --out runs/grid --tensor-parallel 2"""

GROUPS = {
    "the tokenizer": {
        "tokenizer": "use this model's tokenizer (default: one is learned from the training text)",
        "vocab_size": "tokens to learn",
        "errors": "for characters that the tokenizer cannot spell: strict stops there, replace writes U+FFFD (or ?), "
        "ignore leaves them out",
    },
    "the model": {
        "dim": "width of the residual stream",
        "layers": "blocks",
        "heads": "query heads in each",
        "kv_heads": "key/value heads, each shared by equally many query heads",
        "ffn_dim": "width inside the feed-forward",
        "context": "the longest sequence, in tokens",
        "tie_embeddings": "one matrix for the embedding and the output projection",
    },
    "how it learns": {
        "steps": "updates of the weights (default: 1000)",
        "batch_size": "windows of --context tokens in one pass",
        "accumulate": "passes for one update: the batch is --batch-size times this",
        "learning_rate": "at its largest, after the warm-up",
        "final_learning_rate": "in the last step, as a fraction of --learning-rate",
        "schedule": "cosine: half a cosine down; wsd: constant, then linear down in the last --decay steps",
        "warmup": "steps in which it grows to --learning-rate (at most a tenth of --steps unless given)",
        "decay": "steps of --schedule wsd in which it decays",
        "weight_decay": "of matrices",
        "clip": "largest norm of the gradient; a larger one is scaled down to it",
        "seed": "the same seed makes the same model on the same CPU with the same --threads; on a GPU not tested",
        "precision": "float32, or bfloat16 for the matrix products: faster on a GPU, seldom on a CPU",
    },
}
LOOKS = {
    "evaluate_every": "steps between evaluations on the held-out text",
    "evaluate_tokens": "tokens of it to evaluate on, at most",
    "sample_every": "steps between samples",
    "sample_tokens": "length of a sample",
    "prompt": "what samples begin with",
    "save_every": "steps between saves",
    "keep": "saves to keep",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "data", nargs="*", help="text files, folders of .txt files, or the named corpora shakespeare and web-bible"
    )
    parser.add_argument("--out", required=True, metavar="FOLDER", help="where the run is kept, and the model in it")
    parser.add_argument("--resume", action="store_true", help="go on from the last save in --out")
    recipe = {field.name: field for field in fields(Recipe)}
    for title, settings in GROUPS.items():
        group = parser.add_argument_group(title)
        for name, text in settings.items():
            _add(group, recipe[name], text)
    group = parser.add_argument_group("evaluating, sampling and saving")
    for field in fields(Routine):
        _add(group, field, LOOKS[field.name])
    group.add_argument("--tensorboard", action="store_true", help="also log for TensorBoard, in --out/tensorboard")
    group.add_argument("--wandb", metavar="PROJECT", help="also log to this project of Weights & Biases")
    group = parser.add_argument_group("where it runs")
    group.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ..., or mps (default: %(default)s)")
    group.add_argument(
        "--tensor-parallel",
        type=int,
        default=1,
        metavar="N",
        help="processes that share each product; all share the weights, and sets of N the batch (default: %(default)s)",
    )
    group.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: PyTorch decides)")
    group.add_argument("--compile", action="store_true", help="compile the blocks first (a minute): faster steps")
    group.add_argument(
        "--recompute", action="store_true", help="recompute activations in the backward pass: less memory, slower"
    )


def _add(group: argparse._ArgumentGroup, field, text: str) -> None:
    if field.type is bool:
        group.add_argument(options.option(field.name), action=argparse.BooleanOptionalAction, help=text)
        return
    kind = field.type if field.type in (int, float) else str
    known = field.default not in (MISSING, None, "")
    group.add_argument(
        options.option(field.name),
        type=kind,
        metavar={int: "N", float: "X", str: "TEXT"}[kind] if field.name != "tokenizer" else "NAME",
        help=text + (f" (default: {field.default})" if known else ""),
    )


def run(arguments: argparse.Namespace) -> None:
    with ranks.joined(arguments.device, f"go on with: {_resume_command(arguments)}") as device:
        finished = _train(arguments, device)
    if not finished:
        raise KeyboardInterrupt


def _resume_command(arguments: argparse.Namespace) -> str:
    """The command that resumes this run: with the same options, but for the recipe, which the run holds."""
    command = ["python"]
    if ranks.started_together():
        command = ["torchrun", "--nproc-per-node", os.environ["LOCAL_WORLD_SIZE"]]
    command += ["-m", "llama_from_scratch", "train", "--out", str(Path(arguments.out).expanduser()), "--resume"]
    defaults = argparse.ArgumentParser()
    add_arguments(defaults)
    settled = {"run", "out", "resume", *(field.name for field in fields(Recipe))}
    for name, value in vars(arguments).items():
        if name in settled or value == defaults.get_default(name):
            continue
        if value is True:
            command.append(options.option(name))
        elif str(value).startswith("-"):  # else it would be taken for an option
            command.append(f"{options.option(name)}={value}")
        else:
            command += [options.option(name), str(value)]
    return shlex.join(command)


def _train(arguments: argparse.Namespace, device: str) -> bool:
    """Train on this device; False if it was stopped."""
    given = _given(arguments, Recipe)
    routine = Routine(**_given(arguments, Routine))
    options.set_threads(arguments.threads)
    device = options.device(device)
    mesh = ranks.mesh(arguments.tensor_parallel, device)
    if arguments.compile:
        if arguments.tensor_parallel > 1:
            raise ValueError("--compile does not work with --tensor-parallel yet; leave out one of them")
        check_compiler(torch.device(device))
    folder = Path(arguments.out).expanduser()
    job = resume(reopen(folder), given) if arguments.resume else _begin(folder, given, mesh)
    state, tokenizer = fresh_state(job.recipe, device, mesh), job.tokenizer()
    if arguments.recompute:
        recompute_blocks(state.model)
    if arguments.compile:
        compile_training(state.objective)
    with _shows(arguments, job) as shows, _stop_signals() as stopped:
        for record in train(job, state, tokenizer, routine, stopped):
            for show in shows:
                show(record)
    finished = state.step == job.recipe.steps
    if ranks.first() and finished:
        note(f'Done. Try it: python -m llama_from_scratch generate "The" --model {folder} --temperature 0.8')
    elif ranks.first():
        note(f"Saved at step {state.step}. Go on with: {_resume_command(arguments)}")
    return finished


def _given(arguments: argparse.Namespace, settings: type) -> dict[str, object]:
    """The fields of a dataclass that were given on the command line."""
    found = {field.name: getattr(arguments, field.name) for field in fields(settings)}
    if "data" in found:
        found["data"] = tuple(found["data"])
    return {name: value for name, value in found.items() if value not in (None, ())}


def _begin(folder: Path, given: dict[str, object], mesh: DeviceMesh | None) -> Run:
    """Make a new run; the first process does so, the others wait for it."""
    steps = given.setdefault("steps", 1000)
    given.setdefault("warmup", min(Recipe.warmup, steps // 10))
    recipe = Recipe(**{"data": (), **given})  # raises if there is no text
    if recipe.tokenizer is None:  # else the vocabulary is not known yet
        check_shares(recipe, mesh)
    if ranks.first():
        with _preparing() as progress:
            run = begin(folder, recipe, progress)
        options.note_errors(count_unspellable(run.data), recipe.errors)
    ranks.wait()
    return reopen(folder)


@contextmanager
def _shows(arguments: argparse.Namespace, job: Run) -> Iterator[list[Callable[[Record], None]]]:
    """Functions that show a record; none in any process but the first."""
    with ExitStack() as stack:
        shows = []
        if ranks.first():
            shows.append(stack.enter_context(_showing(job)))
            if arguments.tensorboard:
                shows.append(stack.enter_context(tensorboard(job)))
            if arguments.wandb:
                shows.append(stack.enter_context(weights_and_biases(job, arguments.wandb)))
        yield shows


@contextmanager
def _stop_signals() -> Iterator:
    """A function that returns whether Ctrl-C or SIGTERM came. A second Ctrl-C raises KeyboardInterrupt."""
    asked = []

    def remember(number: int, frame: FrameType | None) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)
        if not ranks.started_together():  # torchrun sends it to all, also when one has died
            note("Finishing this step, then saving ...")

    old = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


@contextmanager
def _preparing() -> Iterator:
    """Progress bars on stderr for preparing the texts, if it is a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.progress import Progress

    with Progress(console=console(stderr=True), transient=True) as bar:
        tasks = {}

        def progress(what: str, done: int, total: int | None) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done)

        yield progress


@contextmanager
def _showing(job: Run) -> Iterator[Callable[[Record], None]]:
    """Shows a record: steps in a progress bar, if stderr is a terminal; evaluations and samples on stdout."""
    steps = job.recipe.steps

    def line(record: Record) -> None:
        if record["kind"] == "held_out":
            write(f"step {record['step']:,} of {steps:,}: held-out loss {record['loss']:.4f}\n")
        if record["kind"] == "sample":
            write(f"--- a sample at step {record['step']:,}\n{record['text']}\n---\n", replace=True)

    if not sys.stderr.isatty():
        yield line
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}  {task.fields[speed]:,.0f} tokens/s "),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console(stderr=True), redirect_stdout=sys.stdout.isatty()) as bar:
        task = bar.add_task("", total=steps, loss=float("nan"), speed=0)

        def both(record: Record) -> None:
            if record["kind"] == "step":
                speed = record["tokens_per_second"]
                bar.update(task, completed=record["step"], loss=record["loss"], speed=speed)
            line(record)

        yield both
