"""What torch.compile is asked for, and what it needs."""

from typing import Literal

import torch

from ..model import Llama

# "blocks": one block is compiled and all run it: seconds. "step": the whole step, choice of the token included, becomes
# one program, on CUDA a graph that is launched at once: less work for Python at each token, a minute or more before
# the first. "graph", on CUDA only: blocks are compiled, and the step that they make up is recorded as one graph.
Scope = Literal["blocks", "step", "graph"]

# Lets the compiler write a product with one row as a sum of its own, which takes in the conversion of int8 weights.
CUDA_OPTIONS = {"coordinate_descent_tuning": True}
GRAPH_OPTIONS = CUDA_OPTIONS | {"triton.cudagraphs": True}  # the second is what mode="reduce-overhead" means


def check_compiler(device: torch.device) -> None:
    """Raise OSError, in plain words, where torch.compile has no C++ compiler to work with."""
    if device.type != "cpu":
        return
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except Exception:
        raise OSError(
            "compiling needs a C++ compiler and none was found; install g++ or clang++ (Debian: apt install g++), or "
            "run without compiling"
        ) from None


def compile_blocks(model: Llama, **options: object) -> None:
    """Compile every block, in place, when it first runs; they have the same shapes, so the first does it for all."""
    for block in model.blocks:
        block.compile(fullgraph=True, **options)
