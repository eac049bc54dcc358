"""Checks of the workloads' knobs."""

from __future__ import annotations

from typing import Any

import numpy as np


def check(name: str, value: Any, low: float, high: float = np.inf, *, open_ends: bool = False) -> None:
    """ValueError unless `value` is a finite number in [low, high], or in (low, high)."""
    inside = isinstance(value, int | float | np.number) and np.isfinite(value) and low <= value <= high
    if not inside or (open_ends and value in (low, high)):
        raise ValueError(f"{name} must be {'strictly ' if open_ends else ''}between {low} and {high}, got {value!r}")


def check_count(name: str, value: Any, *, least: int = 1, most: float = np.inf) -> None:
    """ValueError unless `value` is an integer in [least, most]."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or not least <= value <= most:
        raise ValueError(f"{name} must be an integer between {least} and {most}, got {value!r}")
