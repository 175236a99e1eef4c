"""Writing text: which token comes next, and the loop that asks the model for it."""

from .caches import GrowingCache, fan_out
from .generate import generate, generate_batch, generate_samples, stream_samples
from .sampling import Sampling, next_token, probabilities

__all__ = [
    "GrowingCache",
    "Sampling",
    "fan_out",
    "generate",
    "generate_batch",
    "generate_samples",
    "next_token",
    "probabilities",
    "stream_samples",
]
