"""Writing Meta's layout, in one file or in one for each GPU."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ...files.errors import CheckpointError
from ...files.layout import PARAMS, CanSave
from ...files.replace import replacing
from ...files.strict_json import write_json
from ...rope import halves_to_adjacent
from ..names import TO_META, rotated_heads, translate
from ..stored import Checkpoint, dtype_to_write, read_to_write
from .config import LLAMA_3_VOCAB, params_from_config
from .read import EMBEDDING, HEAD, SHARD, divided_dimension


def save_meta(
    checkpoint: Checkpoint,
    path: Path,
    stored_type: str,
    *,
    tokenizer: CanSave | None = None,
    overwrite: bool = False,
    progress: Callable[[int], None] | None = None,
    n_shards: int = 1,
) -> None:
    """Write a folder with params.json and `n_shards` files consolidated.NN.pth.

    Meta's code runs one process for each, with equally many heads. One shard is in memory at a time.
    See `files.replacing` for how the folder takes the place of an older one.

    stored_type: "F32", "F16" or "BF16". tokenizer: is saved beside the weights; None leaves the one that is there.
    progress: called with the bytes of the checkpoint (`StoredTensor.n_bytes`) that have been read so far.
    Raises:
        CheckpointError: if the folder holds a model and `overwrite` is False, if params.json cannot say our config, if
            the shards would be unequal, if a weight does not fit the type, or if the disk is full or not writable.
    """
    dtype_to_write(stored_type)
    config, done = checkpoint.config, 0
    params = params_from_config(config)
    for size in ("n_kv_heads", "dim", "ffn_dim", "vocab_size"):
        if not 1 <= n_shards <= 100 or getattr(config, size) % n_shards:
            raise CheckpointError(
                f"n_shards is {n_shards}; it must be from 1 to 100 and divide {size}, {getattr(config, size)}"
            )
    with replacing(path, overwrite, with_tokenizer=tokenizer is not None) as folder:
        for i in range(n_shards):
            shard = {}
            for tensor in checkpoint.tensors:
                name, heads = translate(tensor.name, TO_META), rotated_heads(tensor.name, config)
                weight = read_to_write(checkpoint, tensor, stored_type)
                weight = halves_to_adjacent(weight, heads) if heads else weight
                shard[name] = _part(name, weight, i, n_shards)
                if config.tie_embeddings and name == EMBEDDING:  # Meta's model has two tables; these share their bytes
                    shard[HEAD] = shard[name] if n_shards == 1 else _part(HEAD, weight, i, n_shards)
                done += tensor.n_bytes
                if progress:
                    progress(done // n_shards)
            try:
                torch.save(shard, folder / SHARD.format(i))
            except RuntimeError:  # torch tells where in its own source
                raise OSError("not all of it could be stored") from None
        if tokenizer is not None:
            tokenizer.save(folder)
        write_json(folder / PARAMS, params)


def _part(name: str, weight: Tensor, i: int, n_shards: int) -> Tensor:
    """What file i holds of a weight, copied: torch.save would write all of the memory that a view looks into."""
    dimension = divided_dimension(name)
    if name == EMBEDDING:
        dimension = 0 if len(weight) >= LLAMA_3_VOCAB else 1
    part = weight if dimension is None else weight.chunk(n_shards, dimension)[i]
    return part.clone(memory_format=torch.contiguous_format)
