"""The container GGUF of llama.cpp: metadata fields, then a table of tensors, then their bytes.

All numbers are little-endian; a string is its length (8 bytes) and its UTF-8 bytes.

    header   "GGUF"  version: u32  n_tensors: u64  n_fields: u64
    field    key: string  type: u32  value; of an array: type of its items: u32  count: u64  items
    tensor   name: string  n_dims: u32  dims: n_dims x u64, fastest first  type: u32  offset: u64, in the data
    data     each tensor begins at a multiple of the alignment, where the one before it ends

Format: ggml/docs/gguf.md in the llama.cpp repository. What is refused is what ggml/src/gguf.cpp refuses there, and
bytes that belong to no tensor. Without the package `gguf`, importing this is an ImportError.
"""

import math
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .errors import CheckpointError, reason, shortened
from .mistaken import GGUF, check_kind

try:
    import gguf
except ModuleNotFoundError:
    raise ImportError("reading GGUF files needs the package gguf; run: pip install gguf") from None

ValueType, TensorType = gguf.GGUFValueType, gguf.GGMLQuantizationType
NUMBERS = {  # format of the module struct, which NumPy knows as well
    ValueType.UINT8: "<B",
    ValueType.INT8: "<b",
    ValueType.UINT16: "<H",
    ValueType.INT16: "<h",
    ValueType.UINT32: "<I",
    ValueType.INT32: "<i",
    ValueType.UINT64: "<Q",
    ValueType.INT64: "<q",
    ValueType.FLOAT32: "<f",
    ValueType.FLOAT64: "<d",
    ValueType.BOOL: "<?",
}
MAX_DIMS, MAX_NAME = 4, 63  # GGML_MAX_DIMS, and GGML_MAX_NAME less the zero byte at the end


class Field(NamedTuple):
    """A metadata value, not decoded yet."""

    types: tuple[ValueType, ...]  # (STRING,), or (ARRAY, STRING)
    count: int  # items of an array; else 1
    raw: memoryview  # all items, each string with its length

    def contents(self) -> Any:
        """A number, a bool, a str, or a list of them; UnicodeDecodeError for a string that is not UTF-8."""
        kind, items = self.types[-1], []
        if kind in NUMBERS:
            items = np.frombuffer(self.raw, NUMBERS[kind], self.count).tolist()
        else:
            end = 0
            for _ in range(self.count):
                begin = end + 8
                end = begin + int.from_bytes(self.raw[end:begin], "little")
                items.append(str(self.raw[begin:end], "utf-8"))
        return items if len(self.types) == 2 else items[0]


class Tensor(NamedTuple):
    """A tensor in the file."""

    name: str
    shape: tuple[int, ...]  # slowest dimension first, as torch counts
    tensor_type: TensorType
    n_bytes: int
    data: np.ndarray  # its bytes as uint8, a private view of the file: [rows, bytes of a row]


