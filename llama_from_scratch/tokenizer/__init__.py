"""Text to token ids and back: byte-level BPE, run from scratch on the vocabularies of released models."""

from .load import load_tokenizer
from .stream import TextStream
from .tokenizer import Tokenizer

__all__ = ["TextStream", "Tokenizer", "load_tokenizer"]
