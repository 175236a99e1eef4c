"""Writing text: which token comes next, and the loop that asks the model for it."""

from .generate import generate, generate_batch
from .sampling import Sampling, next_token

__all__ = ["Sampling", "generate", "generate_batch", "next_token"]
