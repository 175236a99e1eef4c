"""Writing a Hugging Face folder: config.json and safetensors, in shards if they are large."""

from collections.abc import Callable
from math import prod
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file

from ...files.layout import CONFIG, CanSave
from ...files.replace import replacing
from ...files.strict_json import write_json
from ..names import TO_HUGGING_FACE, translate
from ..stored import Checkpoint, StoredTensor, dtype_to_write, read_to_write
from .config import config_to_json

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}  # of one number


def save_huggingface(
    checkpoint: Checkpoint,
    path: Path,
    stored_type: str,
    *,
    tokenizer: CanSave | None = None,
    overwrite: bool = False,
    progress: Callable[[int], None] | None = None,
    max_shard_bytes: int = 5 * 10**9,
) -> None:
    """Write a folder with config.json and safetensors, in shards if they take more than `max_shard_bytes`.

    One shard is in memory at a time. See `files.replacing` for how the folder takes the place of an older one.

    stored_type: "F32", "F16" or "BF16". tokenizer: is saved beside the weights; None leaves the one that is there.
    progress: called with the bytes of the checkpoint (`StoredTensor.n_bytes`) that have been read so far.
    Raises:
        CheckpointError: if the folder holds a model and `overwrite` is False, if config.json cannot say our config, if
            a weight does not fit the type, or if the disk is full or not writable.
    """
    dtype = dtype_to_write(stored_type)
    config = config_to_json(checkpoint.config, dtype)
    groups, done, places = _groups(checkpoint, dtype.itemsize, max_shard_bytes), 0, {}
    with replacing(path, overwrite, with_tokenizer=tokenizer is not None) as folder:
        for i, group in enumerate(groups, start=1):
            file = WHOLE if len(groups) == 1 else f"model-{i:05}-of-{len(groups):05}.safetensors"
            weights = {}
            for tensor in group:
                name = translate(tensor.name, TO_HUGGING_FACE)
                weights[name], places[name] = read_to_write(checkpoint, tensor, stored_type).contiguous(), file
                done += tensor.n_bytes
                if progress:
                    progress(done)
            try:
                save_file(weights, folder / file, metadata={"format": "pt"})  # transformers asks for this mark
            except SafetensorError as error:
                raise OSError(str(error).rpartition("error: ")[2]) from None
        if len(groups) > 1:
            size = checkpoint.config.n_params * dtype.itemsize
            write_json(folder / INDEX, {"metadata": {"total_size": size}, "weight_map": places})
        if tokenizer is not None:
            tokenizer.save(folder)
        write_json(folder / CONFIG, config)


def _groups(checkpoint: Checkpoint, itemsize: int, max_bytes: int) -> list[list[StoredTensor]]:
    """The tensors of each shard, in order; one larger than `max_bytes` gets a shard of its own."""
    groups: list[list[StoredTensor]] = [[]]
    room = max_bytes
    for tensor in checkpoint.tensors:
        size = prod(tensor.shape) * itemsize
        if groups[-1] and size > room:
            groups.append([])
            room = max_bytes
        groups[-1].append(tensor)
        room -= size
    return groups
