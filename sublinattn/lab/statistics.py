"""Means, rates and exponents with their 99 percent intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.special import ndtri, stdtrit

CONFIDENCE = 0.99
Z = float(ndtri(0.5 + CONFIDENCE / 2))


def mean_and_reach(values: np.ndarray) -> tuple[float, float]:
    """Mean, and half the width of its 99 percent interval (Student's t)."""
    reach = stdtrit(len(values) - 1, 0.5 + CONFIDENCE / 2) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean()), float(reach)


def proportion(hits: int, trials: int) -> tuple[float, float, float]:
    """Rate and its exact (Clopper-Pearson) limits, two-sided."""
    from scipy.stats import binomtest  # imported here because it takes a third of a second

    interval = binomtest(hits, trials).proportion_ci(CONFIDENCE, "exact")
    return hits / trials, float(interval.low), float(interval.high)


def sign_test(gained: int, lost: int) -> float:
    """The two-sided p of so many differences of either sign; of paired answers it is McNemar's exact test."""
    from scipy.stats import binomtest

    return float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def tokens(rows: pd.DataFrame) -> str:
    """How many tokens the inputs of these rows have at most, in words: "n = 1024; real heads (bold) 512"."""
    sizes = rows.groupby(rows["source"] == "real")["n"].max()
    words = {False: "n = {}", True: "real heads (bold) {}" if False in sizes else "n = {}"}
    return "; ".join(words[bool(real)].format(size) for real, size in sizes.items())


def growth_exponents(rows: pd.DataFrame, quantity: str, by: Sequence[str] = ("input",)) -> pd.DataFrame:
    """Least-squares slopes of log `quantity` on log n, one fit per replicate (or head), for each group `by`.

    Returns
    -------
    DataFrame
        The columns `by`, exponent (their mean), lower, upper (99 percent limits of the mean, Student's t), 10 %, 90 %
        (of the slopes), fits.
    """
    lines = []
    for name, group in rows.groupby(list(by), sort=False):
        slopes = np.array(
            [np.polyfit(np.log(one["n"]), np.log(one[quantity]), 1)[0] for _, one in group.groupby("replicate")]
        )
        slopes = slopes.round(12) + 0.0  # a constant count has slope 0, not rounding
        middle, reach = mean_and_reach(slopes)
        lines.append((*name, middle, middle - reach, middle + reach, *np.quantile(slopes, [0.1, 0.9]), len(slopes)))
    return pd.DataFrame(lines, columns=[*by, "exponent", "lower", "upper", "10 %", "90 %", "fits"])


def largest_excess(table: pd.DataFrame) -> list[str]:
    """For each claim, the variable whose measured exponent exceeds the theory's most (or falls short of it least).

    For a quantity that falls with a variable, a slower fall counts as excess.
    """
    direction = np.where(table["theory_exponent"] < 0, -1, 1)
    grown = table.assign(excess=(table["measured"] - table["theory_exponent"]) * direction).dropna(subset=["excess"])
    worst = grown.loc[grown.groupby("claim", sort=False)["excess"].idxmax()]
    return [f"{row.claim} {row.excess:+.2f} in {row.variable}" for row in worst.itertuples()]
