"""What the chapters draw. No model code imports this."""

from .record import record
from .style import COLOUR, WIDTH, use_style

__all__ = ["COLOUR", "WIDTH", "record", "use_style"]
