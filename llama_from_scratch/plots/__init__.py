"""What the chapters draw. No model code imports this."""

from .style import COLOUR, WIDTH, use_style

__all__ = ["COLOUR", "WIDTH", "use_style"]
