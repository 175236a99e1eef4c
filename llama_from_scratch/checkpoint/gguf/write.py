"""Writing a GGUF file that llama.cpp, transformers and this package read."""

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from ...files.atomic import staging_folder
from ...files.errors import CheckpointError, ExistsError, WriteError, being_written, reason
from ...files.gguf import gguf
from ...rope import halves_to_adjacent
from ..names import TO_GGUF, rotated_heads, translate
from ..stored import TYPES, Checkpoint, StoredTensor, read_to_write
from .config import check_sayable, config_to_fields, rope_divisors

GGUF_TYPES = (*TYPES, "Q8_0")
UNUSED = int(gguf.TokenType.UNUSED)
BLOCK = 32  # numbers that share a scale in Q8_0


@runtime_checkable
class GGUFTokenizer(Protocol):
    """A tokenizer that can be written into a GGUF file."""

    def gguf_fields(self) -> dict[str, Any]: ...


def save_gguf(
    checkpoint: Checkpoint,
    path: Path,
    stored_type: str,
    *,
    tokenizer: GGUFTokenizer | None = None,
    overwrite: bool = False,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Write one GGUF file. Matrices are stored as `stored_type`, norms and biases always as F32, as llama.cpp wants it.

    Only one tensor is in memory at a time. The file is written completely beside its place, then moved there: whoever
    runs out of disk, or stops this while it writes, keeps what was there before.

    A matrix whose rows are no multiple of 32 numbers long does not fit Q8_0; it is stored as F16, with a warning.

    stored_type: "F32", "F16", "BF16" or "Q8_0". tokenizer: is stored in the file; None makes a file without one.
    progress: called with the bytes of the checkpoint (`StoredTensor.n_bytes`) that have been written so far.
    Raises:
        CheckpointError: if the file exists and `overwrite` is False, if GGUF cannot say the config, if the tokenizer
            has more tokens than the model, if a weight does not fit the type, or if the disk is full or not writable.
    """
    if stored_type not in GGUF_TYPES:
        raise CheckpointError(f"the type is {stored_type!r}; a GGUF file can be written as {', '.join(GGUF_TYPES)}")
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder; give the name of a file, such as {path / 'model.gguf'}")
    if path.exists() and not overwrite:
        raise ExistsError(f"{path} already exists", "choose another name")
    if not path.parent.is_dir():
        raise CheckpointError(f"{path.parent} is not a folder; create it, or choose another place for {path.name}")
    names = {tensor.name: translate(tensor.name, TO_GGUF) for tensor in checkpoint.tensors}
    check_sayable(path, checkpoint.config, names.values())
    kinds = {tensor.name: _kind(tensor, stored_type) for tensor in checkpoint.tensors}
    _warn(checkpoint, names, kinds, stored_type)
    fields = _general(path, stored_type) | config_to_fields(checkpoint.config)
    fields |= _tokenizer_fields(path, tokenizer, checkpoint.config.vocab_size)
    place = Path(os.path.realpath(path))  # a link stays a link; what it points to is replaced
    try:
        with staging_folder(place, being_written(path)) as staging:
            writer = gguf.GGUFWriter(staging / path.name, "llama")
            try:
                _write(writer, checkpoint, fields, names, kinds, progress or (lambda done: None))
            finally:
                writer.close()
            os.replace(staging / path.name, place)
    except OSError as error:
        raise WriteError(path, reason(error)) from None


def _kind(tensor: StoredTensor, stored_type: str) -> str:
    if len(tensor.shape) == 1:
        return "F32"
    return "F16" if stored_type == "Q8_0" and tensor.shape[-1] % BLOCK else stored_type


def _warn(checkpoint: Checkpoint, names: dict[str, str], kinds: dict[str, str], stored_type: str) -> None:
    """Say what the file holds, or how it will run, that whoever asked for it may not expect."""
    unfit = [names[name] for name, kind in kinds.items() if stored_type == "Q8_0" and kind == "F16"]
    if unfit:
        warnings.warn(
            f"stored as F16, because Q8_0 needs rows of a multiple of {BLOCK} numbers: {unfit[0]} and all like it",
            stacklevel=3,
        )
    scaling = checkpoint.config.rope_scaling
    if scaling and scaling.kind == "yarn" and (scaling.beta_fast, scaling.beta_slow) != (32, 1):
        warnings.warn(
            "the file says YaRN's beta_fast and beta_slow, which llama.cpp reads for other models only: "
            "it will run this one as if they were 32 and 1, and give other tokens",
            stacklevel=3,
        )


def _general(path: Path, stored_type: str) -> dict[str, Any]:
    file_type = "ALL_F32" if stored_type == "F32" else f"MOSTLY_{stored_type}"
    return {
        "general.type": "model",
        "general.name": path.stem,
        "general.file_type": int(gguf.LlamaFileType[file_type]),
        "general.quantization_version": gguf.GGML_QUANT_VERSION,
    }


def _tokenizer_fields(path: Path, tokenizer: GGUFTokenizer | None, vocab_size: int) -> dict[str, Any]:
    if tokenizer is None:
        return {"tokenizer.ggml.model": "no_vocab"}
    try:
        fields = tokenizer.gguf_fields()
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None
    n = len(fields["tokenizer.ggml.tokens"])
    if n > vocab_size:
        raise CheckpointError(
            f"{path}: the tokenizer has {n} tokens and the model {vocab_size}; give it its own tokenizer"
        )
    # llama.cpp wants a token for each row of the embedding; some models have more rows than tokens.
    rows = range(n, vocab_size)
    fields["tokenizer.ggml.tokens"] += [f"[PAD{i}]" for i in rows]
    fields["tokenizer.ggml.token_type"] += [UNUSED for _ in rows]
    if "tokenizer.ggml.scores" in fields:
        fields["tokenizer.ggml.scores"] += [0.0 for _ in rows]
    return fields


def _write(
    writer: gguf.GGUFWriter,
    checkpoint: Checkpoint,
    fields: dict[str, Any],
    names: dict[str, str],
    kinds: dict[str, str],
    progress: Callable[[int], None],
) -> None:
    for key, value in fields.items():
        _add(writer, key, value)
    divisors = rope_divisors(checkpoint.config)
    if divisors is not None:
        _announce(writer, "rope_freqs.weight", tuple(divisors.shape), "F32")
    for tensor in checkpoint.tensors:
        _announce(writer, names[tensor.name], tensor.shape, kinds[tensor.name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    if divisors is not None:
        writer.write_tensor_data(divisors.numpy())
    done = 0
    for tensor in checkpoint.tensors:
        writer.write_tensor_data(_bytes(checkpoint, tensor, kinds[tensor.name]))
        done += tensor.n_bytes
        progress(done)
    writer.flush()
    os.fsync(writer.fout[0].fileno())


def _add(writer: gguf.GGUFWriter, key: str, value: str | bool | int | float | list) -> None:
    """With the type that llama.cpp expects: whole numbers in 32 bits without sign, others in fp32."""
    adders = {str: writer.add_string, bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32}
    (adders.get(type(value)) or writer.add_array)(key, value)


def _announce(writer: gguf.GGUFWriter, name: str, shape: tuple[int, ...], kind: str) -> None:
    kind = gguf.GGMLQuantizationType[kind]
    n_bytes = int(np.prod(gguf.quant_shape_to_byte_shape(shape, kind)))
    writer.add_tensor_info(name, shape, np.dtype(np.float32), n_bytes, raw_dtype=kind)


def _bytes(checkpoint: Checkpoint, tensor: StoredTensor, kind: str) -> np.ndarray:
    if kind != "Q8_0":
        return _adjacent(checkpoint, tensor, read_to_write(checkpoint, tensor, kind)).view(torch.uint8).numpy()
    weight = _adjacent(checkpoint, tensor, read_to_write(checkpoint, tensor, "F32"))
    with np.errstate(over="ignore"):
        data = gguf.quants.quantize(weight.numpy(), gguf.GGMLQuantizationType.Q8_0)
    scales = data.reshape(-1, 2 + BLOCK)[:, :2].copy().view(np.float16)
    if not np.isfinite(scales).all():
        raise CheckpointError(
            f"{checkpoint.path}: {tensor.stored_name} has numbers up to {weight.abs().max():.3g}, too large for Q8_0, "
            "whose scales are F16; write F32 or BF16"
        )
    return data


def _adjacent(checkpoint: Checkpoint, tensor: StoredTensor, weight: Tensor) -> Tensor:
    heads = rotated_heads(tensor.name, checkpoint.config)
    return (halves_to_adjacent(weight, heads) if heads else weight).contiguous()
