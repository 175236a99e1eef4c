"""Hugging Face folders: config.json beside the weights, in one file or in several shards and an index that lists them.

The weights are safetensors or, where there are none, pytorch_model.bin, of which only tensors are read.
"""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import torch

from ...config import LlamaConfig
from ...files.errors import CheckpointError
from ...files.layout import CONFIG, PICKLED, PICKLES, tokenizer_in
from ...files.pickles import read_pickled_tensors
from ...files.safetensors import open_safetensors
from ...files.strict_json import read_json
from ..names import FROM_HUGGING_FACE, translate
from ..stored import TYPES, Checkpoint, StoredTensor
from .config import config_from_json

WHOLE, INDEX, PICKLED_INDEX = "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin.index.json"
BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}  # of one number
EMBEDDING = "embed_tokens.weight"
# Programs that put a word before every name, and how to be rid of it.
PREFIXES = {
    "_orig_mod.": "torch.compile; save the model that was given to it, model._orig_mod",
    "module.": "DataParallel; save the model inside, model.module",
    "base_model.model.": "PEFT; save the model that merge_and_unload() returns",
}
QUANTISED = (".qweight", ".qzeros", ".g_idx", ".absmax", ".quant_map", ".weight_scale", ".weight_packed")


def read_config(path: Path) -> LlamaConfig:
    """The config of a folder; CheckpointError if it is missing, broken or not a Llama's."""
    return config_from_json(read_json(path / CONFIG), path / CONFIG)


def open_folder(path: Path) -> Checkpoint:
    """Read config and table of tensors of a folder, or of one file of weights with a config.json beside it.

    The weights may be those of LlamaForCausalLM, or of LlamaModel, whose names do not begin with "model.".

    Raises:
        CheckpointError: for missing or broken files, and what `config_from_json` refuses.
    """
    folder = path if path.is_dir() else path.parent
    config = read_config(folder)
    files = _weight_files(folder) if path.is_dir() else [path]
    stored: dict[str, StoredTensor] = {}
    for file in files:
        for tensor in _pickled(file) if file.suffix == ".bin" else _safetensors(file):
            if tensor.stored_name in stored:
                raise CheckpointError(f"{folder}: {tensor.stored_name} is in more than one file; keep one of them")
            stored[tensor.stored_name] = tensor
    _check_names(folder, stored)
    base = "" if any(name.startswith("model.") for name in stored) else "model."
    tensors = {tensor.name: tensor for tensor in (_named(tensor, base) for tensor in stored.values())}
    if config.tie_embeddings and "lm_head.weight" in tensors:  # some writers store the shared table twice
        _check_same(folder, tensors.pop("lm_head.weight"), tensors.get("embedding.weight"))
    kind = "pickle" if files[0].suffix == ".bin" else "safetensors"
    return Checkpoint(path, kind, config, tuple(tensors.values()), tokenizer_in(folder))


def _named(tensor: StoredTensor, base: str) -> StoredTensor:
    """With its name in our model; `base` is what the names in this file lack."""
    ours = translate(tensor.stored_name, FROM_HUGGING_FACE)
    if base and ours == tensor.stored_name:
        ours = translate(base + ours, FROM_HUGGING_FACE)
    return replace(tensor, name=ours)


def _weight_files(folder: Path) -> list[Path]:
    """safetensors first, as transformers takes them."""
    for whole, index, ending in ((WHOLE, INDEX, ".safetensors"), (PICKLED, PICKLED_INDEX, ".bin")):
        if (folder / whole).is_file():
            return [folder / whole]
        if (folder / index).is_file():
            return _shards(folder, index, ending)
    names = sorted(entry.name for entry in folder.iterdir())
    for name in names:
        if "-of-" in name and Path(name).suffix in (".safetensors", ".bin"):
            index = INDEX if name.endswith(".safetensors") else PICKLED_INDEX
            raise CheckpointError(
                f"{folder} has shards such as {name}, and not {index}, which lists them; download that file, too"
            )
    pickles = [name for name in names if Path(name).suffix in PICKLES]
    found = f"; {pickles[0]} is a pickle, which is never opened" if pickles else ""
    raise CheckpointError(f"{folder} has neither {WHOLE} nor {INDEX}{found}; use the safetensors version of this model")


