"""The bytes that a decoding step reads, and the machine that a measurement ran on."""

import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch import Tensor

from ..fast.int4 import Int4Linear
from ..model import Llama


def bytes_read(model: Llama) -> int:
    """Bytes of weights that one decoding step reads: all but the embedding table, of which it reads one row a sequence.

    A tied table is read in full, as the output projection. int4 holds its codes in two orders, and decoding reads one.
    """
    tensors: dict[str, Tensor] = dict(model.named_parameters()) | dict(model.named_buffers())
    if model.lm_head is not None:
        del tensors["embedding.weight"]
    for name, module in model.named_modules():
        if isinstance(module, Int4Linear):
            del tensors[f"{name}.pairs"]
    return sum(tensor.nbytes for tensor in tensors.values())


def machine(device: torch.device) -> dict[str, str | int]:
    """Device, versions, command and date, under the words that the result shows."""
    arguments = sys.argv[1:]
    if "--json" in arguments:  # the place of the result did not influence it
        at = arguments.index("--json")
        arguments = arguments[:at] + arguments[at + 2 :]
    arguments = [argument for argument in arguments if not argument.startswith("--json=")]
    found: dict[str, str | int] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python -m llama_from_scratch", *arguments]),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }
    if device.type == "cuda":
        found["memory, bytes"] = torch.cuda.get_device_properties(device).total_memory
        found["CUDA"] = torch.version.cuda
    for package in ("torch", "triton", "transformers", "llama_cpp_python"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            pass
    try:
        load = Path("/proc/loadavg").read_text().split()[0]
        found["others"] = f"load average {load}, this run included"
    except OSError:  # not on every system
        pass
    return found


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
