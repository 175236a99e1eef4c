"""Saves: all that is needed to resume training bit for bit, and a model that can be loaded meanwhile."""

import json
from contextlib import nullcontext
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch.distributed.device_mesh import DeviceMesh

from ..checkpoint import in_memory, load_model, save_model
from ..files.atomic import atomic_write, remove_atomically, remove_unfinished
from ..files.errors import ArgumentError, CheckpointError, is_out_of_memory, reason
from ..files.run_folder import saves_in
from ..files.strict_json import strict_json
from ..model import Llama
from ..parallel import ranks
from ..tokenizer import Tokenizer
from .loss import NextTokenLoss
from .run import Run
from .run_state import read_run_state, write_run_state

RUN_STATE = "training"  # the folder of a save that only training reads


@dataclass
class State:
    """All that changes during training. The position in the data and in the schedule follows from `step`."""

    objective: NextTokenLoss  # holds the model
    optimizer: torch.optim.Optimizer
    mesh: DeviceMesh | None = None  # the processes that share the model; None: this one alone
    step: int = 0  # updates done
    seconds: float = 0.0  # spent on them

    @property
    def model(self) -> Llama:
        return self.objective.model


def save(run: Run, state: State, tokenizer: Tokenizer, log_bytes: int, keep: int) -> Path:
    """Write saves/step-..., then remove all but the newest `keep`. Its model is a Hugging Face folder.

    Every process of the job calls this. The first writes the weights, gathered one by one; each writes its part of the
    optimizer state, to a disk that all of them see.

    Raises:
        OSError: if it cannot be written; earlier saves are unchanged.
    """
    folder, first = run.saves / f"step-{state.step:08}", ranks.first()
    if state.mesh is not None:
        state.model.reshard()  # after a pass without gradients the full weights are still gathered
    try:
        if first:
            remove_unfinished(run.saves)
        with atomic_write(folder) if first else nullcontext(folder) as unfinished:
            unfinished = Path(ranks.of_the_first(str(unfinished)))
            if first:
                save_model(state.model, unfinished)
                tokenizer.save(unfinished)
                numbers = {"step": state.step, "seconds": state.seconds, "log_bytes": log_bytes}
                (unfinished / "training.json").write_text(json.dumps(numbers) + "\n", encoding="utf-8")
            else:
                for weight in in_memory(state.model).tensors:
                    weight.read(torch.float32, "cpu")  # takes part in gathering it
            ranks.wait()  # the folder gets its name when the weights are complete, and must not exist before
            write_run_state(state.model, state.optimizer, unfinished / RUN_STATE)
    except (OSError, SafetensorError, CheckpointError) as error:
        why = reason(error) if isinstance(error, OSError) else getattr(error, "reason", str(error))
        kept = f"the save of step {last_step(run)} is complete" if last_step(run) else "there is no save before it"
        raise OSError(
            f"step {state.step} cannot be saved in {run.saves} ({why}); {kept}; make room, then resume"
        ) from None
    ranks.wait()  # until it has its name
    for old in saves_in(run.folder)[:-keep] if first else []:
        remove_atomically(old)
    return folder


def restore(run: Run, state: State) -> int:
    """Load the latest save, if there is one, into a fresh state. Returns the length of the log then, in bytes.

    Any number of processes can go on with what another number saved. The values are copied into the existing tensors:
    with tensors at other addresses, the CPU's kernels can add in another order, and the last bits would differ.

    Raises:
        ValueError: if the save is damaged.
        OSError: if the system does not let us read it; it may be undamaged.
        RuntimeError: if there is not enough memory, or another process of the job is lost.
    """
    if not (saves := saves_in(run.folder)):
        return 0
    folder = saves[-1]
    try:
        step, seconds, log_bytes = _numbers(strict_json(folder / "training.json"), last_step(run))
        model = load_model(folder)
        if model.config != state.model.config:
            raise ValueError("its model has another config than the one that is to be trained")
        _copy_weights(model, state)
        read_run_state(state.model, state.optimizer, folder / RUN_STATE, step)
    except FileNotFoundError as error:
        why = f"{Path(error.filename).name} is missing" if error.filename else reason(error)
        raise _damaged(folder, why) from None
    except OSError as error:
        raise OSError(
            f"the save {folder} cannot be read ({reason(error)}); check that its disk is there and that you may read "
            "it, then resume"
        ) from None
    except CheckpointError as error:
        raise _damaged(folder, error.problem) from None
    except (ValueError, SafetensorError) as error:
        raise _damaged(folder, str(error)) from None
    except RuntimeError as error:
        if is_out_of_memory(error) or ranks.is_lost_process(error):  # says nothing about the save
            raise
        raise _damaged(folder, str(error)) from None
    state.step, state.seconds = step, seconds
    return log_bytes


def _damaged(folder: Path, why: str) -> ValueError:
    why = why.replace(f"{folder}/", "")  # the message names the folder once
    return ValueError(f"the save {folder} is damaged ({why}); remove that folder to go on from the save before it")


@torch.no_grad()
def _copy_weights(model: Llama, state: State) -> None:
    loaded = dict(model.named_parameters())
    for name, weight in state.model.named_parameters():
        full = loaded[name]
        if state.mesh is not None:
            from ..parallel.apply import part_like

            full = part_like(weight, full)
        weight.copy_(full)


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


def resume(run: Run, given: dict[str, object]) -> Run:
    """The run with the settings `given`, which must be those that it has.

    Only `steps` and `decay` of a "wsd" schedule may differ, as long as the learning rate has not begun to decay in
    either plan: the run is then the same as if it had begun with them.

    Raises:
        ArgumentError: naming the setting.
        ValueError: if the text differs.
    """
    recipe, done = replace(run.recipe, **given), last_step(run)
    for name, value in given.items():
        old = getattr(run.recipe, name)
        if value == old:
            continue
        if name == "data":
            raise ValueError(
                f"the text is {' '.join(recipe.data)}, and the run in {run.folder} began with "
                f"{' '.join(run.recipe.data)}; leave it out to go on, or begin a new run in another folder"
            )
        settings = {"value": value, "old": old, "folder": run.folder}
        if not (run.recipe.schedule == recipe.schedule == "wsd" and name in ("steps", "decay")):
            raise ArgumentError(
                f"{{{name}}} is {{value!r}}, and the run in {{folder}} began with {{old!r}}; leave it out to go on, or "
                "begin a new run in another folder",
                **settings,
            )
        begins = min(plan.steps - plan.decay for plan in (run.recipe, recipe))
        if done > begins:
            raise ArgumentError(
                f"{{{name}}} cannot be changed from {{old}} to {{value}}: the run in {{folder}} is at step {done}, and "
                f"the learning rate decays from step {begins} on; begin a new run in another folder",
                **settings,
            )
    return Run(run.folder, recipe)
