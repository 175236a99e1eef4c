"""The tensors of a file of torch.save, and nothing else of it.

Such files are zip archives with a pickle inside. Only its tensors are read (`weights_only`), memory-mapped, and never
any code.
"""

import re
import warnings
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from .errors import CheckpointError, reason

SAFER = "use the safetensors or GGUF version of this model"
TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}  # of the tensors that are read


def read_pickled_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of one file, on disk. What they claim to be is held against the size of the file before any is read.

    Raises:
        CheckpointError: if the file is anything but a dictionary of plain tensors.
    """
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
        # torch never compresses, so nothing in an honest file unfolds to more than the file.
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise CheckpointError(f"{path} is compressed, which torch.save never does; it is not opened: {SAFER}")
        if sum(entry.file_size for entry in entries) > size:
            raise CheckpointError(f"{path} claims to hold more bytes than it has; it is not opened: {SAFER}")
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
            kind = f"{tensor.dtype} {tensor.layout}" if isinstance(tensor, Tensor) else "no tensor"
            raise CheckpointError(f"{path}: {name} is {kind}; it must be a dense tensor of {', '.join(TYPES)}")
    if sum(tensor.nbytes for tensor in content.values()) > 2 * size:  # twice, since two names may share one table
        raise CheckpointError(f"{path} claims to hold more numbers than it has; download it again")
    return content
