"""Look inside a model while it runs."""

from fnmatch import fnmatch

import torch
from torch import Tensor

from ..model import Llama


@torch.inference_mode()
def record(model: Llama, tokens: Tensor, *patterns: str) -> dict[str, tuple[Tensor, Tensor]]:
    """Run the model and return {module name: (its input, its output)} for each module whose name fits a pattern.

    Example: `record(model, tokens, "blocks.*.attention_norm")`; a `*` matches any characters, dots included.
    tokens: [batch, seq]. Raises ValueError if a pattern fits no module.
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
