"""Meta's own layout: params.json beside consolidated.00.pth, or beside one such file for each GPU that it was made for.

In several files ("model parallel"), each holds a part of every matrix and all of every norm. The .pth files are zip
archives with a pickle inside; only its tensors are read (`weights_only`), memory-mapped, and never any code.
Source: the layers of Meta's model.py and checkpoint.py in llama-models 0.3.0; for the embedding, fairscale's.
"""

import re
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...config import LlamaConfig
from ...files.errors import CheckpointError
from ...files.layout import PARAMS, tokenizer_in
from ...files.pickles import read_pickled_tensors
from ...files.strict_json import read_json
from ...rope import adjacent_to_halves
from ..names import FROM_META, rotated_heads, translate
from ..stored import TYPES, Checkpoint, StoredTensor
from .config import config_from_params

SHARD = "consolidated.{:02}.pth"
EMBEDDING, HEAD = "tok_embeddings.weight", "output.weight"
# What is divided among several files: the rows of these matrices, or their columns.
ROWS, COLUMNS = ("wq", "wk", "wv", "w1", "w3", "output"), ("wo", "w2")


def open_meta(folder: Path) -> Checkpoint:
    """Read config and table of tensors; weights stay on disk, memory-mapped.

    Raises:
        CheckpointError: for missing, broken or dangerous files, parts that do not fit together, and what
            `config_from_params` refuses.
    """
    params = read_json(folder / PARAMS)
    shards = [read_pickled_tensors(file) for file in _shard_files(folder)]
    for shard in shards:
        _check_frequencies(folder / PARAMS, params, shard.pop("rope.freqs", None))
    for i, shard in enumerate(shards[1:], start=1):
        if odd := shard.keys() ^ shards[0].keys():
            raise CheckpointError(
                f"{folder}: {min(odd)} is in only one of {SHARD.format(0)} and {SHARD.format(i)}; "
                "download both again, they belong to different models"
            )
    if EMBEDDING not in shards[0] or shards[0][EMBEDDING].dim() != 2:
        raise CheckpointError(f"{folder}: {EMBEDDING} is missing or not a matrix; a model must have its embedding")
    parts = {name: [shard[name] for shard in shards] for name in shards[0]}
    dimensions = {name: _dimension(name, tensors, params.get("dim")) for name, tensors in parts.items()}
    for name, tensors in parts.items():
        same = all(torch.equal(tensors[0], other) for other in tensors[1:]) if dimensions[name] is None else True
        if not same or len({tensor.shape for tensor in tensors}) > 1 or len({tensor.dtype for tensor in tensors}) > 1:
            raise CheckpointError(f"{folder}: the parts of {name} do not fit together; download all .pth files again")
    tied = _is_tied(parts, dimensions)
    vocab_size = _whole_shape(parts[EMBEDDING], dimensions[EMBEDDING])[0]
    config = config_from_params(params, vocab_size, tied, folder / PARAMS)
    if tied:  # Meta's model has no tied embeddings; its files of such models hold the table twice
        parts.pop(HEAD, None)
    stored = tuple(_stored_tensor(folder, name, parts[name], dimensions[name], config) for name in parts)
    return Checkpoint(folder, "Meta", config, stored, tokenizer_in(folder))


def _check_frequencies(file: Path, params: dict[str, Any], freqs: Tensor | None) -> None:
    """Llama 1 and 2 store RoPE's frequencies. They follow from the config, but nothing else in the files tells how many
    heads there are."""
    dim, n_heads = params.get("dim"), params.get("n_heads")
    if type(dim) is not int or type(n_heads) is not int:
        return  # `config_from_params` says what is wrong
    if freqs is not None and 2 * freqs.numel() * n_heads != dim:
        raise CheckpointError(
            f"{file}: n_heads is {n_heads}, and rope.freqs holds the {freqs.numel()} frequencies of heads that are "
            f"{2 * freqs.numel()} wide; both must be of one model"
        )


def _shard_files(folder: Path) -> list[Path]:
    files = sorted(file for file in folder.glob("*.pth") if re.fullmatch(r"consolidated\.\d\d\.pth", file.name))
    expected = [folder / SHARD.format(i) for i in range(max(1, len(files)))]
    if files != expected:
        missing = next(file for file in expected if file not in files)
        raise CheckpointError(f"{missing} is missing; a Meta checkpoint must have its .pth files beside {PARAMS}")
    return files


def divided_dimension(name: str) -> int | None:
    """The dimension of a weight that is divided among several files; None for norms. The embedding follows no rule."""
    layer = name.split(".")[-2]
    return 0 if layer in ROWS else 1 if layer in COLUMNS else None


def _dimension(name: str, parts: list[Tensor], dim: object) -> int | None:
    """The dimension along which the parts are joined; None if each is the whole.

    Llama 1 and 2 divide the columns of the embedding (fairscale's ParallelEmbedding), Llama 3 its rows
    (VocabParallelEmbedding).
    """
    if len(parts) == 1 or "." not in name:
        return None
    if name == EMBEDDING:
        return 0 if parts[0].shape[1] == dim else 1
    return divided_dimension(name)


def _is_tied(parts: dict[str, list[Tensor]], dimensions: dict[str, int | None]) -> bool:
    """Whether the output projection holds the numbers of the embedding; mostly the first row tells."""

    def first_row(name: str) -> Tensor:
        return torch.cat([part[:1] for part in parts[name]], 1) if dimensions[name] == 1 else parts[name][0][:1]

    def whole(name: str) -> Tensor:
        shape = _whole_shape(parts[name], dimensions[name])
        return _read(parts[name], shape, dimensions[name], None, parts[name][0].dtype, "cpu")

    if HEAD not in parts:
        return True
    if parts[HEAD][0].dim() != 2 or parts[HEAD][0].dtype != parts[EMBEDDING][0].dtype:
        return False
    return all(torch.equal(some(HEAD), some(EMBEDDING)) for some in (first_row, whole))


def _whole_shape(parts: list[Tensor], dimension: int | None) -> tuple[int, ...]:
    shape = list(parts[0].shape)
    if dimension is not None and dimension < len(shape):
        shape[dimension] *= len(parts)
    return tuple(shape)


def _stored_tensor(
    folder: Path, name: str, parts: list[Tensor], dimension: int | None, config: LlamaConfig
) -> StoredTensor:
    ours, shape = translate(name, FROM_META), _whole_shape(parts, dimension)
    kind = next(kind for kind, dtype in TYPES.items() if dtype == parts[0].dtype)
    read = partial(_read, parts, shape, dimension, rotated_heads(ours, config))
    return StoredTensor(ours, name, shape, kind, sum(part.nbytes for part in parts), read)


def _read(
    parts: list[Tensor],
    shape: tuple[int, ...],
    dimension: int | None,
    heads: int | None,
    dtype: torch.dtype,
    device: torch.device | str,
) -> Tensor:
    if dimension is None:
        weight = parts[0].to(device, dtype)
    else:
        weight = torch.empty(shape, dtype=dtype, device=device)
        for place, part in zip(weight.chunk(len(parts), dimension), parts, strict=True):
            place.copy_(part)
    return adjacent_to_halves(weight, heads) if heads else weight
