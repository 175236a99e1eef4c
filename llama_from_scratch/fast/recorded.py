"""A function recorded once as a CUDA graph and then launched by a single call."""

from collections.abc import Callable, Hashable

import torch
from torch import Tensor

Value = Tensor | Hashable


class Recorded:
    """A function as a CUDA graph: the same kernels on the same memory, launched together, without Python.

    Each call copies its inputs to the memory that the recording reads, and returns the tensor that it writes, which the
    next call overwrites. Inputs of other shapes, or other values of inputs that are not tensors, get their own
    recording. Everything else that the function uses, such as weights and a cache, must stay at the same address.
    """

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self.function = function
        self.recordings: dict[tuple, tuple[torch.cuda.CUDAGraph, list[Value], Tensor]] = {}

    def __call__(self, *inputs: Value) -> Tensor:
        kind = tuple((x.shape, x.dtype) if isinstance(x, Tensor) else x for x in inputs)
        if kind not in self.recordings:
            self.recordings[kind] = self._record(inputs)
        graph, own, result = self.recordings[kind]
        for buffer, given in zip(own, inputs, strict=True):
            if isinstance(buffer, Tensor):
                buffer.copy_(given)
        graph.replay()
        return result

    def _record(self, inputs: tuple[Value, ...]) -> tuple[torch.cuda.CUDAGraph, list[Value], Tensor]:
        own = [x.clone() if isinstance(x, Tensor) else x for x in inputs]
        side = torch.cuda.Stream()  # the first runs compile and choose kernels, which cannot be recorded
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                self.function(*own)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = self.function(*own)
        return graph, own, result
