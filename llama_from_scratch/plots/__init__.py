"""What the chapters draw. No model code imports this."""

from .style import COLOUR, FONT_SIZE, LABEL, SIGNS, WIDTH, use_style

__all__ = ["COLOUR", "FONT_SIZE", "LABEL", "SIGNS", "WIDTH", "use_style"]
