"""The verdict engine's own error rates, by simulation: how often it accuses a true claim, and how soon it convicts a
false one.

Claims are simulated whose truth is known, and judged by the very tests of `theory.verdict` and `theory.growth`. A
claim that is exactly at its limit (rate p, deviation 0, excess exponent 0) is the hardest true one. Every rate comes
with its 95 percent Clopper-Pearson interval.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import digamma, polygamma
from scipy.stats import binomtest

from . import growth, sequential
from .roles import FIRST_LOOK

LEVEL = 1e-4
FAMILY = 100
"""A ledger's number of hypotheses: the level of each is LEVEL / FAMILY there, LEVEL where the claim stands alone."""

_BATCH = 50
_SUPPORT = -np.log1p(-sequential.CONFIDENCE)
_NEVER = np.iinfo(np.int64).max


def measure(simulations: int = 2000, rng: int | np.random.Generator | None = 0) -> pd.DataFrame:
    """Table of error rates, one line per kind of claim, setting and level.

    Columns: kind, setting, truth ("at the limit", or how false), level, horizon (trials at most), simulations,
    refuted, refuted_low, refuted_high, supported, supported_low, supported_high (shares, with 95 percent limits),
    median and q95 (trials until refuted, of those refuted). About a minute on two cores.
    """
    if simulations < 1:
        raise ValueError(f"simulations must be positive, got {simulations}")
    rng = np.random.default_rng(rng)
    lines = [line for part in (_rates, _means, _growths) for line in part(simulations, rng)]
    return pd.DataFrame(lines)


def bars(table: pd.DataFrame) -> pd.DataFrame:
    """What is asked of the engine, line by line: column `met`, with `asked` in words.

    At the limit: at most 2 of 2000 refuted. Rates of 2p, and every other falsehood simulated: at least 99 percent
    refuted.
    """
    true = table["truth"] == "at the limit"
    asked = np.where(true, "refuted <= 0.001", "refuted >= 0.99")
    met = np.where(true, table["refuted"] <= 0.001, table["refuted"] >= 0.99)
    return table.assign(asked=asked, met=met)


