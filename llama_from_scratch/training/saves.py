"""Saves: everything that training needs to go on as if it had never stopped, and a model that can be used meanwhile."""

import json
import shutil
from contextlib import nullcontext
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch.distributed.device_mesh import DeviceMesh

from ..checkpoint import in_memory, load_model, save_model
from ..files.atomic import remove_unfinished, written_whole
from ..files.errors import CheckpointError, reason
from ..files.run_folder import saves_in
from ..files.strict_json import strict_json
from ..model import Llama
from ..parallel import ranks
from ..tokenizer import Tokenizer
from .loss import NextTokenLoss
from .recipe import option
from .run import Run
from .run_state import read_memory, write_memory

MEMORY = "training"  # the folder of a save with what only training needs


@dataclass
class State:
    """All that changes while a model is trained. Where we are in the data and in the schedule follows from `step`."""

    objective: NextTokenLoss  # holds the model
    optimizer: torch.optim.Optimizer
    mesh: DeviceMesh | None = None  # the processes that share the model; None if this one has it all
    step: int = 0  # updates done
    seconds: float = 0.0  # spent on them

    @property
    def model(self) -> Llama:
        return self.objective.model


def save(run: Run, state: State, tokenizer: Tokenizer, log_bytes: int, keep: int) -> Path:
    """Write saves/step-…, then remove all but the newest `keep`. The model's part is a Hugging Face folder.

    Every process of the job takes part. The first writes the weights, gathered one by one, and each the part of the
    optimizer's memory that it has, to a disk that all of them see.

    Raises:
        OSError: if it cannot be written; the saves before it are as they were.
    """
    folder, first = run.saves / f"step-{state.step:08}", ranks.first()
    if state.mesh is not None:
        state.model.reshard()  # where a pass without a gradient left the whole weights
    try:
        if first:
            remove_unfinished(run.saves)
        with written_whole(folder) if first else nullcontext(folder) as unfinished:
            unfinished = Path(ranks.of_the_first(str(unfinished)))
            if first:
                save_model(state.model, unfinished)
                tokenizer.save(unfinished)
                numbers = {"step": state.step, "seconds": state.seconds, "log_bytes": log_bytes}
                (unfinished / "training.json").write_text(json.dumps(numbers) + "\n", encoding="utf-8")
            else:
                for weight in in_memory(state.model).tensors:
                    weight.read(torch.float32, "cpu")  # takes part in gathering it
            write_memory(state.model, state.optimizer, unfinished / MEMORY)
    except (OSError, SafetensorError, CheckpointError) as error:
        why = reason(error) if isinstance(error, OSError) else str(error).partition("; ")[0]
        # The place that is "cannot be written" is one that nobody has heard of.
        why = why.partition(" cannot be written ")[2].removeprefix("(").removesuffix(")") or why
        kept = f"the save of step {last_step(run)} is whole" if saves_in(run.folder) else "there is no save before it"
        raise OSError(
            f"step {state.step} cannot be saved in {run.saves} ({why}); {kept}; make room, then give --resume"
        ) from None
    ranks.wait()  # until it has its name
    for old in saves_in(run.folder)[:-keep] if first else []:
        gone = old.rename(old.with_name(f".unfinished-{old.name}"))  # so that no half of it is ever taken for a save
        shutil.rmtree(gone)
    return folder


def restore(run: Run, state: State) -> int:
    """Bring a fresh state to the latest save, if there is one. Gives the length of the log then, in bytes.

    Any number of processes can go on with what another number saved.
    The numbers are copied into the tensors that are there: a tensor that lies elsewhere in memory can be added up in
    another order by the CPU's kernels, and the last bits would differ.

    Raises:
        ValueError: if the save is damaged.
        OSError: if the system does not let us read it, which does not mean that it is damaged.
        RuntimeError: if there is not enough memory, or another process of the job is lost.
    """
    saves = saves_in(run.folder)
    if not saves:
        return 0
    try:
        step, seconds, log_bytes = _numbers(strict_json(saves[-1] / "training.json"), last_step(run))
        model = load_model(saves[-1])
        if model.config != state.model.config:
            raise ValueError("its model is not the one that run.json describes")
        _copy_weights(model, state)
        read_memory(state.model, state.optimizer, saves[-1] / MEMORY, step)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        # Lack of memory, or of another process, says nothing about the save.
        if ranks.tells_of_a_lost_process(error) or (isinstance(error, RuntimeError) and "allocate" in str(error)):
            raise
        if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
            raise OSError(
                f"the save {saves[-1]} cannot be read ({reason(error)}); see that its disk is there and that you may "
                "read it, then give --resume again"
            ) from None
        why = (
            reason(error) if isinstance(error, OSError) else str(error).partition("; ")[0].replace(f"{saves[-1]}/", "")
        )
        raise ValueError(
            f"the save {saves[-1]} is damaged ({why}); remove that folder to go on from the save before it"
        ) from None
    state.step, state.seconds = step, seconds
    return log_bytes


@torch.no_grad()
def _copy_weights(model: Llama, state: State) -> None:
    weights = dict(model.named_parameters())
    for name, weight in state.model.named_parameters():
        whole = weights[name]
        if state.mesh is not None:
            from ..parallel.apply import part_like

            whole = part_like(weight, whole)
        weight.copy_(whole)


def _numbers(content: object, step: int) -> tuple[int, float, int]:
    """Step, seconds and length of the log in training.json of the save of this step."""
    if not isinstance(content, dict) or content.keys() != {"step", "seconds", "log_bytes"}:
        raise ValueError("training.json does not hold step, seconds and log_bytes")
    if type(content["step"]) is not int or content["step"] != step:
        raise ValueError(f"training.json says that its step is {content['step']!r}")
    seconds, log_bytes = content["seconds"], content["log_bytes"]
    if type(seconds) not in (int, float) or not 0 <= seconds < inf or type(log_bytes) is not int or log_bytes < 0:
        raise ValueError(f"training.json says that seconds are {seconds!r} and log_bytes {log_bytes!r}")
    return step, seconds, log_bytes


def last_step(run: Run) -> int:
    """The step of the latest save; 0 if there is none."""
    saves = saves_in(run.folder)
    return int(saves[-1].name.removeprefix("step-")) if saves else 0


def _said(value: object) -> str:
    return " ".join(value) if isinstance(value, tuple) else repr(value)


def resume(run: Run, given: dict[str, object]) -> Run:
    """The run with the settings `given`, which must be those that it has.

    Only `steps` and `decay` of a "wsd" schedule may differ, as long as the learning rate has not begun to fall, neither
    as it was planned nor as it is planned now: the run is then the same as if it had begun with them.

    Raises:
        ValueError: naming the setting.
    """
    recipe, done = replace(run.recipe, **given), last_step(run)
    for name, value in given.items():
        old = getattr(run.recipe, name)
        if value == old:
            continue
        if not (run.recipe.schedule == recipe.schedule == "wsd" and name in ("steps", "decay")):
            what = "the text" if name == "data" else option(name)
            raise ValueError(
                f"{what} is {_said(value)}, and the run in {run.folder} began with {_said(old)}; "
                "leave it out to go on, or begin a new run with another --out"
            )
        begins = min(plan.steps - plan.decay for plan in (run.recipe, recipe))
        if done > begins:
            raise ValueError(
                f"{option(name)} cannot be changed from {old} to {value}: the run in {run.folder} is at step {done}, "
                f"and the learning rate falls from step {begins} on; begin a new run with another --out"
            )
    return Run(run.folder, recipe)
