"""Released weights in, models out: one module for each file format, one table of names for each."""

from pathlib import Path

import torch

from ..model import Llama
from .embedded import EMBEDDED, embedded_path


def load_model(name: str, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Llama:
    """Load a model: the name of the embedded one, or the path of a GGUF file."""
    from .gguf import read_gguf

    path = embedded_path() if name == EMBEDDED else Path(name)
    config, weights = read_gguf(path, dtype)
    with torch.device("meta"):
        model = Llama(config)
    model.load_state_dict(weights, assign=True)
    return model.to(device).eval()
