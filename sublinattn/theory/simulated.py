"""Lines of the table of error rates: one per simulated claim and level."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from scipy.stats import binomtest

FAMILY = 500
"""Number of hypotheses in a ledger, about."""
LEVELS = (1e-4, 1e-4 / FAMILY)
"""p-values that refute: of a claim that stands alone, and of each hypothesis of a ledger."""

Decisions = dict[float, np.ndarray]
"""By level, the signed number of trials at which each path is decided: negative if supported, 0 if never."""


def portions(simulations: int, most: int = 50) -> list[int]:
    """How many paths are simulated at a time."""
    return [min(most, simulations - start) for start in range(0, simulations, most)]


def line(
    kind: str, setting: str, truth: str, level: float, horizon: int, simulations: int, **numbers: float
) -> dict[str, Any]:
    """A line of the table; numbers that are not given are nan."""
    rates = {f"{outcome}{end}": np.nan for outcome in ("refuted", "supported") for end in ("", "_low", "_high")}
    given = {"kind": kind, "setting": setting, "truth": truth, "level": level, "horizon": horizon}
    return {**given, "simulations": simulations, **rates, "median": np.nan, "q95": np.nan, **numbers}


def lines(kind: str, setting: str, truth: str, horizon: int, batches: Sequence[Decisions]) -> Iterator[dict[str, Any]]:
    """Lines of the table, one per level, from the decisions on batches of paths."""
    for level in LEVELS:
        decided = np.concatenate([batch[level] for batch in batches])
        numbers: dict[str, float] = {}
        for outcome, hits in (("refuted", decided > 0), ("supported", decided < 0)):
            interval = binomtest(int(hits.sum()), len(decided)).proportion_ci(0.95)
            numbers |= {outcome: hits.mean(), f"{outcome}_low": interval.low, f"{outcome}_high": interval.high}
        if (decided > 0).any():
            numbers |= dict(zip(("median", "q95"), np.quantile(decided[decided > 0], (0.5, 0.95)), strict=True))
        yield line(kind, setting, truth, level, horizon, len(decided), **numbers)
