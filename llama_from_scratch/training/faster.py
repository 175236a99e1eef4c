"""Training in less time or less memory. Neither switch changes what is computed."""

from types import MethodType

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..fast.compile import check_compiler, compile_blocks
from ..model import Block, Llama
from .loss import NextTokenLoss


def compile_training(objective: NextTokenLoss) -> None:
    """Compile the blocks and the loss of the logits, in place, when they first run.

    Compiling helps the loss as well: uncompiled, it writes the logits of a part four times in fp32.

    Raises:
        OSError: if there is no compiler.
    """
    check_compiler(next(objective.parameters()).device)
    compile_blocks(objective.model)
    objective.loss_of_logits = torch.compile(objective.loss_of_logits, fullgraph=True)


def recompute_blocks(model: Llama) -> None:
    """Activation checkpointing, in place: only the input of each block is kept; the backward pass recomputes the rest.

    A step then has four passes through the blocks instead of three (`cost.training_flops`, recompute "full").
    Source: Chen et al., 2016, arXiv 1604.06174.
    """
    for block in model.blocks:
        block.forward = MethodType(_recomputed, block)


def _recomputed(block: Block, *arguments: Tensor | None) -> Tensor:
    def inside(*arguments: Tensor | None) -> Tensor:
        return Block.forward(block, *arguments)

    return checkpoint(inside, *arguments, use_reentrant=False, preserve_rng_state=False)
