"""The verdict engine's own error rates, by simulation: false refutations, and detection of false claims.

Claims are simulated whose truth is known, and judged by the statistics of `theory.sequential` and `theory.growth`. A
claim exactly at its limit (rate p, deviation 0, excess exponent 0) is the hardest true one. Every rate comes with its
95 percent Clopper-Pearson interval.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import digamma, polygamma
from scipy.stats import binomtest

from . import exponents
from .sequential import SUPPORT, Side, log_wealth, mean_log_wealth

FAMILY = 100
"""Number of hypotheses in a ledger."""
LEVELS = (1e-4, 1e-4 / FAMILY)
"""p-values that refute: of a claim that stands alone, and of each hypothesis of a ledger."""

_BATCH = 50  # simulated paths at a time
_NEVER = np.iinfo(np.int64).max


def measure(simulations: int = 2000, rng: int | np.random.Generator | None = 0) -> pd.DataFrame:
    """Table of error rates, one line per kind of claim, setting and level. About a minute on two cores.

    Returns
    -------
    DataFrame
        kind, setting, truth ("at the limit", or how false), level, horizon (trials at most), simulations; refuted,
        refuted_low, refuted_high, supported, supported_low, supported_high (shares, with 95 percent limits); median
        and q95 (trials until refuted, of those refuted).
    """
    if simulations < 1:
        raise ValueError(f"simulations must be positive, got {simulations}")
    rng = np.random.default_rng(rng)
    lines = [line for part in (_rates, _means, _growths) for line in part(simulations, rng)]
    return pd.DataFrame(lines)


def bars(table: pd.DataFrame) -> pd.DataFrame:
    """The table with the requirement on each line, in words, and whether it is met.

    At the limit: at most 2 of 2000 refuted. Rates of 2p, and every other falsehood simulated: at least 99 percent
    refuted.
    """
    true = table["truth"] == "at the limit"
    requirement = np.where(true, "refuted <= 0.001", "refuted >= 0.99")
    met = np.where(true, table["refuted"] <= 0.001, table["refuted"] >= 0.99)
    return table.assign(requirement=requirement, met=met)


# --------------------------------------------------------------------------------------------------------------- rates
def _rates(simulations: int, rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    for p in (0.01, 0.1):
        horizon = round(200 / p)
        for factor in (1, 2):
            batches = [rate_decisions(rng.random((size, horizon)) < factor * p, p) for size in _batches(simulations)]
            truth = "at the limit" if factor == 1 else f"rate {factor}p"
            yield from _lines("probability", f"p = {p}", truth, horizon, batches)


def rate_decisions(failed: np.ndarray, p: float) -> dict[float, np.ndarray]:
    """By level, the signed number of trials at which `ProbabilityTest` decides each path of failures (paths, trials).

    The wealth is monotone in the number of failures, so at each number of trials there is a smallest number of failures
    that refutes, and a smallest that does not support.
    """
    failures = np.cumsum(failed, axis=1)
    supports = failures < _smallest_counts(p, SUPPORT, "above", failures.shape[1])
    return {
        level: _first_decision(failures >= _smallest_counts(p, -np.log(level), "below", failures.shape[1]), supports)
        for level in LEVELS
    }


@cache
def _smallest_counts(p: float, target: float, against: Side, horizon: int) -> np.ndarray:
    """For 1..horizon trials, by bisection: the fewest failures whose log wealth reaches the target (against "above": no
    longer reaches it), trials + 1 if none.
    """
    trials = np.arange(1, horizon + 1)
    low, high = np.full_like(trials, -1), trials + 1
    while (high - low > 1).any():
        middle = np.minimum((low + high) // 2, trials)
        reached = log_wealth(np.maximum(middle, 0), trials, p, against) >= target
        beyond = reached if against == "below" else ~reached
        unsettled = high - low > 1
        high = np.where(unsettled & beyond, middle, high)
        low = np.where(unsettled & ~beyond, middle, low)
    return high


# --------------------------------------------------------------------------------------------------------------- means
def _means(simulations: int, rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    """Standardized trials with bound = scale, so that relative deviations are deviations in standard deviations."""
    horizon, resolution = 2000, 0.2
    rare = 0.002  # an indicator this rare is 22 standard deviations from its mean when it comes
    noises: dict[str, Callable[[tuple[int, int]], np.ndarray]] = {
        "normal": rng.standard_normal,
        "Student t, 3 degrees": lambda shape: rng.standard_t(3, shape) / np.sqrt(3),
        "rare event": lambda shape: ((rng.random(shape) < rare) - rare) / np.sqrt(rare * (1 - rare)),
    }
    for name, draw in noises.items():
        for deviation in (0.0, resolution):
            batches = [mean_decisions(draw((size, horizon)) + deviation, resolution) for size in _batches(simulations)]
            truth = "at the limit" if deviation == 0 else f"off by {deviation} standard deviations"
            yield from _lines("mean", f"{name} noise", truth, horizon, batches)


def mean_decisions(z: np.ndarray, resolution: float) -> dict[float, np.ndarray]:
    """By level, the signed number of trials at which `MeanTest` decides each path of standardized trials."""
    two_sided = np.logaddexp(mean_log_wealth(z), mean_log_wealth(-z)) - np.log(2)
    ruled_out = (mean_log_wealth(resolution - z) >= SUPPORT) & (mean_log_wealth(z + resolution) >= SUPPORT)
    supports = ruled_out & (two_sided < SUPPORT)
    return {level: _first_decision(two_sided >= -np.log(level), supports) for level in LEVELS}


# -------------------------------------------------------------------------------------------------------------- growth
def _growths(simulations: int, rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    """Sizes at doubling abscissas; the noise of their logs doubles from the first point to the last."""
    gamma = 4.0  # the log of a gamma variable is skewed to the left, which is the dangerous side

    def left_skewed(shape: tuple[int, ...]) -> np.ndarray:
        return (np.log(rng.gamma(gamma, size=shape)) - digamma(gamma)) / np.sqrt(polygamma(1, gamma))

    noises: dict[str, Callable[..., np.ndarray]] = {"normal": rng.standard_normal, "left-skewed": left_skewed}
    designs = [
        *(("normal", points, replicates) for points, replicates in ((3, 6), (4, 8), (5, 8))),
        ("left-skewed", 4, 8),
    ]
    for name, points, replicates in designs:
        log_x = np.repeat(np.log(2.0) * np.arange(points)[:, None], replicates, axis=1)
        for noise, excess in product((0.1, 0.2), (0.0, 0.5, 1.0)):
            spread = noise * np.linspace(2 / 3, 4 / 3, points)[:, None]
            # Student's t is the one test without a guarantee: true claims are simulated 50 times as often.
            shape = (simulations if excess else 50 * simulations, points, replicates)
            slope = exponents.slope(log_x, excess * log_x + spread * noises[name](shape))
            p_values, supported = slope.p_value(), slope.value + slope.reach <= 0
            setting = f"{points} points, {replicates} replicates, {name} noise {noise}"
            truth = "at the limit" if excess == 0 else f"exponent {excess} above"
            trials = points * replicates
            decisions = {
                level: np.where(p_values <= level, trials, np.where(supported, -trials, 0)) for level in LEVELS
            }
            yield from _lines("growth", setting, truth, trials, [decisions])


# -------------------------------------------------------------------------------------------------------------- common
def _batches(simulations: int) -> list[int]:
    return [min(_BATCH, simulations - start) for start in range(0, simulations, _BATCH)]


def _first_decision(refutes: np.ndarray, supports: np.ndarray) -> np.ndarray:
    """Trials after which each path is decided, negative if supported, 0 if never; a refutation goes first."""

    def first(hits: np.ndarray) -> np.ndarray:
        return np.where(hits.any(axis=1), hits.argmax(axis=1) + 1, _NEVER)

    refuted, supported = first(refutes), first(supports)
    return np.where(np.minimum(refuted, supported) == _NEVER, 0, np.where(refuted <= supported, refuted, -supported))


def _lines(
    kind: str, setting: str, truth: str, horizon: int, batches: list[dict[float, np.ndarray]]
) -> Iterator[dict[str, Any]]:
    """Lines of the table, one per level, from the signed numbers of trials at which the paths were decided."""
    for level in LEVELS:
        decided = np.concatenate([batch[level] for batch in batches])
        line: dict[str, Any] = {"kind": kind, "setting": setting, "truth": truth, "level": level, "horizon": horizon}
        line["simulations"] = len(decided)
        for outcome, hits in (("refuted", decided > 0), ("supported", decided < 0)):
            interval = binomtest(int(hits.sum()), len(decided)).proportion_ci(0.95)
            line |= {outcome: hits.mean(), f"{outcome}_low": interval.low, f"{outcome}_high": interval.high}
        when = decided[decided > 0]
        median, q95 = np.quantile(when, (0.5, 0.95)) if when.size else (np.nan, np.nan)
        yield line | {"median": median, "q95": q95}
