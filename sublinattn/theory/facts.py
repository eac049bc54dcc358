"""Predicates and expressions over the facts that trials report."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import sympy


def evaluate(expression: sympy.Basic, facts: Mapping[str, float]) -> Any:
    """Value of `expression` with its symbols replaced, by name, by the facts; ValueError if one is missing."""
    names, function = _function(expression)
    if missing := [name for name in names if name not in facts]:
        raise ValueError(f"{expression} speaks of {missing}, which the trial does not report (facts {sorted(facts)})")
    return function(*(float(facts[name]) for name in names))


@cache
def _function(expression: sympy.Basic) -> tuple[tuple[str, ...], Any]:
    symbols = sorted(expression.free_symbols, key=str)
    return tuple(map(str, symbols)), sympy.lambdify(symbols, expression, "numpy")
