"""The two types of blocks that the embedded model is stored in, decoded several times as fast as the package gguf does.

Each operation goes over a chunk that stays in the processor's cache, in place, and over whole words where it can. The
numbers are the same bit for bit: a code of 4 or 8 bits times an fp16 scale is exact in fp32, and is rounded never or
once, when the smallest value is added. All other types are left to the package.

Format: block_q4_1 and block_q8_0 in ggml/src/ggml-common.h of the llama.cpp repository.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

NIBBLES = 0x0F0F0F0F  # the lower half of each of four bytes


def decode_q4_1(blocks: UInt8[Tensor, "n 20"], out: Float[Tensor, "n 32"]) -> None:
    """Scale and smallest value in fp16, then 16 bytes: lower halves are numbers 0 to 15, upper halves 16 to 31."""
    words = blocks.view(torch.int32)
    scale, smallest = words[:, :1].contiguous().view(torch.float16).float().split(1, dim=1)
    pairs = words[:, 1:].contiguous()
    codes = torch.stack((pairs & NIBBLES, (pairs >> 4) & NIBBLES), dim=1)
    out.copy_(codes.view(torch.uint8).flatten(1)).mul_(scale).add_(smallest)


def decode_q8_0(blocks: UInt8[Tensor, "n 34"], out: Float[Tensor, "n 32"]) -> None:
    """Scale in fp16, then 32 whole numbers of 8 bits, with sign."""
    scale = blocks[:, :2].contiguous().view(torch.float16).float()
    out.copy_(blocks[:, 2:].view(torch.int8)).mul_(scale)


# By the name of the type: how to decode it, and the bytes of a block of 32 numbers.
QUICK: dict[str, tuple[Callable[[Tensor, Tensor], None], int]] = {"Q4_1": (decode_q4_1, 20), "Q8_0": (decode_q8_0, 34)}
