"""Figures: one style, one way to save."""

from .save import save
from .style import COLUMN, METHODS, OKABE_ITO, PAGE, THEORY, method, paper_style

__all__ = ["COLUMN", "METHODS", "OKABE_ITO", "PAGE", "THEORY", "method", "paper_style", "save"]
