"""Llama from scratch: one idea, one small module, one chapter. Start reading in `model.py`."""

from .cache import KVCache
from .config import PRESETS, LlamaConfig, RopeScaling
from .model import Block, Llama
from .norm import RMSNorm

__all__ = ["PRESETS", "Block", "KVCache", "Llama", "LlamaConfig", "RMSNorm", "RopeScaling"]
__version__ = "0.1.0"
