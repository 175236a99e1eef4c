"""Hugging Face folders: config.json beside model.safetensors, or beside several shards and an index that lists them."""

from collections.abc import Callable
from math import prod
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..config import LlamaConfig
from .files import CONFIG, CanSave, read_json, reason, replacing, tokenizer_in, write_json
from .huggingface_config import config_from_json, config_to_json
from .names import FROM_HUGGING_FACE, TO_HUGGING_FACE, translate
from .stored import PICKLES, Checkpoint, CheckpointError, StoredTensor, dtype_to_write, read_to_write

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}  # of one number


def read_config(path: Path) -> LlamaConfig:
    """The config of a folder; CheckpointError if it is missing, broken or not a Llama's."""
    return config_from_json(read_json(path / CONFIG), path / CONFIG)


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
    return Checkpoint(path, "safetensors", config, tuple(tensors.values()), tokenizer_in(folder))


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


def _weight_files(folder: Path) -> list[Path]:
    if (folder / WHOLE).is_file():
        return [folder / WHOLE]
    if not (folder / INDEX).is_file():
        pickles = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLES)
        found = f"; {pickles[0]} is a pickle, which is never opened" if pickles else ""
        raise CheckpointError(
            f"{folder} has neither {WHOLE} nor {INDEX}{found}; use the safetensors version of this model"
        )
    places = read_json(folder / INDEX).get("weight_map")
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
        path.open("rb").close()  # of a file that may not be read, safe_open says that it does not exist
        file = safe_open(path, framework="pt")
        headers = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118, it is no dict
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({reason(error)}); make it a file that you may read") from None
    except (SafetensorError, ValueError) as error:
        why = str(error).removeprefix("Error while deserializing header: ").partition(", expected one of")[0]
        raise CheckpointError(f"{path} is not a whole safetensors file ({why}); download it again") from None

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
