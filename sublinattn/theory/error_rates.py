"""The verdict engine's own error rates, by simulation: false refutations, and detection of false claims.

Claims are simulated whose truth is known, and judged by the statistics of `theory.sequential` and `theory.growth`. A
claim exactly at its limit (rate p, deviation 0, excess exponent 0) is the hardest true one. Shares among simulated
claims come with their 95 percent Clopper-Pearson interval; those of `Probability` are exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import digamma, ndtr, polygamma, stdtrit

from . import exponents, growth
from .claim import Exact
from .sequential import SUPPORT, Side, log_wealth, mean_log_wealth
from .simulated import LEVELS, Decisions, line, lines, portions

POWER, LOGARITHM = "n^0.30 offered as log n", "log n offered as log n"
_NEVER = np.iinfo(np.int64).max


def measure(simulations: int = 2000, rng: int | np.random.Generator | None = 0) -> pd.DataFrame:
    """Table of error rates, one line per kind of claim, setting and level. About two minutes on one core.

    Returns
    -------
    DataFrame
        kind, setting, truth ("at the limit", or how false), level, horizon (trials at most), simulations (0: exact);
        refuted, refuted_low, refuted_high, supported, supported_low, supported_high (shares, with 95 percent limits);
        median and q95 (trials until refuted, of those refuted).
    """
    if simulations < 1:
        raise ValueError(f"simulations must be positive, got {simulations}")
    rng = np.random.default_rng(rng)
    parts = (_rates, _means, _exacts, _growths)
    return pd.DataFrame([row for part in parts for row in part(simulations, rng)])


def bars(table: pd.DataFrame) -> pd.DataFrame:
    """The table with the requirement on each line, in words, and whether it is met.

    At the limit: refuted at most twice as often as the level says. False: at least 99 percent refuted. The law n^0.30
    offered as log n: at most 5 percent supported. (log n offered as log n has no requirement.)
    """
    truth, refuted = table["truth"], table["refuted"]
    cases = [truth == "at the limit", truth == POWER, truth == LOGARITHM]
    requirement = np.select(cases, ["refuted <= 2 level", "supported <= 0.05", "none"], "refuted >= 0.99")
    met = np.select(cases, [refuted <= 2 * table["level"], table["supported"] <= 0.05, True], refuted >= 0.99)
    return table.assign(requirement=requirement, met=met.astype(bool))


# --------------------------------------------------------------------------------------------------------------- rates
def _rates(simulations: int, rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    """Exact: nothing is simulated."""
    for p, factor, level in product((0.01, 0.1), (1, 2), LEVELS):
        truth = "at the limit" if factor == 1 else f"rate {factor}p"
        refuted, supported = rate_decisions(p, factor * p, level, round(200 / p)).T
        median, q95 = (np.searchsorted(np.cumsum(refuted), q * refuted.sum()) + 1.0 for q in (0.5, 0.95))
        numbers = {
            f"{outcome}{end}": at.sum()
            for outcome, at in (("refuted", refuted), ("supported", supported))
            for end in ("", "_low", "_high")
        }
        yield line("probability", f"p = {p}", truth, level, len(refuted), 0, median=median, q95=q95, **numbers)


def rate_decisions(p: float, rate: float, level: float, horizon: int) -> np.ndarray:
    """Probabilities that `ProbabilityTest` refutes (column 0) and supports (column 1) at each trial.

    Trials fail at `rate`. By recursion over the number of failures so far: the wealth is monotone in it, so at each
    trial there is a smallest number that refutes, and a smallest that does not support.
    """
    refuting = _smallest_counts(p, -np.log(level), "below", horizon)
    unsupporting = _smallest_counts(p, SUPPORT, "above", horizon)
    undecided, decided = np.zeros(refuting.max() + 1), np.zeros((horizon, 2))
    undecided[0] = 1.0
    for t in range(horizon):
        undecided[1:] = (1 - rate) * undecided[1:] + rate * undecided[:-1]
        undecided[0] *= 1 - rate
        decided[t] = undecided[refuting[t] :].sum(), undecided[: unsupporting[t]].sum()
        undecided[refuting[t] :] = undecided[: unsupporting[t]] = 0.0
    return decided


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
            batches = [mean_decisions(draw((size, horizon)) + deviation, resolution) for size in portions(simulations)]
            truth = "at the limit" if deviation == 0 else f"off by {deviation} standard deviations"
            yield from lines("mean", f"{name} noise", truth, horizon, batches)
    yield from rare_refutations(simulations, rng, horizon)


def rare_refutations(simulations: int, rng: np.random.Generator, horizon: int) -> Iterator[dict[str, Any]]:
    """False refutations of a mean under normal noise, by importance sampling [Siegmund 1976].

    Paths drift, one way or the other, at one of several speeds. A refutation at trial t counts with the likelihood
    ratio of no drift to the mixture of the drifts, at t.
    """
    drifts = np.outer((-1.0, 1.0), 2.0 ** -np.arange(6)).ravel()
    weights: dict[float, list[np.ndarray]] = {level: [] for level in LEVELS}
    for size in portions(simulations):
        z = rng.standard_normal((size, horizon)) + rng.choice(drifts, size)[:, None]
        for level, decided in mean_decisions(z, 0.0).items():
            at = np.maximum(decided, 1)
            total = np.take_along_axis(np.cumsum(z, axis=1), at[:, None] - 1, axis=1)
            ratio = np.exp(drifts * total - at[:, None] * drifts**2 / 2).mean(axis=1)
            weights[level].append(np.where(decided > 0, 1 / ratio, 0.0))
    for level, parts in weights.items():
        w = np.concatenate(parts)
        rate, error = w.mean(), w.std() / np.sqrt(len(w))
        numbers = {"refuted": rate, "refuted_low": rate - 2 * error, "refuted_high": rate + 2 * error}
        setting = "normal noise, importance sampling"
        yield line("mean", setting, "at the limit", level, horizon, simulations, **numbers)


def mean_decisions(z: np.ndarray, resolution: float) -> Decisions:
    """How `MeanTest` decides each path of standardized trials."""
    two_sided = np.logaddexp(mean_log_wealth(z), mean_log_wealth(-z)) - np.log(2)
    ruled_out = (mean_log_wealth(resolution - z) >= SUPPORT) & (mean_log_wealth(z + resolution) >= SUPPORT)
    supports = ruled_out & (two_sided < SUPPORT)
    return {level: _first_decision(two_sided >= -np.log(level), supports) for level in LEVELS}


def _first_decision(refutes: np.ndarray, supports: np.ndarray) -> np.ndarray:
    """Trials after which each path is decided, negative if supported, 0 if never; a refutation goes first."""

    def first(hits: np.ndarray) -> np.ndarray:
        return np.where(hits.any(axis=1), hits.argmax(axis=1) + 1, _NEVER)

    refuted, supported = first(refutes), first(supports)
    return np.where(np.minimum(refuted, supported) == _NEVER, 0, np.where(refuted <= supported, refuted, -supported))


# -------------------------------------------------------------------------------------------------------------- exact
def _exacts(simulations: int, rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    """Sums of 1000 numbers in two orders; false: one trial in 20 is off by a millionth of the largest number."""
    horizon, exact = 100, Exact()
    for wrong in (0.0, 0.05):
        x = rng.standard_normal((simulations, 1000))
        one, other, scale = x.sum(axis=1), x[:, ::-1].cumsum(axis=1)[:, -1], abs(x).max(axis=1)
        batches = []
        for size in portions(simulations):
            picks = rng.integers(simulations, size=(size, horizon))
            measured = one[picks] + 1e-6 * scale[picks] * (rng.random(picks.shape) < wrong)
            off = abs(measured - other[picks]) > exact.rtol * scale[picks]
            decided = np.where(off.any(axis=1), off.argmax(axis=1) + 1, -horizon)
            batches.append(dict.fromkeys(LEVELS, decided))
        truth = f"{100 * wrong:g} percent of the instances violate it" if wrong else "at the limit"
        yield from lines("exact", "sums in two orders", truth, horizon, batches)


# -------------------------------------------------------------------------------------------------------------- growth
def _growths(simulations: int, rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    """Sizes at doubling abscissas; the noise of their logs doubles from the first point to the last.

    The hardest true claim is so steep below the upper half that the whole grid refutes it, and there at its limit.
    """
    gamma = 4.0  # the log of a gamma variable is skewed to the left, which is the dangerous side

    def left_skewed(shape: tuple[int, ...]) -> np.ndarray:
        return (np.log(rng.gamma(gamma, size=shape)) - digamma(gamma)) / np.sqrt(polygamma(1, gamma))

    def noisy(mean: np.ndarray, noise: float, count: int, draw: Any = rng.standard_normal) -> np.ndarray:
        return mean + noise * np.linspace(2 / 3, 4 / 3, len(mean))[:, None] * draw((count, *mean.shape))

    def decided(mean: np.ndarray, noise: float, count: int, draw: Any = rng.standard_normal, **options: float) -> Any:
        log_x = np.tile(np.log(2.0) * np.arange(len(mean))[:, None], mean.shape[1])
        return [growth_decisions(log_x, noisy(mean, noise, n, draw), **options) for n in portions(count, 50_000)]

    many = 1000 * simulations  # Student's t is the one test without a guarantee for all noise
    for points, replicates in product((3, 4, 5), (4, 6, 8, 12)):
        log_x = np.tile(np.log(2.0) * np.arange(points)[:, None], replicates)
        yield from rare_growths(log_x, noisy(0 * log_x, 0.1, many // 20))
        steep = np.zeros_like(log_x)
        steep[: (points - 1) // 2] = -100.0
        setting = f"{points} points, {replicates} replicates, left-skewed noise"
        yield from lines("growth", setting, "at the limit", steep.size, decided(steep, 0.1, many, left_skewed))
    for points, replicates, noise, excess in product((4, 5), (8, 12), (0.1, 0.2), (0.25, 0.5, 1.0)):
        mean = np.tile(excess * np.log(2.0) * np.arange(points)[:, None], replicates)
        setting = f"{points} points, {replicates} replicates, noise {noise}"
        yield from lines("growth", setting, f"exponent {excess} above", mean.size, decided(mean, noise, simulations))
    for (first, points), replicates, noise in product(((6, 4), (8, 5)), (8, 12), (0.05, 0.1, 0.2)):
        log_n = np.tile(np.log(2.0) * np.arange(first, first + points)[:, None], replicates)
        resolution = growth.COARSEST * float(exponents.slope(log_n, np.log(log_n)).value)
        setting = f"{points} points from {2**first}, {replicates} replicates, noise {noise}"
        for truth, mean in ((POWER, 0.3 * log_n - np.log(log_n)), (LOGARITHM, np.zeros_like(log_n))):
            decisions = decided(mean, noise, simulations, resolution=resolution)
            yield from lines("growth", setting, truth, mean.size, decisions)


def rare_growths(log_x: np.ndarray, y: np.ndarray) -> Iterator[dict[str, Any]]:
    """False refutations over the upper half of the grid, by conditioning: `y` is normal noise.

    The slope is then independent of its estimated error, and normal: given the error, the probability that it is as
    many errors as the level takes is known.
    """
    points, replicates = log_x.shape
    error = exponents.slope(log_x, y, exponents.upper_half(log_x)).error
    relative = error / np.sqrt(np.mean(error**2))  # the mean of the squares is the slope's variance
    setting = f"{points} points, {replicates} replicates, normal noise, given the errors"
    for level in LEVELS:
        shares = ndtr(stdtrit(replicates - 1, level) * relative)
        rate, reach = shares.mean(), 2 * shares.std() / np.sqrt(len(shares))
        numbers = {"refuted": rate, "refuted_low": rate - reach, "refuted_high": rate + reach}
        yield line("growth", setting, "at the limit", level, log_x.size, len(shares), **numbers)


def growth_decisions(log_x: np.ndarray, y: np.ndarray, resolution: float = 0.0) -> Decisions:
    """How `growth.fit` decides on logs of size over theory, `y` (..., g, r)."""
    whole, part = exponents.slope(log_x, y), exponents.slope(log_x, y, exponents.upper_half(log_x))
    p_values = np.maximum(whole.p_value(exponents.ROUNDING), part.p_value(exponents.ROUNDING))
    lower, upper = exponents.limits(whole, part)
    supports = (lower <= exponents.ROUNDING) & (upper <= resolution + exponents.ROUNDING)
    trials = log_x.size
    return {level: np.where(p_values <= level, trials, np.where(supports, -trials, 0)) for level in LEVELS}
