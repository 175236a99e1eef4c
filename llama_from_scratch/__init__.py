"""Llama from scratch: one idea, one small module, one chapter. Start reading in `model.py`."""

import sys

try:
    from .cache import KVCache
    from .config import PRESETS, LlamaConfig, RopeScaling
    from .model import Block, Llama
    from .norm import RMSNorm
except KeyboardInterrupt:
    if sys.argv[0] == "-m":  # `python -m llama_from_scratch`: Ctrl-C while PyTorch is imported
        sys.exit(130)
    raise

__all__ = ["PRESETS", "Block", "KVCache", "Llama", "LlamaConfig", "RMSNorm", "RopeScaling"]
__version__ = "0.1.0"
