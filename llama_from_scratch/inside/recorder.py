"""Record what modules read and write while a model runs."""

from fnmatch import fnmatch

import torch
from jaxtyping import Int
from torch import Tensor

from ..model import Llama


@torch.inference_mode()
def record(model: Llama, tokens: Int[Tensor, "batch seq"], *patterns: str) -> dict[str, tuple[Tensor, Tensor]]:
    """Run the model; returns {module name: (its first input, its first output)} for modules whose name fits a pattern.

    Example: `record(model, tokens, "blocks.*.attention_norm")`. A `*` matches any characters, dots included. Inputs and
    outputs are copies, in the order in which the modules finished.

    Raises:
        ValueError: if a pattern fits no module, and as the model does.
    """
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    hooks = []
    for pattern in patterns:
        names = [name for name, _ in model.named_modules() if name and fnmatch(name, pattern)]
        if not names:
            raise ValueError(f"no module fits {pattern!r}; print(model) shows their names")
        for name in names:

            def keep(module, inputs, output, name=name):
                seen[name] = (inputs[0].clone(), output[0].clone() if isinstance(output, tuple) else output.clone())

            hooks.append(model.get_submodule(name).register_forward_hook(keep))
    try:
        model(tokens)
    finally:
        for hook in hooks:
            hook.remove()
    return seen
