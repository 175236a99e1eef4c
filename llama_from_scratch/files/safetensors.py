"""The container safetensors: the length of a header (8 bytes), the header in JSON, then the bytes of all tensors.

The library refuses a header that is no JSON in UTF-8 or longer than 100 MB, offsets that overlap, leave a hole or do
not fit shape and type, and bytes after the last tensor. A name that stands twice it takes for its last entry; that is
refused here. Format: https://huggingface.co/docs/safetensors
"""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from .errors import CheckpointError, reason
from .mistaken import SAFETENSORS, check_kind
from .strict_json import parse_json


def open_safetensors(path: Path) -> tuple[Any, dict[str, tuple[tuple[int, ...], str]]]:
    """The opened file, whose `get_tensor(name)` is a private view of it, and shape and stored type of each tensor.

    Raises:
        CheckpointError: if it cannot be read, or breaks a rule of the format.
    """
    check_kind(path, SAFETENSORS)
    try:
        file = safe_open(path, framework="pt")
        with path.open("rb") as raw:
            parse_json(raw.read(int.from_bytes(raw.read(8), "little")))
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118, it is not a dict
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({reason(error)}); make it a file that you may read") from None
    except (SafetensorError, ValueError) as error:
        why = str(error).removeprefix("Error while deserializing header: ").partition(", expected one of")[0]
        raise CheckpointError(f"{path} is not a whole safetensors file ({why}); download it again") from None
    return file, {name: (tuple(found.get_shape()), found.get_dtype()) for name, found in slices.items()}
