"""GGUF, the file format of llama.cpp: one file with the config, the tokenizer and (mostly quantised) weights.

Format: ggml/docs/gguf.md in the llama.cpp repository. Without the package `gguf`, importing this is an ImportError.
"""

import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..config import LlamaConfig
from ..rope import adjacent_to_halves
from .gguf_blocks import QUICK
from .gguf_config import config_from_fields
from .names import FROM_GGUF, rotated_heads, translate
from .stored import Checkpoint, CheckpointError, StoredTensor

try:
    import gguf
except ModuleNotFoundError:
    raise ImportError("reading GGUF files needs the package gguf; run: pip install gguf") from None

CHUNK = 2**18  # numbers dequantised at a time: gguf's temporaries are several times this, and small beside a model
TOKENIZERS = {"gpt2": "byte-level BPE", "llama": "SentencePiece BPE", "no_vocab": None}


class GGUFFile(gguf.GGUFReader):
    """gguf's reader, made quick and safe at two places.

    The original makes several memory maps for each of the 150,000 entries of a tokenizer (seconds); and reading past
    the end of the file gives it empty arrays, which in a forged file means wrong numbers or an endless loop.

    Raises:
        CheckpointError: if the file is not a whole, well-formed GGUF file.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = path
        try:
            super().__init__(path, "c")  # private pages: arrays are writable, as torch wants them, and the file is not
        except (ValueError, KeyError, IndexError, OverflowError, MemoryError) as error:
            plain = {UnicodeDecodeError: "a name in it is not UTF-8", OverflowError: "a size in it is too large"}
            why = plain.get(type(error)) or re.sub(r"np\.\w+\((.*?)\)", r"\1", str(error))
            raise CheckpointError(f"{path} is not a whole GGUF file ({why}); download it again") from None

    def _get(self, offset: Any, dtype: Any, count: Any = 1, override_order: Any = None) -> np.ndarray:
        end = int(offset) + np.dtype(dtype).itemsize * int(count)
        if end > len(self.data):
            raise ValueError(f"it ends after {len(self.data)} bytes, and byte {end} is needed")
        # A plain array: slices of a memory map cost more than what is done with them.
        return np.asarray(super()._get(offset, dtype, count, override_order))

    def _get_field_parts(self, orig_offs: Any, raw_type: Any) -> tuple[int, list, list[int], list]:
        if self.byte_order == "S":
            raise ValueError("it is big-endian, and only little-endian files can be read")
        if raw_type != gguf.GGUFValueType.ARRAY:
            return super()._get_field_parts(orig_offs, raw_type)
        kind = gguf.GGUFValueType(int(self._get(orig_offs, np.uint32)[0]))
        count = int(self._get(orig_offs + 4, np.uint64)[0])
        start, types = orig_offs + 12, [gguf.GGUFValueType.ARRAY, kind]
        if kind in self.gguf_scalar_to_np:  # one part holds all numbers; `contents` flattens parts anyway
            numbers = self._get(start, self.gguf_scalar_to_np[kind], count)
            return 12 + numbers.nbytes, [numbers], [0], types
        if kind != gguf.GGUFValueType.STRING:
            raise ValueError("it holds an array of arrays")
        # Arrays, since Python's garbage collector has to watch a memoryview and not an array: here 100,000 of them.
        parts, end, numbers, everything = [], start, np.asarray(self.data), memoryview(self.data)
        for _ in range(count):
            begin = end + 8
            end = begin + int.from_bytes(everything[end:begin], "little")
            if end > len(everything):
                raise ValueError(f"it ends after {len(everything)} bytes, and byte {end} is needed")
            parts.append(numbers[begin:end])
        return end - orig_offs, parts, list(range(count)), types

    def value(self, key: str, default: Any = None) -> Any:
        """The value of a metadata key (arrays become lists, strings str), or `default` if the file has none."""
        field = self.get_field(key)
        if field is None:
            return default
        try:
            return field.contents()
        except UnicodeDecodeError:
            raise CheckpointError(f"{self.path}: {key} is not valid UTF-8; download it again") from None


def open_gguf(path: Path) -> Checkpoint:
    """Read config and table of tensors; weights stay on disk, memory-mapped.

    Raises:
        CheckpointError: for a broken file, another architecture, or a config that no Llama can have.
    """
    file = GGUFFile(path)
    architecture = file.value("general.architecture")
    if architecture != "llama":
        raise CheckpointError(f"{path} holds the architecture {architecture!r}; only 'llama' can be loaded")
    stored = {tensor.name: tensor for tensor in file.tensors}
    embedding, divisors = stored.get("token_embd.weight"), stored.pop("rope_freqs.weight", None)
    if embedding is None or len(embedding.shape) != 2:
        raise CheckpointError(f"{path}: token_embd.weight is missing or not a matrix; a model must have its embedding")
    if divisors is not None:
        if len(divisors.shape) != 1 or not divisors.n_elements:
            raise CheckpointError(f"{path}: rope_freqs.weight is not a vector; it must hold one number for each pair")
        divisors = _read(file, divisors, (divisors.n_elements,), None, torch.float32, "cpu")
    fields = {key: file.value(key) for key in file.fields if key.startswith("llama.")}
    config = config_from_fields(path, fields, int(embedding.shape[1]), stored.keys(), divisors)
    tensors = tuple(_stored_tensor(file, tensor, config) for tensor in stored.values())
    kind = file.value("tokenizer.ggml.model")
    return Checkpoint(path, "GGUF", config, tensors, TOKENIZERS.get(kind, kind))


def _stored_tensor(file: GGUFFile, tensor: gguf.ReaderTensor, config: LlamaConfig) -> StoredTensor:
    name = translate(tensor.name, FROM_GGUF)
    shape = tuple(int(n) for n in reversed(tensor.shape))  # GGUF counts dimensions from the fastest one
    read = partial(_read, file, tensor, shape, rotated_heads(name, config))
    return StoredTensor(name, tensor.name, shape, tensor.tensor_type.name, tensor.n_bytes, read)


def _read(
    file: GGUFFile,
    tensor: gguf.ReaderTensor,
    shape: tuple[int, ...],
    heads: int | None,
    dtype: torch.dtype,
    device: torch.device | str,
) -> Tensor:
    weight = torch.empty(shape, dtype=dtype, device=device)
    rows, data = weight.view(-1, shape[-1]), tensor.data.reshape(-1, tensor.data.shape[-1])  # a vector is one row
    step = max(1, CHUNK // shape[-1])
    for i in range(0, len(rows), step):
        final = rows[i : i + step]
        numbers = final if final.dtype == torch.float32 and final.device.type == "cpu" else torch.empty(final.shape)
        _dequantise(file, tensor, data[i : i + step], numbers)
        if numbers is not final:
            final.copy_(numbers)
    return adjacent_to_halves(weight, heads) if heads else weight


def _dequantise(
    file: GGUFFile, tensor: gguf.ReaderTensor, data: np.ndarray, out: Float[Tensor, "rows columns"]
) -> None:
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
