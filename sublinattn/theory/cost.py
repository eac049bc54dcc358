"""Grids of the claims about growth in time, memory and size; their clock is `core.timing.best_of`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def powers(first: int, last: int, step: int = 1) -> tuple[int, ...]:
    """The powers of two from 2^first to 2^last."""
    return tuple(2**i for i in range(first, last + 1, step))


def over(variable: str, sizes: Iterable[Any], **fixed: Any) -> tuple[dict[str, Any], ...]:
    """Cases of a `Growth` claim: one per value of `variable`, the trial's other arguments fixed."""
    return tuple({"variable": variable, variable: size, **fixed} for size in sizes)
