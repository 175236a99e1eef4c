"""The container GGUF of llama.cpp: metadata fields and a table of tensors.

Format: ggml/docs/gguf.md in the llama.cpp repository. Without the package `gguf`, importing this is an ImportError.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np

from .errors import CheckpointError

try:
    import gguf
except ModuleNotFoundError:
    raise ImportError("reading GGUF files needs the package gguf; run: pip install gguf") from None


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
