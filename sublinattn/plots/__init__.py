"""What figures are made with: one style, one grammar, one way to save. The figures stand beside their measurements."""

from __future__ import annotations

from importlib import import_module
from typing import Any

NOT_YET_MOVED = {
    "ablation": (
        "ablation_curves",
        "ablation_parts",
        "ablation_settings",
    ),
    "subgen_cost": (
        "rows_per_chunk",
        "subgen_over_n",
    ),
}
"""Transition: figures that still stand here, by file. A line goes when its figures are `draw` functions of a study."""


def __getattr__(name: str) -> Any:
    for module, names in NOT_YET_MOVED.items():
        if name in names:
            return getattr(import_module(f".{module}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
