"""The part of a save that only training needs: optimizer state and RNG state. Each process writes its own part.

The files are safetensors. (torch.distributed.checkpoint writes them; it also knows a format that is pickled, which is
not used.) Each file says which part of which tensor it holds, so any number of processes can read what another number
wrote.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from ..model import Llama

MOMENTS = ("exp_avg", "exp_avg_sq")  # AdamW's names. It also counts its steps, which are those of the run.


def write_run_state(model: Llama, optimizer: torch.optim.Optimizer, folder: Path) -> None:
    """Write the part of each process into a new folder; all processes call this.

    Only parameters that the optimizer updates have a state; a frozen one has none.

    Raises:
        OSError, SafetensorError: if a file cannot be written.
    """
    from torch.distributed.checkpoint import save
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter

    tensors: dict[str, Tensor] = {}
    for name, weight in _updated(model, optimizer).items():
        state = optimizer.state.get(weight, {})  # empty before its first gradient, which is the same as zeros
        for moment in MOMENTS:
            tensors[f"{name}.{moment}"] = state[moment] if moment in state else torch.zeros_like(weight)
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    with _plain_errors():
        save(tensors | _rng_state(model), storage_writer=writer)


def read_run_state(model: Llama, optimizer: torch.optim.Optimizer, folder: Path, step: int) -> None:
    """Load the optimizer state and RNG state that were written after `step` updates; all processes call this.

    Raises:
        OSError, SafetensorError, ValueError: if a file cannot be read, or does not hold what it should.
    """
    from torch.distributed.checkpoint import load
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

    updated = _updated(model, optimizer)
    moments = {weight: {moment: torch.zeros_like(weight) for moment in MOMENTS} for weight in updated.values()}
    found, rng = _found(folder), _rng_state(model)
    if "rng.cuda" not in found:
        rng.pop("rng.cuda", None)  # saved on a CPU; on a GPU its generator begins with the seed
    wanted = {f"{name}.{moment}": moments[weight][moment] for name, weight in updated.items() for moment in MOMENTS}
    wanted |= rng
    _check(wanted, found, folder)
    with _plain_errors():
        load(wanted, storage_reader=HuggingFaceStorageReader(str(folder)))
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    states = {i: {"step": torch.tensor(float(step)), **moments[weight]} for i, weight in enumerate(weights)}
    optimizer.load_state_dict({**optimizer.state_dict(), "state": states})
    torch.set_rng_state(rng["rng.cpu"])
    if "rng.cuda" in rng:
        torch.cuda.set_rng_state(rng["rng.cuda"], next(model.parameters()).device)


def _updated(model: Llama, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The parameters that the optimizer updates, by name."""
    weights = {weight for group in optimizer.param_groups for weight in group["params"]}
    return {name: weight for name, weight in model.named_parameters() if weight in weights}


def _rng_state(model: Llama) -> dict[str, Tensor]:
    """The state of the random number generators, which is the same in all processes."""
    state = {"rng.cpu": torch.get_rng_state()}
    if (device := next(model.parameters()).device).type == "cuda":  # else CUDA is not initialised for it
        state["rng.cuda"] = torch.cuda.get_rng_state(device)
    return state


def _found(folder: Path) -> dict[str, Any]:
    """What the files say about the tensors in them, by name."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

    if not any(folder.glob("*.safetensors")):
        raise ValueError(f"its folder {folder.name}/ is missing or empty")
    try:
        return HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    except (OSError, SafetensorError):
        raise
    except Exception:  # what a file says about its parts can be any JSON
        raise ValueError(f"a file in {folder.name}/ does not say which parts of tensors it holds") from None


def _check(wanted: dict[str, Tensor], found: dict[str, Any], folder: Path) -> None:
    """Raise ValueError unless the files hold these tensors and no others, and every part of them."""
    for name in sorted(wanted.keys() | found.keys()):
        tensor, stored = wanted.get(name), found.get(name)
        if name == "rng.cuda" and tensor is None:  # saved on a GPU, loaded elsewhere
            continue
        if tensor is None or stored is None or (tensor.shape, tensor.dtype) != (stored.size, stored.properties.dtype):
            raise ValueError(f"{folder.name}/: {name} is missing, unknown or of another shape")
        if sum(chunk.sizes.numel() for chunk in stored.chunks) != tensor.numel():
            raise ValueError(f"{folder.name}/: a part of {name} is missing")


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Raise the first of the errors that the processes met; the exception that collects them is not an `Exception`."""
    from torch.distributed.checkpoint.api import CheckpointException

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is .* single process")  # intended
        try:
            yield
        except CheckpointException as collected:
            error, _ = next(iter(collected.failures.values()))
            raise error from None
