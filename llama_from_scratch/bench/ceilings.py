"""The two limits of a machine, measured where it stands: bytes moved and products computed in a second."""

import time
from collections.abc import Callable
from typing import Literal

import torch

# "cpu" is the time that this process was at work, all its threads added up. Beside other work on the machine it says
# more than the time on the wall, as long as there is one thread: threads that wait for each other count as well.
Clock = Literal["wall", "cpu"]
CLOCKS: dict[Clock, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}


def wait(device: torch.device) -> None:
    """Until the device has done all that it was asked to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(run: Callable[[], object], device: torch.device, clock: Clock) -> float:
    """Seconds from an idle device to an idle device."""
    wait(device)
    start = CLOCKS[clock]()
    run()
    wait(device)
    return CLOCKS[clock]() - start


def best_time(run: Callable[[], object], device: torch.device, clock: Clock, rounds: int) -> float:
    """Seconds of the quickest of several runs, after one that does not count: a ceiling is what can be reached."""
    return min([timed(run, device, clock) for _ in range(rounds + 1)][1:])


def repeats(device: torch.device) -> int:
    """Runs that are timed as one: a GPU is done so soon that the way to it and back would count."""
    return 8 if device.type == "cuda" else 1


def copy_bandwidth(device: torch.device, clock: Clock, n_bytes: int | None = None, rounds: int = 5) -> float:
    """Bytes read and written in a second by a copy that is larger than any cache (1 GB, on a GPU 4)."""
    n_bytes = n_bytes or 2 ** (32 if device.type == "cuda" else 30)
    source = torch.ones(n_bytes // 4, device=device)  # ones: pages never written to would all be one page of zeros
    target = torch.ones_like(source)
    n = repeats(device)
    return n * 2 * source.nbytes / best_time(lambda: [target.copy_(source) for _ in range(n)], device, clock, rounds)


def matmul_rate(
    device: torch.device, clock: Clock, dtype: torch.dtype, size: int | None = None, rounds: int = 5
) -> float:
    """FLOP/s of the product of two square matrices (2048 numbers wide, on a GPU 8192)."""
    size = size or (8192 if device.type == "cuda" else 2048)
    a, b, c = torch.randn(3, size, size, device=device).to(dtype)
    n = repeats(device)
    return n * 2 * size**3 / best_time(lambda: [torch.mm(a, b, out=c) for _ in range(n)], device, clock, rounds)
