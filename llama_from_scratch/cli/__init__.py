"""The command line: `python -m llama_from_scratch {generate,chat,inspect}`."""

from .main import main

__all__ = ["main"]
