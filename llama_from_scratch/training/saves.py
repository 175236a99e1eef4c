"""Saves: everything that training needs to go on as if it had never stopped, and a model that can be used meanwhile."""

import json
import shutil
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ..checkpoint import CheckpointError, load_model, save_model
from ..checkpoint.files import reason, strict_json
from ..checkpoint.run_folder import saves_in
from ..model import Llama
from ..tokenizer import Tokenizer
from .files import remove_unfinished, written_whole
from .recipe import option
from .run import Run


@dataclass
class State:
    """All that changes while a model is trained. Where we are in the data and in the schedule follows from `step`."""

    model: Llama
    optimizer: torch.optim.Optimizer
    step: int = 0  # updates done
    seconds: float = 0.0  # spent on them


def save(run: Run, state: State, tokenizer: Tokenizer, log_bytes: int, keep: int) -> Path:
    """Write saves/step-…, then remove all but the newest `keep`. The model's part is a Hugging Face folder.

    Raises:
        OSError: if it cannot be written; the saves before it are as they were.
    """
    folder = run.saves / f"step-{state.step:08}"
    remove_unfinished(run.saves)
    try:
        with written_whole(folder) as unfinished:
            save_model(state.model, unfinished)
            tokenizer.save(unfinished)
            save_file(_tensors(state), unfinished / "training.safetensors")
            numbers = {"step": state.step, "seconds": state.seconds, "log_bytes": log_bytes}
            (unfinished / "training.json").write_text(json.dumps(numbers) + "\n", encoding="utf-8")
    except (OSError, SafetensorError, CheckpointError) as error:
        why = reason(error) if isinstance(error, OSError) else str(error).partition("; ")[0]
        why = why.partition(" cannot be written ")[2].strip("()") or why  # of a place that nobody has heard of
        kept = f"the save of step {last_step(run)} is whole" if saves_in(run.folder) else "there is no save before it"
        raise OSError(
            f"step {state.step} cannot be saved in {run.saves} ({why}); {kept}; make room, then give --resume"
        ) from None
    for old in saves_in(run.folder)[:-keep]:
        gone = old.rename(old.with_name(f".unfinished-{old.name}"))  # so that no half of it is ever taken for a save
        shutil.rmtree(gone)
    return folder


def restore(run: Run, state: State) -> int:
    """Bring a fresh state to the latest save, if there is one. Gives the length of the log then, in bytes.

    The numbers are copied into the tensors that are there: a tensor that lies elsewhere in memory can be added up in
    another order by the CPU's kernels, and the last bits would differ.

    Raises:
        ValueError: if the save is damaged.
    """
    saves = saves_in(run.folder)
    if not saves:
        return 0
    try:
        step, seconds, log_bytes = _numbers(strict_json(saves[-1] / "training.json"), last_step(run))
        tensors = load_file(saves[-1] / "training.safetensors")
        model = load_model(saves[-1])
        if model.config != state.model.config:
            raise ValueError("its model is not the one that run.json describes")
        state.model.load_state_dict(model.state_dict())
        _restore_tensors(state, tensors)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        why = (
            reason(error) if isinstance(error, OSError) else str(error).partition("; ")[0].replace(f"{saves[-1]}/", "")
        )
        raise ValueError(
            f"the save {saves[-1]} is damaged ({why}); remove that folder to go on from the save before it"
        ) from None
    state.step, state.seconds = step, seconds
    return log_bytes


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


def _tensors(state: State) -> dict[str, torch.Tensor]:
    """The optimizer's memory and the state of the random number generators, by name."""
    tensors = {"rng.cpu": torch.get_rng_state()}
    if (device := next(state.model.parameters()).device).type == "cuda":  # others are not woken for it
        tensors["rng.cuda"] = torch.cuda.get_rng_state(device)
    for weight, memory in state.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{weight}.{name}": tensor for name, tensor in memory.items()}
    return tensors


def _restore_tensors(state: State, tensors: dict[str, torch.Tensor]) -> None:
    expected = {"step": (), "exp_avg": None, "exp_avg_sq": None}  # AdamW's; None is the shape of the weight
    weights = [weight for group in state.optimizer.param_groups for weight in group["params"]]
    shapes = {
        f"optimizer.{i}.{name}": weight.shape if shape is None else torch.Size(shape)
        for i, weight in enumerate(weights)
        for name, shape in expected.items()
    }
    found = {name: tensor.shape for name, tensor in tensors.items() if name.startswith("optimizer.")}
    if wrong := [name for name in sorted(shapes | found) if shapes.get(name) != found.get(name)]:
        raise ValueError(f"training.safetensors: {wrong[0]} is missing, unknown or of another shape")
    chance, ours = tensors.get("rng.cpu"), torch.get_rng_state()
    if chance is None or (chance.shape, chance.dtype) != (ours.shape, ours.dtype):
        raise ValueError("training.safetensors: rng.cpu is missing or no state of random numbers")
    memory: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, weight, what = name.split(".")
            memory.setdefault(int(weight), {})[what] = tensor.clone()
    state.optimizer.load_state_dict({**state.optimizer.state_dict(), "state": memory})
    torch.set_rng_state(tensors["rng.cpu"])
    if weights[0].device.type == "cuda" and "rng.cuda" in tensors:
        torch.cuda.set_rng_state(tensors["rng.cuda"], weights[0].device)


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
