"""What an audit means for an engineer: per head the method to take, and why; whose theorem says something there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from ...methods.caches.sink import SINKS
from ...plots.style import METHODS
from .measure import HYPER, SIZES, Audit

KEEP = "exact"
YARDSTICKS = ("exact", "zero")
"""Neither is a method that an engineer could take at the budget."""


def advice(audit: Audit, *, tolerance: float = 0.1) -> pd.DataFrame:
    """The method to take for every head.

    Parameters
    ----------
    audit : Audit
    tolerance : float
        Largest relative error (Frobenius, over the last queries) that is acceptable.

    Returns
    -------
    DataFrame
        layer, head, method (the cache of least error, or "exact" where that is above the tolerance), best and
        best_relative (the cache of least error, and it), hyper (HyperAttention's error: it serves a prompt, and is no
        cache), uniform (error of uniform sampling), bites (papers whose theorem's size is below n), reason.

    Raises
    ------
    ValueError
        A tolerance that is not above 0.
    """
    check_tolerance(tolerance)
    errors = audit.errors.pivot(index=["layer", "head"], columns="method", values="relative")
    caches = errors.drop(columns=[*YARDSTICKS, HYPER])
    rows = []
    for facts in records(audit.heads):
        where = (facts["layer"], facts["head"])
        best, error = caches.loc[where].idxmin(), float(caches.loc[where].min())
        taken = best if error <= tolerance else KEEP
        rows.append(
            {
                "layer": where[0],
                "head": where[1],
                "method": taken,
                "best": best,
                "best_relative": error,
                "hyper": float(errors.loc[where, HYPER]),
                "uniform": float(errors.loc[where, "uniform"]),
                "bites": ", ".join(biting(facts)),
                "reason": _reason(audit, facts, taken, best, error, tolerance),
            }
        )
    return pd.DataFrame(rows)


def check_tolerance(tolerance: float) -> None:
    """ValueError unless it is above 0."""
    if not tolerance > 0:
        raise ValueError(f"tolerance must be above 0, got {tolerance}")


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """A table's lines by the names of its columns."""
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def biting(facts: Mapping[str, Any]) -> list[str]:
    """Papers whose theorem asks for less than n."""
    return [paper for size, paper in SIZES.items() if facts[size] < facts["n"]]


def _reason(audit: Audit, facts: Mapping[str, Any], taken: str, best: str, error: float, tolerance: float) -> str:
    about, part, label = audit.about, f"{audit.budget} of the bytes", METHODS[best]["label"]
    heavy = f"the heaviest {audit.budget} of the keys have {facts['heavy_mass']:.0%} of the attention"
    largest = facts["query_norm"] * facts["key_norm"] * about["scale"]
    if taken == KEEP:
        return f"no cache is within {tolerance:.0%} in {part}: the best, {label}, has {error:.2g}; {heavy}"
    why = {
        "sinks": f"the first {SINKS} and the last keys have {facts['window_mass']:.0%} of the attention",
        "heavy hitters": heavy,
        "k-center": f"clusters of radius {facts['radius']:.3g} cover the keys, and {heavy}",
        "subgen": f"keys cluster: delta r is {facts['delta_r_log']:.2g} log n at n/32 clusters",
        "streaming state": f"logits are small: norms allow at most {largest:.3g}",
    }
    spread = f"attention is spread: {heavy}, alpha without sinks is {facts['alpha_residual']:.3g}"
    return f"{label} has {error:.2g} in {part}; {why.get(best, spread)}"
