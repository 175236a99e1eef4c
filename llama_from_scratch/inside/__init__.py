"""Looking inside a model while it runs."""

from .attention_maps import attention_maps
from .record import record

__all__ = ["attention_maps", "record"]
