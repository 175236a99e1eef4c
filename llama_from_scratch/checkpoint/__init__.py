"""Released weights in, models out.

A name is one of
- "SmolLM2-135M-Instruct" or "Folio-5M", the models that come with the project;
- the path of a GGUF file;
- the path of a Hugging Face folder (config.json and safetensors or, where there are none, pytorch_model.bin), or of one
  file of weights in such a folder;
- the path of a folder in Meta's layout (params.json and consolidated.00.pth), or of one such .pth file;
- the path of a run folder of `training`, which means its latest save;
- "organisation/name" on the Hugging Face hub, fetched once through `huggingface_hub`.

Nothing that could run code is ever unpickled: of consolidated.NN.pth and pytorch_model.bin only the tensors are read,
and all other .pth, .bin, .pt and .pickle files are refused.
All functions raise `CheckpointError` (a ValueError) with one sentence: what is wrong, what is allowed, what to do; and
ImportError, naming the package, where an optional one is not installed.
"""

from functools import reduce
from pathlib import Path

import torch

from ..config import LlamaConfig
from ..files.errors import CheckpointError
from ..files.layout import CanSave, is_meta
from ..files.resolve import resolve
from ..model import Llama
from .formats import FORMATS, format_for, open_checkpoint, writer
from .stored import TYPES, Checkpoint, StoredTensor, empty_model, in_memory, load

__all__ = [
    "FORMATS",
    "Checkpoint",
    "CheckpointError",
    "StoredTensor",
    "describe",
    "load_config",
    "load_model",
    "save_model",
]


def load_model(name: str | Path, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Llama:
    """Load a model, ready to run (`eval` mode) or to train; its weights are `dtype` on `device`."""
    return load(open_checkpoint(resolve(name)), dtype, device)


def load_config(name: str | Path) -> LlamaConfig:
    """The config alone. Of a hub model in the usual layout, only the small files are fetched."""
    path = resolve(name, weights=False)
    if path.is_dir() and not is_meta(path):
        from .huggingface.read import read_config

        return read_config(path)
    return open_checkpoint(resolve(name)).config  # Meta's params.json does not say how large the vocabulary is


def describe(name: str | Path) -> Checkpoint:
    """What a checkpoint holds, without reading its weights.

    Returns a `Checkpoint` with: `path`, `format` ("GGUF", "safetensors", "pickle" or "Meta"), `config` (and
    `config.n_params`), `tensors` (each has `name`, `stored_name`, `shape`, `stored_type`, `n_bytes`), `tokenizer` (its
    kind in words, or None), `n_bytes` (all tensors, in the file) and `memory(dtype)` (bytes of the parameters once
    loaded).
    """
    checkpoint = open_checkpoint(resolve(name))
    empty_model(checkpoint)
    return checkpoint


def save_model(
    model: Llama,
    path: str | Path,
    *,
    format: str | None = None,
    tokenizer: CanSave | None = None,
    overwrite: bool = False,
    **options: int,
) -> None:
    """Write a live model, in the type that its weights have, so that `load_model` reads it back bit for bit.

    path, format: a file called something.gguf, or a folder: "huggingface" (the default) or "meta".
    tokenizer: is written with it; None leaves the one in the folder as it is.
    options: `max_shard_bytes` of a Hugging Face folder, `n_shards` of one of Meta's.
    """
    dtype = reduce(torch.promote_types, (weight.dtype for weight in model.parameters()))
    kinds = [kind for kind, known in TYPES.items() if known == dtype]
    if not kinds:
        raise CheckpointError(f"the weights are {dtype}; files hold {', '.join(TYPES)}: call model.float() first")
    save = writer(format_for(Path(path), format))
    save(in_memory(model), Path(path), kinds[0], tokenizer=tokenizer, overwrite=overwrite, **options)
