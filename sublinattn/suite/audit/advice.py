"""What an audit means for an engineer: which method to take for which head, and which theorem applies to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from ...methods.caches.sink import SINKS
from ...plots.style import METHODS
from .measure import HYPER, SIZES, Audit

KEEP = "exact"
NO_CACHE = ("exact", "zero", HYPER)
"""The two yardsticks, and HyperAttention, which speeds up the prompt but stores every key."""


def advice(audit: Audit, *, tolerance: float = 0.1) -> pd.DataFrame:
    """The method to take for every head: the most accurate cache within the memory budget, or exact attention.

    Parameters
    ----------
    audit : Audit
    tolerance : float
        Largest acceptable relative error (Frobenius norm, over the last queries).

    Returns
    -------
    DataFrame
        layer, head, method (the cache of smallest error, or "exact" if that error exceeds the tolerance), best and
        best_relative (that cache and its error), hyper and uniform (errors of HyperAttention and of uniform sampling),
        theorems (papers whose theorem needs a size below n), reason (a sentence). A head that could not be audited
        keeps exact attention, and its reason says why.

    Raises
    ------
    ValueError
        The tolerance is not above 0.
    """
    check_tolerance(tolerance)
    errors = audit.errors.pivot(index=["layer", "head"], columns="method", values="relative")
    caches = errors.drop(columns=list(NO_CACHE))
    rows = []
    for facts in records(audit.heads):
        layer, head = facts["layer"], facts["head"]
        if facts["problem"]:
            unknown = {"best": "", "best_relative": np.nan, "hyper": np.nan, "uniform": np.nan, "theorems": ""}
            reason = f"not audited: {facts['problem']}"
            rows.append({"layer": layer, "head": head, "method": KEEP, **unknown, "reason": reason})
            continue
        best, error = caches.loc[layer, head].idxmin(), float(caches.loc[layer, head].min())
        method = best if error <= tolerance else KEEP
        rows.append(
            {
                "layer": layer,
                "head": head,
                "method": method,
                "best": best,
                "best_relative": error,
                "hyper": float(errors.loc[(layer, head), HYPER]),
                "uniform": float(errors.loc[(layer, head), "uniform"]),
                "theorems": ", ".join(paper for size, paper in SIZES.items() if facts[size] < facts["n"]),
                "reason": _reason(audit, facts, method, best, error, tolerance),
            }
        )
    return pd.DataFrame(rows)


def check_tolerance(tolerance: float) -> None:
    """Raise a ValueError unless the tolerance is above 0."""
    if not tolerance > 0:
        raise ValueError(f"tolerance must be above 0, got {tolerance}")


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table as mappings by column name."""
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def theorems(audit: Audit) -> pd.DataFrame:
    """For each paper: on how many heads its theorem needs a size below n, and the smallest size over n."""
    ratios = {paper: audit.heads[size] / audit.heads["n"] for size, paper in SIZES.items()}
    return pd.DataFrame(
        [{"paper": paper, "heads": int((r < 1).sum()), "smallest_over_n": r.min()} for paper, r in ratios.items()]
    )


def methods(audit: Audit, recommended: pd.DataFrame) -> pd.DataFrame:
    """For each method: median, smallest and largest relative error over heads, and on how many heads it is the best."""
    table = audit.errors.groupby("method")["relative"].agg(["median", "min", "max"]).sort_values("median")
    table["best_on"] = recommended["best"].value_counts().reindex(table.index, fill_value=0)
    return table.reset_index()


def _reason(audit: Audit, facts: Mapping[str, Any], method: str, best: str, error: float, tolerance: float) -> str:
    budget, label = f"{audit.budget} of the memory", METHODS[best]["label"]
    heavy = f"the heaviest {audit.budget} of the keys receive {facts['heavy_mass']:.0%} of the attention"
    if method == KEEP:
        return (
            f"with {budget} no cache is within {tolerance:.0%}: the best, {label}, has error {error:.2g}, since {heavy}"
        )
    largest = facts["query_norm"] * facts["key_norm"] * audit.about["scale"]
    causes = {
        "sinks": f"the first {SINKS} keys and the latest ones receive {facts['window_mass']:.0%} of the attention",
        "heavy hitters": heavy,
        "k-center": f"clusters of radius {facts['radius']:.3g} cover the keys, and {heavy}",
        "subgen": f"keys form clusters: delta r is {facts['delta_r_log']:.2g} log n at n/32 clusters",
        "streaming state": f"logits are small: at most {largest:.3g} by the norms of queries and keys",
    }
    spread = f"attention is spread out: {heavy}, and alpha without sinks is {facts['alpha_residual']:.3g}"
    return f"with {budget}, {label} has error {error:.2g}: {causes.get(best, spread)}"
