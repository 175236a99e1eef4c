"""Hugging Face folders: config.json beside model.safetensors, or beside several shards and an index that lists them."""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from ...config import LlamaConfig
from ...files.errors import CheckpointError, reason
from ...files.layout import CONFIG, PICKLES, tokenizer_in
from ...files.strict_json import read_json
from ..names import FROM_HUGGING_FACE, translate
from ..stored import Checkpoint, StoredTensor
from .config import config_from_json

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
