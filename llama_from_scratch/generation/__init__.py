"""Generation: sampling the next token, the loop around it, speculative decoding, and perplexity."""

from .caches import GrowingCache, fan_out
from .draft import Draft, draft_model, prompt_lookup
from .log_probs import token_log_probs
from .loop import generate, generate_batch, generate_samples, stream_samples
from .perplexity import Evaluation, evaluate
from .sampling import Sampling, next_token, probabilities
from .speculative import Tally, generate_speculative

__all__ = [
    "Draft",
    "Evaluation",
    "GrowingCache",
    "Sampling",
    "Tally",
    "draft_model",
    "evaluate",
    "fan_out",
    "generate",
    "generate_batch",
    "generate_samples",
    "generate_speculative",
    "next_token",
    "probabilities",
    "prompt_lookup",
    "stream_samples",
    "token_log_probs",
]
