"""AdamW, with weight decay on matrices only."""

import torch
from torch import nn


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Two parameter groups: matrices with weight decay, vectors without. Frozen parameters are in neither.

    Weight decay keeps the weights of a matrix small in directions that the data do not determine. The embedding is a
    matrix like the others; if tied, it is the output projection as well. A norm's weight is a scale near 1 and a bias
    an offset: decay towards 0 would distort both.
    """
    weights = [weight for weight in model.parameters() if weight.requires_grad]  # a tied one comes once
    return [
        {"params": [weight for weight in weights if weight.dim() >= 2], "weight_decay": weight_decay},
        {"params": [weight for weight in weights if weight.dim() < 2], "weight_decay": 0.0},
    ]


def adamw(
    model: nn.Module, learning_rate: float, weight_decay: float = 0.1, betas: tuple[float, float] = (0.9, 0.95)
) -> torch.optim.AdamW:
    """AdamW in one fused kernel where the device has one.

    Source: Loshchilov and Hutter, 2019, arXiv 1711.05101, algorithm 2; betas of Touvron et al., 2023,
    arXiv 2307.09288, section 2.2.
    """
    fused = next(model.parameters()).device.type in ("cpu", "cuda")
    return torch.optim.AdamW(parameter_groups(model, weight_decay), lr=learning_rate, betas=betas, fused=fused)
