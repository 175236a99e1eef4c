"""Small random models for tests of generation: quick, and with logits that differ enough for a clear largest one."""

import torch

from llama_from_scratch import Llama, LlamaConfig

TINY = LlamaConfig(97, 64, 3, 4, 2, 16, 128, max_seq_len=64)


def tiny_model(config: LlamaConfig = TINY, seed: int = 0, scale: float = 0.3) -> Llama:
    """Norm weights far from one and grouped queries, so that mistakes show. A larger scale makes it surer of itself."""
    torch.manual_seed(seed)
    model = Llama(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(0, scale) if weight.dim() == 2 else weight.uniform_(0.5, 1.5)
    return model
