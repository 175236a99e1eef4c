"""Where things are in this repository, and which modules of the package are its core."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "llama_from_scratch"
SUPPORT = ROOT / "tests" / "support"
DATA = ROOT / "tests" / "data"
CORE = ("config", "norm", "rope", "attention", "feed_forward", "cache", "model")