class GGUFFile:
    """The fields and the table of tensors of a file; the bytes of a tensor are read when they are looked at.

    Raises:
        CheckpointError: if the file cannot be read, or is not a whole, well-formed GGUF file.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = path
        check_kind(Path(path), GGUF)
        try:
            # Private pages: arrays are writable, as torch wants them, and the file stays as it is. A plain array, since
            # slices of a memory map cost more than what is done with them.
            self._array = np.asarray(np.memmap(path, mode="c"))
        except OSError as error:
            raise CheckpointError(
                f"{path} cannot be read ({reason(error)}); make it a file that you may read"
            ) from None
        self._bytes, self._at = memoryview(self._array), 0
        try:
            n_tensors, n_fields = self._header()
            self.fields: dict[str, Field] = {}
            for _ in range(n_fields):
                self._field()
            alignment = self._alignment()
            infos = [self._tensor_info() for _ in range(n_tensors)]
            self.tensors = self._tensors(infos, alignment)
        except ValueError as error:
            why = "a name in it is not UTF-8" if isinstance(error, UnicodeDecodeError) else shortened(str(error))
            raise CheckpointError(f"{path} is not a whole GGUF file ({why}); download it again") from None

    def value(self, key: str, default: Any = None) -> Any:
        """The value of a metadata key (arrays become lists, strings str), or `default` if the file has none.

        Raises:
            CheckpointError: for a string that is not UTF-8.
        """
        if key not in self.fields:
            return default
        try:
            return self.fields[key].contents()
        except UnicodeDecodeError:
            raise CheckpointError(f"{self.path}: {key} is not valid UTF-8; download it again") from None

    def _take(self, n_bytes: int) -> memoryview:
        begin, end = self._at, self._at + n_bytes
        if end > len(self._bytes):
            raise ValueError(f"it ends after {len(self._bytes)} bytes, and byte {end} is needed")
        self._at = end
        return self._bytes[begin:end]

    def _numbers(self, layout: str) -> tuple[int, ...]:
        return struct.unpack(layout, self._take(struct.calcsize(layout)))

    def _name(self, what: str) -> str:
        (length,) = self._numbers("<Q")
        name = str(self._take(length), "utf-8")
        if not name:
            raise ValueError(f"the name of a {what} is empty")
        return name

    def _header(self) -> tuple[int, int]:
        if self._take(4) != b"GGUF":
            raise ValueError("its first four bytes are not GGUF")
        (version,) = self._numbers("<I")
        if version & 0xFFFF == 0 and version:
            raise ValueError("it is big-endian, and only little-endian files can be read")
        if version not in (2, 3):
            raise ValueError(f"its version is {version}, and only versions 2 and 3 can be read")
        n_tensors, n_fields = self._numbers("<QQ")
        # The shortest field has a key of one letter and one byte, the shortest tensor a name of one letter.
        if n_fields * 14 + n_tensors * 33 > len(self._bytes) - self._at:
            raise ValueError(f"it has no room for its {n_fields} metadata entries and {n_tensors} tensors")
        return n_tensors, n_fields

    def _field(self) -> None:
        key = self._name("metadata entry")
        if key in self.fields:
            raise ValueError(f"it holds the key {key} twice")
        kind, count = self._value_type(key), 1
        types = (kind,)
        if kind == ValueType.ARRAY:
            kind = self._value_type(key)
            types = (ValueType.ARRAY, kind)
            (count,) = self._numbers("<Q")
        if kind == ValueType.ARRAY:
            raise ValueError(f"{key} is an array of arrays, which cannot be read")
        begin = self._at
        if kind == ValueType.STRING:
            self._skip_strings(count)
        else:
            self._take(count * struct.calcsize(NUMBERS[kind]))
        raw = self._bytes[begin : self._at]
        if kind == ValueType.BOOL and not set(raw) <= {0, 1}:
            raise ValueError(f"{key} is {max(raw)}, and true or false is 1 or 0")
        self.fields[key] = Field(types, count, raw)

    def _value_type(self, key: str) -> ValueType:
        (kind,) = self._numbers("<I")
        if kind not in ValueType._value2member_map_:
            raise ValueError(f"{key} has the type {kind}, which is not known")
        return ValueType(kind)

    def _skip_strings(self, count: int) -> None:
        """A loop of its own: a tokenizer has 100,000 strings."""
        everything, end = self._bytes, self._at
        size = len(everything)
        if end + 8 * count > size:
            raise ValueError(f"it ends after {size} bytes, and byte {end + 8 * count} is needed")
        length = struct.Struct("<Q").unpack_from
        for _ in range(count):
            if end + 8 > size:
                break
            end += 8 + length(everything, end)[0]
        self._take(end - self._at)

    def _alignment(self) -> int:
        field = self.fields.get("general.alignment")
        if field is None:
            return gguf.GGUF_DEFAULT_ALIGNMENT
        if field.types != (ValueType.UINT32,):
            raise ValueError("its general.alignment is not a number of 32 bits without sign")
        alignment = field.contents()
        if alignment.bit_count() != 1:
            raise ValueError(f"its general.alignment is {alignment}, and must be a power of two")
        return alignment

    def _tensor_info(self) -> tuple[str, tuple[int, ...], TensorType, int]:
        name = self._name("tensor")
        if len(name.encode()) > MAX_NAME:
            raise ValueError(f"the name of a tensor has {len(name.encode())} bytes, and may have {MAX_NAME}")
        (n_dims,) = self._numbers("<I")
        if not 1 <= n_dims <= MAX_DIMS:
            raise ValueError(f"{name} has {n_dims} dimensions, and may have 1 to {MAX_DIMS}")
        shape = self._numbers(f"<{n_dims}Q")[::-1]
        if not all(shape):
            raise ValueError(f"{name} has the shape {shape}, and every dimension must be at least 1")
        kind, offset = self._numbers("<IQ")
        if kind not in TensorType._value2member_map_:
            raise ValueError(f"{name} has the type {kind}, which is not known")
        return name, shape, TensorType(kind), offset

    def _tensors(self, infos: list[tuple[str, tuple[int, ...], TensorType, int]], alignment: int) -> list[Tensor]:
        """Check that the tensors follow each other, with only padding to the alignment between and after them."""
        size, start = len(self._bytes), _padded(self._at, alignment)
        tensors, names, end, expected = [], set(), self._at, 0
        for name, shape, kind, offset in infos:
            if name in names:
                raise ValueError(f"it holds the tensor {name} twice")
            names.add(name)
            per_block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
            if shape[-1] % per_block:
                raise ValueError(
                    f"{name} has rows of {shape[-1]} numbers, and {kind.name} needs a multiple of {per_block}"
                )
            row_bytes = shape[-1] // per_block * block_bytes
            n_bytes = math.prod(shape[:-1]) * row_bytes  # Python's numbers do not wrap
            if offset != expected:
                raise ValueError(
                    f"{name} begins at byte {offset} of the data, and the tensors before it end at {expected}"
                )
            begin, end = start + offset, start + offset + n_bytes
            if end > size:
                raise ValueError(f"it ends after {size} bytes, and byte {end} is needed")
            tensors.append(Tensor(name, shape, kind, n_bytes, self._array[begin:end].reshape(-1, row_bytes)))
            expected = _padded(offset + n_bytes, alignment)
        if size not in (end, start + expected):  # some writers leave out the padding of the last tensor
            raise ValueError(f"its tensors end at byte {end}, and it has {size} bytes")
        return tensors


def _padded(position: int, alignment: int) -> int:
    """The next multiple of the alignment, or the position itself if it is one."""
    return -(-position // alignment) * alignment
