"""What every format hands over: a config and a table of tensors, checked against the model before a weight is read."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..config import LlamaConfig
from ..files.errors import CheckpointError, shortened
from ..model import Llama
from .names import TO_GGUF, TO_HUGGING_FACE, TO_META, translate

TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}  # what every format can hold
# From our names to those in files of a format.
COLUMNS = {"GGUF": TO_GGUF, "safetensors": TO_HUGGING_FACE, "pickle": TO_HUGGING_FACE, "Meta": TO_META}


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a checkpoint, described; `read` fetches its numbers."""

    name: str  # in our model, e.g. "blocks.0.attention.q_proj.weight"; the stored name if our model has no such tensor
    stored_name: str  # in the file, e.g. "blk.0.attn_q.weight"
    shape: tuple[int, ...]
    stored_type: str  # as the format spells it: "F32", "BF16", "Q4_1"
    n_bytes: int  # in the file
    read: Callable[[torch.dtype, torch.device | str], Tensor] = field(repr=False, compare=False)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was opened and found to fit its config. Its weights are still on disk."""

    path: Path  # file or folder
    format: str  # "GGUF", "safetensors", "pickle" (pytorch_model.bin), "Meta" or "memory"
    config: LlamaConfig
    tensors: tuple[StoredTensor, ...]
    tokenizer: str | None  # what kind of tokenizer lies beside or in it, in words; None if there is none

    @property
    def n_bytes(self) -> int:
        """Bytes of all tensors in the file."""
        return sum(tensor.n_bytes for tensor in self.tensors)

    def memory(self, dtype: torch.dtype) -> int:
        """Bytes that the loaded parameters take in this type."""
        return self.config.n_params * dtype.itemsize


def in_memory(model: Llama) -> Checkpoint:
    """A live model as a checkpoint, so that writers need to know only one kind of source."""
    names = {dtype: name for name, dtype in TYPES.items()}

    def stored(name: str, weight: Tensor) -> StoredTensor:
        kind = names.get(weight.dtype, str(weight.dtype))
        read = lambda dtype, device: whole(weight.detach()).to(device, dtype)  # noqa: E731
        return StoredTensor(name, name, tuple(weight.shape), kind, weight.nbytes, read)

    tensors = tuple(stored(name, weight) for name, weight in model.named_parameters())
    return Checkpoint(Path("this model"), "memory", model.config, tensors, None)


def whole(tensor: Tensor) -> Tensor:
    """The tensor itself; of a sharded one the whole, gathered from all ranks, each of which has to ask for it."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def dtype_to_write(stored_type: str) -> torch.dtype:
    """The type that a writer of folders is asked for.

    Raises:
        CheckpointError: if there is none.
    """
    if stored_type not in TYPES:
        raise CheckpointError(
            f"the type is {stored_type!r}; a folder must be written as {', '.join(TYPES)}, and only GGUF can hold Q8_0"
        )
    return TYPES[stored_type]


def read_to_write(checkpoint: Checkpoint, tensor: StoredTensor, stored_type: str) -> Tensor:
    """One weight on the CPU in the type in which a writer will store it.

    Raises:
        CheckpointError: if a number does not fit that type, such as 1e5 in F16, or is no number.
    """
    weight = tensor.read(TYPES[stored_type], "cpu")
    _check_finite(
        checkpoint, tensor, weight, stored_type, "write it as " + ("BF16 or F32" if stored_type == "F16" else "F32")
    )
    return weight


def _check_finite(checkpoint: Checkpoint, tensor: StoredTensor, weight: Tensor, kind: str, way_on: str) -> None:
    """Refuse a weight that is NaN or infinite as it was read, saying whether it is so in the file or in this type only.

    kind, way_on: the name of the type, and what to do if the file has numbers that are too large for it.
    """

    def finite(weight: Tensor) -> bool:
        return all(bound.isfinite() for bound in weight.aminmax())  # NaN spreads to both bounds; no copy is made

    if finite(weight):
        return
    where = f"{checkpoint.path}: {tensor.stored_name}"
    if weight.dtype == torch.float32 or not finite(tensor.read(torch.float32, "cpu")):
        source = "compute it again" if checkpoint.format == "memory" else "download the file again"
        raise CheckpointError(f"{where} holds NaN or infinite numbers; {source}")
    raise CheckpointError(f"{where} holds numbers that are too large for {kind}; {way_on}")


def empty_model(checkpoint: Checkpoint) -> Llama:
    """A model of the right shape without memory for its weights, once the table of tensors is known to fit it.

    Raises:
        CheckpointError: naming the tensors that are missing, unknown or of the wrong shape.
    """
    config, stored, path = checkpoint.config, {t.name: t for t in checkpoint.tensors}, checkpoint.path
    if config.n_layers > len(stored):  # a header may claim a billion blocks; building them would take for ever
        raise CheckpointError(
            f"{path}: its config says {config.n_layers} blocks, but it holds only {len(stored)} tensors; "
            "config and weights must be of one model"
        )
    try:
        with torch.device("meta"), _SkipInit():
            model = Llama(config)
    except (RuntimeError, TypeError):  # sizes that overflow
        raise CheckpointError(
            f"{path}: its config describes an impossible model, of more bytes than can be counted; download it again"
        ) from None
    shapes = {name: tuple(weight.shape) for name, weight in model.named_parameters()}
    if missing := shapes.keys() - stored.keys():
        names = {translate(name, COLUMNS.get(checkpoint.format, {})) for name in missing}
        raise CheckpointError(f"{path}: {_some(names)} missing; a checkpoint must hold every weight of its config")
    if extra := stored.keys() - shapes.keys():
        names = {stored[name].stored_name for name in extra}
        raise CheckpointError(
            f"{path}: {_some(names)} not part of a Llama with this config; only plain Llamas can be loaded"
        )
    for name, shape in shapes.items():
        if stored[name].shape != shape:
            raise CheckpointError(
                f"{path}: {stored[name].stored_name} has shape {stored[name].shape}; its config needs {shape}: "
                "both must be of one model"
            )
    return model


def load(checkpoint: Checkpoint, dtype: torch.dtype, device: torch.device | str) -> Llama:
    """Read every weight into its final place. Each is converted on its own, so no second model is ever in memory.

    Raises:
        CheckpointError: as `empty_model`, and if a weight is NaN or infinite in `dtype`.
    """
    if not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise CheckpointError(
            f"dtype is {dtype!r}; weights can be loaded as torch.float32, torch.bfloat16 or torch.float16"
        )
    model = empty_model(checkpoint)
    weights = {}
    for tensor in checkpoint.tensors:
        weight = tensor.read(dtype, device)
        _check_finite(checkpoint, tensor, weight, str(dtype), "load it as torch.float32 or torch.bfloat16")
        weights[tensor.name] = weight
    model.load_state_dict(weights, assign=True)
    return model.to(device).eval()  # the weights are there already; this moves RoPE's frequencies


class _SkipInit(TorchFunctionMode):
    """No random numbers for a model that has no memory to hold them: asking for them makes torch import its compiler,
    which takes longer than everything else here."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        return None if func.__name__ in ("normal_", "kaiming_uniform_") else func(*args, **(kwargs or {}))


def _some(names: set[str]) -> str:
    names = sorted(names)
    listed = ", ".join(map(shortened, names[:3])) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return f"{listed} {'is' if len(names) == 1 else 'are'}"
