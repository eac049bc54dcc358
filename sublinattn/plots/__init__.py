"""Figures: one style, one way to save, one function per kind of figure."""

from .collision import collision_curves
from .contrast import dropped_assumptions, dropped_in_claims, sabotage_overview
from .cost import stage_breakdown, time_and_memory
from .critical import critical_sizes
from .errors import error_against_budget, error_by_position
from .hardness import column_profile, hardness_over_n
from .heads import head_maps
from .matrix import sorted_matrix
from .publish import publish
from .recursion import recursion_map
from .save import save
from .shares import mask_shares
from .style import COLUMN, METHODS, OKABE_ITO, PAGE, THEORY, method, paper_style

__all__ = [
    "COLUMN",
    "METHODS",
    "OKABE_ITO",
    "PAGE",
    "THEORY",
    "collision_curves",
    "column_profile",
    "critical_sizes",
    "dropped_assumptions",
    "dropped_in_claims",
    "error_against_budget",
    "error_by_position",
    "hardness_over_n",
    "head_maps",
    "mask_shares",
    "method",
    "paper_style",
    "publish",
    "recursion_map",
    "sabotage_overview",
    "save",
    "sorted_matrix",
    "stage_breakdown",
    "time_and_memory",
]
