"""The two limits of this machine, measured: bytes copied and FLOPs of matrix products in a second."""

import time
from collections.abc import Callable
from typing import Literal

import torch

# "cpu" is the CPU time of this process, all threads added up. With one thread it is the better clock on a busy machine;
# with more, threads that wait for each other count as well.
Clock = Literal["wall", "cpu"]
CLOCKS: dict[Clock, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}


def wait(device: torch.device) -> None:
    """Block until the device has finished all work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(run: Callable[[], object], device: torch.device, clock: Clock) -> float:
    """Seconds that `run` takes, including all work that it starts on the device."""
    wait(device)
    start = CLOCKS[clock]()
    run()
    wait(device)
    return CLOCKS[clock]() - start


def best_time(run: Callable[[], object], device: torch.device, clock: Clock, rounds: int) -> float:
    """Seconds of the fastest of several runs, after one warm-up: a ceiling is what can be reached."""
    return min([timed(run, device, clock) for _ in range(rounds + 1)][1:])


def repeats(device: torch.device) -> int:
    """Runs that are timed together: on a GPU, launch and synchronisation would be a large part of a single one."""
    return 8 if device.type == "cuda" else 1


def copy_bandwidth(device: torch.device, clock: Clock, n_bytes: int | None = None, rounds: int = 5) -> float:
    """Bytes read plus bytes written in a second by a copy larger than any cache (1 GiB, on a GPU 4 GiB)."""
    n_bytes = n_bytes or 2 ** (32 if device.type == "cuda" else 30)
    source = torch.ones(n_bytes // 4, device=device)  # ones: pages that were never written all map to one page of zeros
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
