"""Replace the matrices of a model by quantised ones."""

from typing import Literal

from torch import nn

from ..model import Llama
from .int4 import Int4Linear
from .int8 import Int8Linear

Bits = Literal["int8", "int4"]
KINDS = {"int8": Int8Linear, "int4": Int4Linear}


def quantise(model: Llama, bits: Bits) -> None:
    """Quantise, in place, the matrices of every block and the output projection.

    The output projection is int8 in both cases; llama.cpp, too, gives it more bits than the other matrices. The
    embedding table, of which one row is read for each token, stays as it is, as do norms, activations and cache.

    Raises:
        ValueError: for other `bits`; for int4 and a matrix that its kernels cannot multiply.
    """
    if bits not in KINDS:
        raise ValueError(f"weights cannot be quantised to {bits!r}; give one of {', '.join(KINDS)}")
    for block in model.blocks:
        for part in (block.attention, block.feed_forward):
            for name, child in list(part.named_children()):
                if isinstance(child, nn.Linear):
                    setattr(part, name, KINDS[bits].from_linear(child))
    head = model.lm_head
    if head is None:  # tied: a view of the embedding table, for reading only
        rows, columns = model.embedding.weight.shape
        head = nn.Linear(columns, rows, bias=False, device="meta")
        head.weight = model.embedding.weight
    model.lm_head = Int8Linear.from_linear(head)
