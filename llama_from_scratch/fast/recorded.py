"""A step of a GPU that is recorded once and then started by a single call."""

from collections.abc import Callable, Hashable

import torch
from torch import Tensor

Value = Tensor | Hashable


class Recorded:
    """A function as a CUDA graph: the same kernels on the same memory, without Python and without gaps between them.

    The recording reads copies of the inputs, which each call fills, and writes its result to one place, which the next
    call overwrites. Inputs of other shapes, or other values that are no tensors, make a recording of their own.
    What else the function reads and writes, such as weights and a cache, must stay where it is.
    """

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self.function = function
        self.recordings: dict[tuple, tuple[torch.cuda.CUDAGraph, list[Value], Tensor]] = {}

    def __call__(self, *inputs: Value) -> Tensor:
        kind = tuple((x.shape, x.dtype) if isinstance(x, Tensor) else x for x in inputs)
        if kind not in self.recordings:
            self.recordings[kind] = self._record(inputs)
        graph, own, result = self.recordings[kind]
        for mine, given in zip(own, inputs, strict=True):
            if isinstance(mine, Tensor):
                mine.copy_(given)
        graph.replay()
        return result

    def _record(self, inputs: tuple[Value, ...]) -> tuple[torch.cuda.CUDAGraph, list[Value], Tensor]:
        own = [x.clone() if isinstance(x, Tensor) else x for x in inputs]
        aside = torch.cuda.Stream()  # the first runs compile and choose kernels, which cannot be recorded
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(2):
                self.function(*own)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = self.function(*own)
        return graph, own, result
