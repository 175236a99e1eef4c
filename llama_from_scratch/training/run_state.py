"""What only training needs of a save: the optimizer's memory and the state of chance, each process writing its part.

The files are safetensors (torch.distributed.checkpoint writes them, and also knows a format that is pickled). Each says
which part of which tensor it holds, so that any number of processes can read what another number wrote.
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


def write_memory(model: Llama, optimizer: torch.optim.Optimizer, folder: Path) -> None:
    """Write the part of each process into a new folder; all take part.

    Raises:
        OSError, SafetensorError: if a file cannot be written.
    """
    from torch.distributed.checkpoint import save
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter

    tensors = {
        f"{name}.{moment}": optimizer.state[weight][moment]
        for name, weight in model.named_parameters()
        for moment in MOMENTS
    }
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    with _plain_errors():
        save(tensors | _chance(model), storage_writer=writer)


def read_memory(model: Llama, optimizer: torch.optim.Optimizer, folder: Path, step: int) -> None:
    """Give an optimizer and the generators of random numbers what was written after `step` updates; all take part.

    Raises:
        OSError, SafetensorError, ValueError: if a file cannot be read, or does not hold what it should.
    """
    from torch.distributed.checkpoint import load
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    memory = {weight: {moment: torch.zeros_like(weight) for moment in MOMENTS} for weight in weights}
    found, chance = _found(folder), _chance(model)
    if "rng.cuda" not in found:
        chance.pop("rng.cuda", None)  # it was saved elsewhere and goes on on a GPU, whose chance begins with the seed
    wanted = {f"{name}.{what}": memory[weight][what] for name, weight in model.named_parameters() for what in MOMENTS}
    wanted |= chance
    _check(wanted, found, folder)
    with _plain_errors():
        load(wanted, storage_reader=HuggingFaceStorageReader(str(folder)))
    counted = {i: {"step": torch.tensor(float(step)), **memory[weight]} for i, weight in enumerate(weights)}
    optimizer.load_state_dict({**optimizer.state_dict(), "state": counted})
    torch.set_rng_state(chance["rng.cpu"])
    if "rng.cuda" in chance:
        torch.cuda.set_rng_state(chance["rng.cuda"], weights[0].device)


def _chance(model: Llama) -> dict[str, Tensor]:
    """The state of the random number generators, which is the same in all processes."""
    chance = {"rng.cpu": torch.get_rng_state()}
    if (device := next(model.parameters()).device).type == "cuda":  # others are not woken for it
        chance["rng.cuda"] = torch.cuda.get_rng_state(device)
    return chance


def _found(folder: Path) -> dict[str, Any]:
    """What the files say about the tensors in them, by name."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

    try:
        return HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    except (OSError, SafetensorError):
        raise
    except Exception:  # what a file says about its parts is JSON of any kind
        raise ValueError(f"a file in {folder.name}/ does not say which parts of tensors it holds") from None


def _check(wanted: dict[str, Tensor], found: dict[str, Any], folder: Path) -> None:
    """Whether the files hold these tensors and no others, and every part of them."""
    for name in sorted(wanted.keys() | found.keys()):
        tensor, stored = wanted.get(name), found.get(name)
        if name == "rng.cuda" and tensor is None:  # it was saved on a GPU and goes on elsewhere
            continue
        if tensor is None or stored is None or (tensor.shape, tensor.dtype) != (stored.size, stored.properties.dtype):
            raise ValueError(f"{folder.name}/: {name} is missing, unknown or of another shape")
        if sum(chunk.sizes.numel() for chunk in stored.chunks) != tensor.numel():
            raise ValueError(f"{folder.name}/: a part of {name} is missing")


@contextmanager
def _plain_errors() -> Iterator[None]:
    """The first of the errors that the processes met; what collects them is no `Exception` itself."""
    from torch.distributed.checkpoint.api import CheckpointException

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is .* single process")  # which is meant
        try:
            yield
        except CheckpointException as collected:
            error, _ = next(iter(collected.failures.values()))
            raise error from None
