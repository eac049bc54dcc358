"""Results as values that strict JSON takes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from typing import Any

import numpy as np


def plain(value: Any, *, digits: int | None = None) -> Any:
    """Dataclasses and mappings as objects, NumPy's numbers as Python's; NaN and infinities as "nan", "inf" and "-inf".

    Floats are rounded to so many significant `digits`, or not at all.
    """
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, Mapping):
        return {str(key): plain(x, digits=digits) for key, x in value.items()}
    if isinstance(value, list | tuple):
        return [plain(x, digits=digits) for x in value]
    if isinstance(value, np.generic):
        value = value.item()
    if not isinstance(value, float):
        return value
    if not math.isfinite(value):
        return str(value)
    return value if digits is None else float(f"{value:.{digits}g}")
