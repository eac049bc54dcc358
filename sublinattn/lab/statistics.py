"""Limits that several figures state: means and rates with their 99 percent intervals."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.special import ndtri, stdtrit


def mean_and_reach(values: np.ndarray) -> tuple[float, float]:
    """Mean, and how far the 99 percent t-interval reaches on either side."""
    reach = stdtrit(len(values) - 1, 0.5 + CONFIDENCE / 2) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean()), float(reach)


CONFIDENCE = 0.99


def proportion(hits: int, trials: int) -> tuple[float, float, float]:
    """Rate and its exact (Clopper-Pearson) limits, two-sided."""
    from scipy.stats import binomtest  # a third of a second, and few figures need it

    interval = binomtest(hits, trials).proportion_ci(CONFIDENCE, "exact")
    return hits / trials, float(interval.low), float(interval.high)


Z = float(ndtri(0.5 + CONFIDENCE / 2))


def growth_exponents(rows: pd.DataFrame, quantity: str) -> pd.DataFrame:
    """Least-squares slopes of log `quantity` on log n, fitted to each replicate (or head) by itself.

    Returns
    -------
    DataFrame
        input, exponent (their mean), lower, upper (99 percent limits of the mean, Student's t), 10 %, 90 % (of the
        slopes), fits.
    """
    found = []
    for name, group in rows.groupby("input", sort=False):
        slopes = np.array(
            [np.polyfit(np.log(one["n"]), np.log(one[quantity]), 1)[0] for _, one in group.groupby("replicate")]
        )
        slopes = slopes.round(12) + 0.0  # a constant count has slope 0, not rounding
        middle, reach = mean_and_reach(slopes)
        found.append((name, middle, middle - reach, middle + reach, *np.quantile(slopes, [0.1, 0.9]), len(slopes)))
    return pd.DataFrame(found, columns=["input", "exponent", "lower", "upper", "10 %", "90 %", "fits"])


def largest_excess(table: pd.DataFrame) -> list[str]:
    """For each claim, the variable whose measured exponent comes closest to the theory's or exceeds it most, read in
    the direction of growth."""
    grown = table.assign(
        excess=(table["measured"] - table["theory_exponent"])
        * table["theory_exponent"].map(lambda e: -1 if e < 0 else 1)
    )
    grown = grown.dropna(subset=["excess"])
    worst = grown.loc[grown.groupby("claim", sort=False)["excess"].idxmax()]
    return [f"{row.claim} {row.excess:+.2f} in {row.variable}" for row in worst.itertuples()]
