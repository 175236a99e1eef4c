"""Times of several contestants, taken in turns, so that other load on the machine affects all of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median

import torch

from .ceilings import Clock, timed
from .contestants import Contestant


@dataclass(frozen=True)
class Times:
    """Seconds of one contestant in each round: the median of its steps; on a GPU, which is not stopped, their mean."""

    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        return median(self.rounds)

    @property
    def spread(self) -> tuple[float, float]:
        """The fastest and the slowest round."""
        return min(self.rounds), max(self.rounds)

    def ratio(self, other: "Times") -> float:
        """Time of `other` over our own time: the median of the ratios of each round."""
        return median(theirs / ours for ours, theirs in zip(self.rounds, other.rounds, strict=True))


def in_turns(tasks: Mapping[str, Callable[[], float]], rounds: int, warm_up: int = 1) -> dict[str, Times]:
    """Run every task once in each round, after `warm_up` rounds that do not count. A task returns its seconds."""
    found: dict[str, list[float]] = {name: [] for name in tasks}
    for number in range(rounds + warm_up):
        for name, task in tasks.items():
            seconds = task()
            if number >= warm_up:
                found[name].append(seconds)
    return {name: Times(tuple(seconds)) for name, seconds in found.items()}


def prefill_seconds(contestant: Contestant, device: torch.device, clock: Clock) -> float:
    return timed(contestant.prefill, device, clock)


def decode_seconds(contestant: Contestant, device: torch.device, clock: Clock, n_tokens: int) -> float:
    """Seconds for each token after the prompt. On a GPU all together: a host sync after each would cost time."""
    contestant.prefill()
    contestant.step()
    if device.type == "cuda":

        def all_of_them() -> None:
            for _ in range(n_tokens):
                contestant.step()

        return timed(all_of_them, device, clock) / n_tokens
    return median(timed(contestant.step, device, clock) for _ in range(n_tokens))


def forget_peak(device: torch.device) -> None:
    """Return PyTorch's cached memory to a GPU, and start a new count of its peak."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> int | None:
    """The most bytes in use: on a GPU since `forget_peak`, else by this process, all contestants together."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return None
    import sys

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
