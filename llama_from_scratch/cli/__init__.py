"""The command line: `python -m llama_from_scratch --help`. One module for each command, found by `main`."""

from .main import main

__all__ = ["main"]
