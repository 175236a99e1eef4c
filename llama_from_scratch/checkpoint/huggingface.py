"""Hugging Face folders: config.json beside model.safetensors, or beside several shards and an index that lists them."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..config import LlamaConfig
from ..model import Llama
from .huggingface_config import config_from_json, config_to_json
from .names import FROM_HUGGING_FACE, TO_HUGGING_FACE, translate
from .stored import PICKLES, Checkpoint, CheckpointError, StoredTensor

CONFIG, WHOLE, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}  # of one number


def read_config(path: Path) -> LlamaConfig:
    """The config of a folder; CheckpointError if it is missing, broken or not a Llama's."""
    return config_from_json(_json(path / CONFIG), path / CONFIG)


def open_folder(path: Path) -> Checkpoint:
    """Read config and table of tensors of a folder, or of one .safetensors file with a config.json beside it.

    Raises:
        CheckpointError: for missing or broken files, and what `config_from_json` refuses.
    """
    folder = path if path.is_dir() else path.parent
    config = read_config(folder)
    tensors: dict[str, StoredTensor] = {}
    for file in _weight_files(folder) if path.is_dir() else [path]:
        for tensor in _stored_tensors(file):
            if tensor.name in tensors:
                raise CheckpointError(f"{folder}: {tensor.stored_name} is in more than one file; keep one of them")
            tensors[tensor.name] = tensor
    if config.tie_embeddings and "lm_head.weight" in tensors:  # some writers store the shared table twice
        _check_same(folder, tensors.pop("lm_head.weight"), tensors.get("embedding.weight"))
    return Checkpoint(path, "safetensors", config, tuple(tensors.values()), _tokenizer(folder))


def save_folder(model: Llama, folder: Path, overwrite: bool, max_shard_bytes: int) -> None:
    """Write config.json and safetensors, in shards if they take more than `max_shard_bytes`.

    All files are first written completely beside their places, then moved there one after another: whoever runs out of
    disk, or stops this while it writes, keeps what was in the folder before.

    Raises:
        CheckpointError: if the folder holds a model and `overwrite` is False, if config.json cannot say our config, or
            if the disk is full or not writable.
    """
    config = config_to_json(model.config, next(model.parameters()).dtype)
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{folder} is a file; give the name of a folder")
    old = {*folder.glob("model*.safetensors"), *folder.glob(INDEX), *folder.glob(CONFIG)}
    if old and not overwrite:
        raise CheckpointError(
            f"{folder} already holds a model; pass overwrite=True to replace it, or choose another folder"
        )
    shards = _shards(
        {translate(n, TO_HUGGING_FACE): w.detach().cpu() for n, w in model.named_parameters()}, max_shard_bytes
    )
    try:
        _write(folder, shards, config, old)
    except (SafetensorError, OSError) as error:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
        raise CheckpointError(f"{folder} cannot be written ({error}); make room, or choose another folder") from None


def _write(folder: Path, shards: dict[str, dict[str, Tensor]], config: dict[str, Any], old: set[Path]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".saving-", dir=folder) as staging:
        for file, tensors in shards.items():
            save_file(tensors, Path(staging, file), metadata={"format": "pt"})  # transformers asks for this mark
        if len(shards) > 1:
            size = sum(t.nbytes for tensors in shards.values() for t in tensors.values())
            places = {name: file for file, tensors in shards.items() for name in tensors}
            _write_json(Path(staging, INDEX), {"metadata": {"total_size": size}, "weight_map": places})
        _write_json(Path(staging, CONFIG), config)
        new = {folder / file.name for file in Path(staging).iterdir()}
        for file in new:
            os.replace(Path(staging, file.name), file)
    for file in old - new:  # a left-over model.safetensors would be read instead of the new shards
        file.unlink()


def _shards(weights: dict[str, Tensor], max_bytes: int) -> dict[str, dict[str, Tensor]]:
    """File name -> its tensors, in order; a tensor larger than `max_bytes` gets a file of its own."""
    groups: list[dict[str, Tensor]] = [{}]
    for name, weight in weights.items():
        if groups[-1] and sum(w.nbytes for w in groups[-1].values()) + weight.nbytes > max_bytes:
            groups.append({})
        groups[-1][name] = weight.contiguous()
    if len(groups) == 1:
        return {WHOLE: groups[0]}
    return {f"model-{i:05}-of-{len(groups):05}.safetensors": group for i, group in enumerate(groups, start=1)}


def _weight_files(folder: Path) -> list[Path]:
    if (folder / WHOLE).is_file():
        return [folder / WHOLE]
    if not (folder / INDEX).is_file():
        pickles = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLES)
        found = f"; {pickles[0]} is a pickle, which is never opened" if pickles else ""
        raise CheckpointError(
            f"{folder} has neither {WHOLE} nor {INDEX}{found}; use the safetensors version of this model"
        )
    places = _json(folder / INDEX).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(file, str) for file in places.values()):
        raise CheckpointError(f"{folder / INDEX} must hold a weight_map: the name of each tensor and the file it is in")
    files = sorted(set(places.values()))
    for file in files:
        # Only names, no paths: an index must not lead out of its folder.
        if Path(file).name != file or "\\" in file or not file.endswith(".safetensors"):
            raise CheckpointError(
                f"{folder / INDEX} names the shard {file!r}; a shard must be a .safetensors file beside it"
            )
        if not (folder / file).is_file():
            raise CheckpointError(f"{folder / INDEX} names the shard {file}, which is missing; download it again")
    return [folder / file for file in files]


def _stored_tensors(path: Path) -> list[StoredTensor]:
    try:
        file = safe_open(path, framework="pt")
        headers = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118, it is no dict
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is not a whole safetensors file ({error}); download it again") from None

    def stored_tensor(name: str, shape: tuple[int, ...], stored_type: str) -> StoredTensor:
        if stored_type not in BYTES:
            raise CheckpointError(f"{path}: {name} is stored as {stored_type}; known are {', '.join(BYTES)}")
        # get_tensor is a private view of the file: writable, and read from disk only when it is looked at.
        read = lambda dtype, device: file.get_tensor(name).to(device, dtype)  # noqa: E731
        ours, n_bytes = translate(name, FROM_HUGGING_FACE), BYTES[stored_type] * torch.Size(shape).numel()
        return StoredTensor(ours, name, shape, stored_type, n_bytes, read)

    return [
        stored_tensor(name, tuple(header.get_shape()), header.get_dtype())
        for name, header in headers.items()
        if not name.endswith("rotary_emb.inv_freq")  # old files store the frequencies, which follow from the config
    ]


def _check_same(folder: Path, head: StoredTensor, embedding: StoredTensor | None) -> None:
    if embedding and not torch.equal(*(t.read(torch.float32, "cpu") for t in (head, embedding))):
        raise CheckpointError(
            f"{folder}: config.json ties lm_head to the embedding, but lm_head.weight holds other numbers; "
            'set "tie_word_embeddings" to false to use them, or remove the tensor'
        )


def _tokenizer(folder: Path) -> str | None:
    kinds = {
        "tokenizer.json": "Hugging Face tokenizer.json",
        "tokenizer.model": "SentencePiece or tiktoken tokenizer.model",
    }
    return next((kind for file, kind in kinds.items() if (folder / file).is_file()), None)


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{path} is missing; give a folder with config.json and safetensors, or the path of a GGUF file"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON ({error}); download it again") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} must hold a JSON object in braces, not a {type(content).__name__}")
    return content


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
