"""Looking inside a model while it runs."""

from .maps import attention_maps
from .recorder import record

__all__ = ["attention_maps", "record"]
