"""What torch.compile needs, and how it is called.

Three functions here use `torch._dynamo` and `torch._inductor`, for which PyTorch has no public names.
"""

from typing import Literal, get_args

import torch
from torch import Tensor

from ..model import Llama

# "blocks": one block is compiled and all run it, which takes seconds. "step": the full step, with the choice of the
# token, is one program, and on CUDA one graph that is launched at once: the least work for Python at each token, but a
# minute or more before the first. "graph", only on CUDA: blocks are compiled, and the step they form is recorded as one
# CUDA graph.
Scope = Literal["blocks", "step", "graph"]

# Lets the compiler write a product with one row as a sum of its own, fused with the conversion of int8 weights.
CUDA_OPTIONS = {"coordinate_descent_tuning": True}
GRAPH_OPTIONS = CUDA_OPTIONS | {"triton.cudagraphs": True}  # the second is what mode="reduce-overhead" sets


def check_scope(model: Llama, scope: Scope) -> None:
    """Whether this model can be compiled so, on its device.

    Raises:
        ValueError: if not.
    """
    if scope not in get_args(Scope):
        raise ValueError(f"compile is {scope!r}; it must be None or one of {', '.join(get_args(Scope))}")
    scaling = model.config.rope_scaling
    if scope == "graph" and model.embedding.weight.device.type != "cuda":
        raise ValueError("compile is 'graph', which only a CUDA device can record; take 'blocks' or 'step' here")
    if scope in ("step", "graph") and scaling is not None and scaling.kind == "dynamic":
        raise ValueError(
            "the frequencies of this model change with the length of the text (rope_scaling dynamic), so no one "
            "program can serve every step; compile its blocks"
        )


def check_compiler(device: torch.device) -> None:
    """Whether torch.compile finds the C++ compiler that it needs on a CPU.

    Raises:
        OSError: if not, in plain words.
    """
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
    """Compile every block, in place, when it first runs; all have the same shapes, so they share one program."""
    for block in model.blocks:
        block.compile(fullgraph=True, **options)


def mark_fixed(tensor: Tensor) -> None:
    """Let CUDA graphs read and write this tensor in place, without a copy. It must stay where it is."""
    torch._dynamo.mark_static_address(tensor)


def mark_any_length(tensor: Tensor, dimension: int) -> None:
    """Let one program serve every size of this dimension."""
    torch._dynamo.maybe_mark_dynamic(tensor, dimension)