# --------------------------------------------------------------------------------------------------------------- rates
def _rates(simulations: int, rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    for p in (0.01, 0.1):
        horizon = round(200 / p)
        boundaries = {level: _rate_boundaries(p, level, horizon) for level in _levels()}
        for factor in (1, 2):
            outcomes: dict[float, list[np.ndarray]] = {level: [] for level in _levels()}
            for size in _batches(simulations):
                failures = np.cumsum(rng.random((size, horizon)) < factor * p, axis=1)
                for level, (refuted_from, supported_to) in boundaries.items():
                    outcomes[level].append(_stop(failures >= refuted_from, failures <= supported_to))
            truth = "at the limit" if factor == 1 else f"rate {factor}p"
            for level in _levels():
                yield _line("probability", f"p = {p}", truth, level, horizon, np.concatenate(outcomes[level]))


def _rate_boundaries(p: float, level: float, horizon: int) -> tuple[np.ndarray, np.ndarray]:
    """For each number of trials, the fewest failures that refute and the most that support (the wealth is monotone in
    the failures)."""
    trials = np.arange(1, horizon + 1)
    refuted = _first(lambda k: sequential.log_wealth(k, trials, p, "below") >= -np.log(level), trials)
    unsupported = _first(lambda k: sequential.log_wealth(k, trials, p, "above") < _SUPPORT, trials)
    return refuted, unsupported - 1


def _first(holds: Callable[[np.ndarray], np.ndarray], trials: np.ndarray) -> np.ndarray:
    """Smallest count in 0..trials at which a monotone predicate holds, trials + 1 if nowhere; by bisection, for all
    at once."""
    low, high = np.full_like(trials, -1), trials + 1
    while (high - low > 1).any():
        middle = np.minimum((low + high) // 2, trials)
        yes = holds(np.maximum(middle, 0))
        open_ = high - low > 1
        high = np.where(open_ & yes, middle, high)
        low = np.where(open_ & ~yes, middle, low)
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
            outcomes: dict[float, list[np.ndarray]] = {level: [] for level in _levels()}
            for size in _batches(simulations):
                for level, stopped in _mean_outcomes(draw((size, horizon)) + deviation, resolution).items():
                    outcomes[level].append(stopped)
            truth = "at the limit" if deviation == 0 else f"off by {deviation} standard deviations"
            for level in _levels():
                yield _line("mean", f"{name} noise", truth, level, horizon, np.concatenate(outcomes[level]))


def _mean_outcomes(z: np.ndarray, resolution: float) -> dict[float, np.ndarray]:
    wealth = sequential.mean_log_wealth
    two_sided = np.logaddexp(wealth(z), wealth(-z)) - np.log(2)
    ruled_out = (wealth(resolution - z) >= _SUPPORT) & (wealth(z + resolution) >= _SUPPORT)
    supported = ruled_out & (two_sided < _SUPPORT)
    return {level: _stop(two_sided >= -np.log(level), supported) for level in _levels()}


# -------------------------------------------------------------------------------------------------------------- growth
def _growths(simulations: int, rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    """Sizes at doubling abscissas, their logs with noise of this deviation that doubles from the first point to the
    last.

    The t approximation of `growth` is the one test here without a guarantee, so true claims are simulated 50 times as
    often.
    """
    gamma = 4.0  # the log of a gamma variable is skewed to the left, which is the dangerous side

    def left_skewed(shape: tuple[int, ...]) -> np.ndarray:
        return (np.log(rng.gamma(gamma, size=shape)) - digamma(gamma)) / np.sqrt(polygamma(1, gamma))

    noises: dict[str, Callable[..., np.ndarray]] = {"normal": rng.standard_normal, "left-skewed": left_skewed}
    designs = [("normal", points, replicates) for points, replicates in ((3, 6), (4, 8), (5, 8))] + [
        ("left-skewed", 4, 8),
        *(("normal", points, FIRST_LOOK) for points in (3, 4, 5)),
        ("left-skewed", 4, FIRST_LOOK),
    ]
    for name, points, replicates in designs:
        log_x = np.repeat(np.log(2.0) * np.arange(points)[:, None], replicates, axis=1)
        for noise, excess in product((0.1, 0.2), (0.0, 0.5, 1.0)):
            spread = noise * np.linspace(2 / 3, 4 / 3, points)[:, None]
            shape = (simulations if excess else 50 * simulations, points, replicates)
            slope, error, freedom = growth.slope(log_x, excess * log_x + spread * noises[name](shape))
            p_values = growth.p_value_of(slope, error, freedom)
            supported = growth.upper_limit(slope, error, freedom) <= 0
            setting = f"{points} points, {replicates} replicates, {name} noise {noise}"
            truth = "at the limit" if excess == 0 else f"exponent {excess} above"
            trials = points * replicates
            for level in _levels():
                stopped = np.where(p_values <= level, trials, np.where(supported, -trials, 0))
                yield _line("growth", setting, truth, level, trials, stopped)


# -------------------------------------------------------------------------------------------------------------- common
def _levels() -> tuple[float, float]:
    return LEVEL, LEVEL / FAMILY


def _batches(simulations: int) -> Iterator[int]:
    for start in range(0, simulations, _BATCH):
        yield min(_BATCH, simulations - start)


def _stop(refutes: np.ndarray, supports: np.ndarray) -> np.ndarray:
    """Where each path is first decided: number of trials, negative if supported, 0 if never. A refutation goes
    first."""

    def first(hits: np.ndarray) -> np.ndarray:
        return np.where(hits.any(axis=1), hits.argmax(axis=1) + 1, _NEVER)

    refuted, supported = first(refutes), first(supports)
    return np.where(np.minimum(refuted, supported) == _NEVER, 0, np.where(refuted <= supported, refuted, -supported))


def _line(kind: str, setting: str, truth: str, level: float, horizon: int, stopped: np.ndarray) -> dict[str, Any]:
    line: dict[str, Any] = {"kind": kind, "setting": setting, "truth": truth, "level": level, "horizon": horizon}
    line["simulations"] = len(stopped)
    for outcome, decided in (("refuted", stopped > 0), ("supported", stopped < 0)):
        interval = binomtest(int(decided.sum()), len(stopped)).proportion_ci(0.95)
        line |= {outcome: decided.mean(), f"{outcome}_low": interval.low, f"{outcome}_high": interval.high}
    when = stopped[stopped > 0]
    median, q95 = np.quantile(when, (0.5, 0.95)) if when.size else (np.nan, np.nan)
    return line | {"median": median, "q95": q95}
