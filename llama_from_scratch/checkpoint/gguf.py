"""GGUF, the file format of llama.cpp: one file with the config, the tokenizer and (mostly quantised) weights.

Format: ggml/docs/gguf.md in the llama.cpp repository. Without the package `gguf`, importing this is an ImportError.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..config import LlamaConfig, RopeScaling
from ..rope import adjacent_to_halves, rope_frequencies, scaled_frequencies
from .names import FROM_GGUF, translate
from .stored import Checkpoint, CheckpointError, StoredTensor

try:
    import gguf
except ModuleNotFoundError:
    raise ImportError("reading GGUF files needs the package gguf; run: pip install gguf") from None

CHUNK = 2**18  # numbers dequantised at a time: gguf's temporaries are several times this, and small beside a model
TOKENIZERS = {"gpt2": "byte-level BPE", "llama": "SentencePiece BPE"}


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
            raise CheckpointError(f"{path} is not a whole GGUF file ({error}); download it again") from None

    def _get(self, offset: Any, dtype: Any, count: Any = 1, override_order: Any = None) -> np.ndarray:
        end = int(offset) + np.dtype(dtype).itemsize * int(count)
        if end > len(self.data):
            raise ValueError(f"it ends after {len(self.data)} bytes, and byte {end} is needed")
        return super()._get(offset, dtype, count, override_order)

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
        parts, end, everything = [], start, memoryview(self.data)
        for _ in range(count):
            begin = end + 8
            end = begin + int.from_bytes(everything[end:begin], "little")
            if end > len(everything):
                raise ValueError(f"it ends after {len(everything)} bytes, and byte {end} is needed")
            parts.append(everything[begin:end])
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
    stored = {tensor.name: tensor for tensor in file.tensors}
    divisors = stored.pop("rope_freqs.weight", None)
    config = _config(file, stored, divisors)
    tensors = tuple(_stored_tensor(file, tensor, config) for tensor in stored.values())
    kind = file.value("tokenizer.ggml.model")
    return Checkpoint(path, "GGUF", config, tensors, TOKENIZERS.get(kind, kind))


def _stored_tensor(file: GGUFFile, tensor: gguf.ReaderTensor, config: LlamaConfig) -> StoredTensor:
    name = translate(tensor.name, FROM_GGUF)
    shape = tuple(int(n) for n in reversed(tensor.shape))  # GGUF counts dimensions from the fastest one
    heads = {"q_proj": config.n_heads, "k_proj": config.n_kv_heads}.get(name.split(".")[-2])

    read = partial(_read, file, tensor, shape, heads)
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
    rows = max(1, CHUNK // shape[-1])
    for i in range(0, shape[0], rows):
        weight[i : i + rows] = torch.from_numpy(_dequantise(file, tensor, slice(i, i + rows)))
    return adjacent_to_halves(weight, heads) if heads else weight


def _dequantise(file: GGUFFile, tensor: gguf.ReaderTensor, rows: slice) -> np.ndarray:
    try:
        with np.errstate(all="ignore"):  # NaN and infinity are reported by whoever uses the numbers, once
            return gguf.quants.dequantize(tensor.data[rows], tensor.tensor_type)
    except NotImplementedError:
        raise CheckpointError(
            f"{file.path}: {tensor.name} is stored as {tensor.tensor_type.name}, which the package gguf cannot decode; "
            "use a file with F32, F16, BF16, Q8_0, Q4_0, Q4_1 or K-quants"
        ) from None


def _config(file: GGUFFile, stored: dict[str, gguf.ReaderTensor], divisors: gguf.ReaderTensor | None) -> LlamaConfig:
    architecture = file.value("general.architecture")
    if architecture != "llama":
        raise CheckpointError(f"{file.path} holds the architecture {architecture!r}; only 'llama' can be loaded")
    embedding = stored.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise CheckpointError(f"{file.path}: token_embd.weight is missing or not a matrix; a model needs its embedding")

    def whole(key: str, default: int | None = None) -> int:
        number = file.value(f"llama.{key}", default)
        if type(number) is not int or number < 1:
            raise CheckpointError(f"{file.path}: llama.{key} is {number!r}; it must be a whole number of at least 1")
        return number

    def number(key: str, default: float | None = None) -> float:
        number = file.value(f"llama.{key}", default)
        if type(number) is not float:
            raise CheckpointError(f"{file.path}: llama.{key} is {number!r}; it must be a number with a fraction")
        return _short(number)

    dim, n_heads = whole("embedding_length"), whole("attention.head_count")
    head_dim = whole("attention.key_length", whole("rope.dimension_count", dim // n_heads))
    for key in ("attention.value_length", "rope.dimension_count"):
        if whole(key, head_dim) != head_dim:
            raise CheckpointError(
                f"{file.path}: llama.{key} is {whole(key)} and heads are {head_dim} wide; they must be equal"
            )
    try:
        config = LlamaConfig(
            vocab_size=int(embedding.shape[1]),
            dim=dim,
            n_layers=whole("block_count"),
            n_heads=n_heads,
            n_kv_heads=whole("attention.head_count_kv", n_heads),
            head_dim=head_dim,
            ffn_dim=whole("feed_forward_length"),
            norm_eps=number("attention.layer_norm_rms_epsilon"),
            rope_theta=number("rope.freq_base", 10000.0),
            max_seq_len=whole("context_length"),
            tie_embeddings="output.weight" not in stored,
        )
        return replace(config, rope_scaling=_scaling(file, divisors, config))
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(f"{file.path}: {error}") from None


def _short(number: Any) -> Any:
    """The shortest decimal with this fp32 value: 1e-5, not 9.999999747378752e-06."""
    return float(str(np.float32(number))) if isinstance(number, float) else number


def _scaling(file: GGUFFile, divisors: gguf.ReaderTensor | None, config: LlamaConfig) -> RopeScaling | None:
    prefix = "llama.rope.scal"  # catches the older llama.rope.scale_linear, too
    given = {key.rsplit(".", 1)[-1]: _short(file.value(key)) for key in file.fields if key.startswith(prefix)}
    given.pop("finetuned", None)
    kind = given.pop("type", "none")
    if divisors is not None and kind == "none":
        return _llama3_scaling(file, divisors, config, given.get("original_context_length", 8192))
    if kind == "none" and not given:
        return None
    names = {"factor": "factor", "original_context_length": "original_max_seq_len"}
    names |= {"yarn_beta_fast": "beta_fast", "yarn_beta_slow": "beta_slow"}
    known = all(key in names and type(number) in (int, float) for key, number in given.items())
    if divisors is not None or kind not in ("linear", "yarn") or "factor" not in given or not known:
        raise CheckpointError(
            f"{file.path}: RoPE scaling {kind!r} with {given or 'no settings'} is not known; "
            f"known are rope_freqs.weight alone, and 'linear' or 'yarn' with {', '.join(names)}"
        )
    return RopeScaling(kind, **{names[key]: number for key, number in given.items()})


def _llama3_scaling(
    file: GGUFFile, divisors: gguf.ReaderTensor, config: LlamaConfig, training_context: Any
) -> RopeScaling:
    """Llama 3.1 and later store no rule, only the number that each frequency is divided by. The slowest are divided by
    `factor`, which gives the rule; it is accepted if it explains all the others."""
    if divisors.shape.tolist() == [config.head_dim // 2] and type(training_context) is int:
        numbers = torch.from_numpy(_dequantise(file, divisors, slice(None)).copy())
        scaling = RopeScaling("llama3", float(numbers[-1]), original_max_seq_len=training_context)
        expected, _ = scaled_frequencies(config.head_dim, config.rope_theta, scaling)
        if torch.allclose(rope_frequencies(config.head_dim, config.rope_theta) / numbers, expected, rtol=1e-4, atol=0):
            return scaling
    raise CheckpointError(
        f"{file.path}: rope_freqs.weight does not follow the rule of Llama 3.1 for a training context "
        f"of {training_context}; other rules cannot be loaded"
    )
