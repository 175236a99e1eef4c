"""GGUF, the file format of llama.cpp: one file with the config, the tokenizer and (mostly quantised) weights.

Format: ggml/docs/gguf.md in the llama.cpp repository. Without the package `gguf`, importing this is an ImportError.
"""

from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ...config import LlamaConfig
from ...files import gguf as gguf_file
from ...files.errors import CheckpointError
from ...files.gguf import GGUFFile, gguf
from ...rope import adjacent_to_halves
from ..names import FROM_GGUF, rotated_heads, translate
from ..stored import Checkpoint, StoredTensor
from .blocks import QUICK
from .config import config_from_fields

CHUNK = 2**18  # numbers dequantised at a time: gguf's temporaries are several times this, and small beside a model
TOKENIZERS = {"gpt2": "byte-level BPE", "llama": "SentencePiece BPE", "no_vocab": None}


def open_gguf(path: Path) -> Checkpoint:
    """Read config and table of tensors; weights stay on disk, memory-mapped.

    Raises:
        CheckpointError: for a broken file, another architecture, or a config that no Llama can have.
    """
    file = GGUFFile(path)
    if (parts := file.value("split.count", 1)) != 1:
        raise CheckpointError(
            f"{path} is one of {parts} parts of a model; run llama.cpp's "
            "llama-gguf-split --merge FIRST_PART.gguf WHOLE.gguf to join them"
        )
    architecture = file.value("general.architecture")
    if architecture != "llama":
        raise CheckpointError(f"{path} holds the architecture {architecture!r}; only 'llama' can be loaded")
    stored = {tensor.name: tensor for tensor in file.tensors}
    embedding, divisors = stored.get("token_embd.weight"), stored.pop("rope_freqs.weight", None)
    if embedding is None or len(embedding.shape) != 2:
        raise CheckpointError(f"{path}: token_embd.weight is missing or not a matrix; a model must have its embedding")
    if divisors is not None:
        if len(divisors.shape) != 1:
            raise CheckpointError(f"{path}: rope_freqs.weight is not a vector; it must hold one number for each pair")
        divisors = _read(file, divisors, None, torch.float32, "cpu")
    fields = {key: file.value(key) for key in file.fields if key.startswith("llama.")}
    config = config_from_fields(path, fields, embedding.shape[0], stored.keys(), divisors)
    tensors = tuple(_stored_tensor(file, tensor, config) for tensor in stored.values())
    kind = file.value("tokenizer.ggml.model")
    return Checkpoint(path, "GGUF", config, tensors, TOKENIZERS.get(kind, kind))


def _stored_tensor(file: GGUFFile, tensor: gguf_file.Tensor, config: LlamaConfig) -> StoredTensor:
    name = translate(tensor.name, FROM_GGUF)
    read = partial(_read, file, tensor, rotated_heads(name, config))
    return StoredTensor(name, tensor.name, tensor.shape, tensor.tensor_type.name, tensor.n_bytes, read)


def _read(
    file: GGUFFile,
    tensor: gguf_file.Tensor,
    heads: int | None,
    dtype: torch.dtype,
    device: torch.device | str,
) -> Tensor:
    weight = torch.empty(tensor.shape, dtype=dtype, device=device)
    rows = weight.view(-1, tensor.shape[-1])  # a vector is one row
    step = max(1, CHUNK // tensor.shape[-1])
    for i in range(0, len(rows), step):
        final = rows[i : i + step]
        numbers = final if final.dtype == torch.float32 and final.device.type == "cpu" else torch.empty(final.shape)
        _dequantise(file, tensor, tensor.data[i : i + step], numbers)
        if numbers is not final:
            final.copy_(numbers)
    return adjacent_to_halves(weight, heads) if heads else weight


def _dequantise(file: GGUFFile, tensor: gguf_file.Tensor, data: np.ndarray, out: Float[Tensor, "rows columns"]) -> None:
    kind = tensor.tensor_type.name
    if kind in QUICK:
        decode, size = QUICK[kind]
        decode(torch.from_numpy(data).view(-1, size), out.view(-1, 32))
        return
    try:
        with np.errstate(all="ignore"):  # NaN and infinity are reported by whoever uses the numbers, once
            # As one row: gguf takes 16 rows at a time, however short they are.
            numbers = gguf.quants.dequantize(data.reshape(1, -1), tensor.tensor_type)
    except NotImplementedError:
        raise CheckpointError(
            f"{file.path}: {tensor.name} is stored as {kind}, which the package gguf cannot decode; "
            "use a file with F32, F16, BF16, Q8_0, Q4_0, Q4_1 or K-quants"
        ) from None
    out.copy_(torch.from_numpy(numbers).view(out.shape))
