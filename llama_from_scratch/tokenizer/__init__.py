"""Text to token ids and back: byte-level BPE, trained from scratch, and run on the vocabularies of released models."""

from .base import Tokenizer
from .load import load_tokenizer
from .stream import TextStream
from .train import train_bpe

__all__ = ["TextStream", "Tokenizer", "load_tokenizer", "train_bpe"]