def _shards(folder: Path, index: str, ending: str) -> list[Path]:
    places = read_json(folder / index).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(file, str) for file in places.values()):
        raise CheckpointError(f"{folder / index} must hold a weight_map: the name of each tensor and the file it is in")
    files = sorted(set(places.values()))
    for file in files:
        # Only names, no paths: an index must not lead out of its folder.
        if Path(file).name != file or "\\" in file or not file.endswith(ending):
            raise CheckpointError(
                f"{folder / index} names the shard {file!r}; a shard must be a {ending} file beside it"
            )
        if not (folder / file).is_file():
            raise CheckpointError(f"{folder / index} names the shard {file}, which is missing; download it again")
    return [folder / file for file in files]


def _safetensors(path: Path) -> list[StoredTensor]:
    file, table = open_safetensors(path)

    def stored_tensor(name: str, shape: tuple[int, ...], stored_type: str) -> StoredTensor:
        _check_plain(path, name)
        if stored_type not in BYTES:
            raise CheckpointError(f"{path}: {name} is stored as {stored_type}; known are {', '.join(BYTES)}")
        # get_tensor is a private view of the file: writable, and read from disk only when it is looked at.
        read = lambda dtype, device: file.get_tensor(name).to(device, dtype)  # noqa: E731
        return StoredTensor(name, name, shape, stored_type, BYTES[stored_type] * torch.Size(shape).numel(), read)

    return [stored_tensor(name, *found) for name, found in table.items() if not _follows_from_config(name)]


def _pickled(path: Path) -> list[StoredTensor]:
    names = {dtype: name for name, dtype in TYPES.items()}

    def stored_tensor(name: str, tensor: torch.Tensor) -> StoredTensor:
        _check_plain(path, name)
        shared = owners[tensor.untyped_storage().data_ptr()] > 1  # two weights of a model never share their memory
        read = lambda dtype, device: tensor.to(device, dtype, copy=shared).contiguous()  # noqa: E731
        return StoredTensor(name, name, tuple(tensor.shape), names[tensor.dtype], tensor.nbytes, read)

    found = read_pickled_tensors(path)
    owners = Counter(tensor.untyped_storage().data_ptr() for tensor in found.values())
    return [stored_tensor(name, tensor) for name, tensor in found.items() if not _follows_from_config(name)]


def _follows_from_config(name: str) -> bool:
    """Old files store the frequencies of RoPE."""
    return name.endswith("rotary_emb.inv_freq")


def _check_plain(path: Path, name: str) -> None:
    if name.endswith(QUANTISED):
        raise CheckpointError(
            f"{path}: {name} belongs to a quantised model (GPTQ, AWQ or the like); use its version in F32, F16 or BF16"
        )


def _check_names(folder: Path, stored: dict[str, StoredTensor]) -> None:
    """Refuse a Llama whose names all begin with a word that is not part of them."""
    name = next((name for name in stored if name.endswith(EMBEDDING)), EMBEDDING)
    prefix = name.removesuffix(EMBEDDING).removesuffix("model.")
    if prefix:
        known = next((words for word, words in PREFIXES.items() if prefix.startswith(word)), None)
        source = f", as with {known}" if known else "; take that off all names and save it again"
        raise CheckpointError(f"{folder}: the names of its tensors begin with {prefix!r}{source}")


def _check_same(folder: Path, head: StoredTensor, embedding: StoredTensor | None) -> None:
    if embedding and not torch.equal(*(t.read(torch.float32, "cpu") for t in (head, embedding))):
        raise CheckpointError(
            f"{folder}: config.json ties lm_head to the embedding, but lm_head.weight holds other numbers; "
            'set "tie_word_embeddings" to false to use them, or remove the tensor'
        )
