"""The tensors of a file of torch.save, and nothing else of it.

Such a file is a zip archive: one entry is a pickle that names the tensors, and each of the others holds their bytes.
Only tensors are read from the pickle (`weights_only`), memory-mapped, and never any code. torch checks neither where an
entry lies nor its checksum, so that is done here first. Format of archives: APPNOTE.TXT of PKWARE, 4.3.
"""

import re
import struct
import warnings
import zipfile
from collections import Counter
from pathlib import Path

import torch
from torch import Tensor

from .errors import CheckpointError, reason
from .mistaken import TORCH, check_kind

SAFER = "use the safetensors or GGUF version of this model"
TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}  # of the tensors that are read
LOCAL_HEADER = struct.Struct("<4s5H3I2H")  # what stands before the bytes of an entry, less its name and padding
WEIGHTS = re.compile(r"[^/]+/data/\d+")  # the entries that hold the bytes of tensors


def read_pickled_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of one file, on disk. What they claim to be is held against the size of the file before any is read.

    Raises:
        CheckpointError: if the file is anything but a dictionary of plain tensors.
    """
    check_kind(path, TORCH)
    size = path.stat().st_size
    try:
        sizes = _check_archive(path, size)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd pickles; what matters of them is checked below
            content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({reason(error)}); make it a file that you may read") from None
    except Exception as error:  # a hostile pickle can fail in any way
        if found := re.search(r"GLOBAL (\S+)", str(error)):
            raise CheckpointError(
                f"{path} asks for {found[1]} to be run, and holds more than weights; it is not opened: {SAFER}"
            ) from None
        why = str(error) if isinstance(error, zipfile.BadZipFile) else "what it holds is damaged"
        raise CheckpointError(f"{path} is not a whole file of torch.save ({why}); download it again") from None
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise CheckpointError(f"{path} must hold a dictionary of weights by their names; {SAFER}")
    for name, tensor in content.items():
        if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or tensor.dtype not in TYPES.values():
            kind = f"{tensor.dtype} {tensor.layout}" if isinstance(tensor, Tensor) else "not a tensor"
            raise CheckpointError(f"{path}: {name} is {kind}; it must be a dense tensor of {', '.join(TYPES)}")
    if sum(tensor.nbytes for tensor in content.values()) > 2 * size:  # twice, since two names may share one table
        raise CheckpointError(f"{path} claims to hold more numbers than it has; download it again")
    storages = {tensor.data_ptr(): tensor.untyped_storage() for tensor in content.values() if tensor.nbytes}
    found = {storage.data_ptr(): storage.nbytes() for storage in storages.values()}
    if Counter(found.values()) - sizes:
        raise CheckpointError(f"{path} says other sizes of its tensors than of their bytes; download it again")
    return content


def _check_archive(path: Path, size: int) -> Counter[int]:
    """Check that the entries follow each other without a gap from the first byte to the directory at the end, that each
    has one name, and all checksums but those of the weights, which would have to be read for that. Returns how many
    entries with weights have each size.

    Raises:
        CheckpointError: if torch.save would never write it so.
        zipfile.BadZipFile: if it is damaged.
    """
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        entries = sorted(archive.infolist(), key=lambda entry: entry.header_offset)
        # torch never compresses, so nothing in an honest file unfolds to more than the file.
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise CheckpointError(f"{path} is compressed, which torch.save never does; it is not opened: {SAFER}")
        if sum(entry.file_size for entry in entries) > size:
            raise CheckpointError(f"{path} claims to hold more bytes than it has; it is not opened: {SAFER}")
        if len({entry.filename for entry in entries}) < len(entries):
            raise zipfile.BadZipFile("it names an entry twice")
        end = 0
        for entry in entries:
            file.seek(end)
            header = LOCAL_HEADER.unpack(file.read(LOCAL_HEADER.size))
            name = file.read(header[-2]).decode()
            if entry.header_offset != end or header[0] != b"PK\x03\x04" or name != entry.filename:
                raise zipfile.BadZipFile(f"byte {end} should begin the entry {entry.filename}")
            end += LOCAL_HEADER.size + header[-2] + header[-1] + entry.file_size
            if (
                entry.flag_bits & 8
            ):  # checksum and sizes, two of 4 bytes or, of a large file, of 8, come after the bytes
                file.seek(end)
                mark, checksum, *rest = struct.unpack("<4sI4I", file.read(24).ljust(24, b"\0"))
                wide = rest[0] != entry.file_size or rest[1] != entry.file_size
                sizes = struct.unpack("<2Q", struct.pack("<4I", *rest)) if wide else rest[:2]
                if (mark, checksum, *sizes) != (b"PK\x07\x08", entry.CRC, entry.file_size, entry.file_size):
                    raise zipfile.BadZipFile(f"sizes of {entry.filename} differ in its two places")
                end += 24 if wide else 16
            if not WEIGHTS.fullmatch(entry.filename):
                archive.read(entry)  # compares its checksum
        if end != archive.start_dir:
            raise zipfile.BadZipFile(f"its entries end at byte {end}, and its directory begins at {archive.start_dir}")
        return Counter(entry.file_size for entry in entries if WEIGHTS.fullmatch(entry.filename))
