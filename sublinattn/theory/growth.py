"""Growth of a measured size against a theory's: the excess exponent, its limits, and what an unreachable size says.

The data are sizes y[g, r] at abscissas x[g, r] (grid point g, independent replicate r). The excess exponent is the
least-squares slope of log(y / theory(x)) on log x over all of them; as least squares is linear, it is the measured
exponent minus the theory's effective exponent over the same grid (so that log n has one). If the theory falls with x
(eps**-6 in eps), growth is read towards smaller x.

Its standard error is that of the bootstrap over replicates within each grid point, in closed form (the slope is a
linear function of the log sizes), times the usual sqrt(R/(R-1)), with Satterthwaite's degrees of freedom. So what
counts as noise is what differs between replicates; that the sizes are not exactly a power law of x does not widen the
limits: they are limits of the exponent *over this grid*.

Student's t is an approximation here, the only one in a verdict: with 6 to 8 replicates and noise that doubles over the
grid, true claims were refuted 1.3 to 2.2 times as often as the level 1e-4 says, and about 10 times as often as 1e-6
says, and no more often with 4 (`lab.error_rates`); noise that is strongly skewed to the left, and only at the far end
of the grid, is worse.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtr, stdtrit  # Student's t; scipy.stats takes a third of a second to load

from .sequential import CONFIDENCE, Outcome

_ROUNDING = 1e-9  # a smaller excess exponent is rounding


@dataclass(frozen=True)
class GrowthFit:
    """Result of `fit`; exponents are nan where fewer than two grid points have only finite sizes.

    Attributes
    ----------
    outcome : "supported", "refuted" or "undecided"
    measured, theory : float
        Exponents over the grid points whose sizes are all finite.
    lower, upper : float
        Limits of the measured exponent, each with CONFIDENCE on its side.
    excess : float
        How much faster the sizes grow than the theory says (negative: slower; the slack is minus this).
    p_value : float
        Of "the sizes grow no faster than the theory says".
    reason : str
    """

    outcome: Outcome
    measured: float
    theory: float
    lower: float
    upper: float
    excess: float
    p_value: float
    reason: str


def slope(log_x: np.ndarray, y: np.ndarray) -> tuple[Any, Any, Any]:
    """Least-squares slope of `y` (..., g, r) on `log_x` (g, r), its standard error and degrees of freedom, from the
    spread of replicates."""
    replicates = log_x.shape[1]
    centred = log_x - log_x.mean()
    weights = centred / np.sum(centred**2)
    value = np.sum(weights * y, axis=(-2, -1))
    residual = y - y.mean(axis=(-2, -1), keepdims=True) - value[..., None, None] * centred
    influence = weights * residual
    influence -= influence.mean(axis=-1, keepdims=True)
    variances = np.sum(influence**2, axis=-1) * replicates / (replicates - 1)  # share of each grid point
    total = variances.sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        freedom = total**2 / np.sum(variances**2 / (replicates - 1), axis=-1)
    return value, np.sqrt(total), np.where(total > 0, freedom, replicates - 1)


def p_value_of(excess: Any, error: Any, freedom: Any) -> Any:
    """One-sided p-value of `excess <= 0`; without noise, 0 or 1."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(error > 0, stdtr(freedom, -excess / error), np.where(excess > 0, 0.0, 1.0))


def upper_limit(excess: Any, error: Any, freedom: Any) -> Any:
    """Upper limit of the excess exponent, with CONFIDENCE."""
    return excess + stdtrit(freedom, CONFIDENCE) * error


def fit(
    x: ArrayLike,
    size: ArrayLike,
    theory: ArrayLike,
    *,
    cap: ArrayLike,
    resolution: float = 0.0,
    level: float,
) -> GrowthFit:
    """Test whether sizes grow no faster than the theory says.

    Supported when the upper limit of the excess exponent is at most `resolution`, refuted when its p-value is at most
    `level`.

    A size that was not found up to the cap (inf) is a size above the cap. Grid points with such sizes are left out of
    the exponents. They may still refute: with the cap in place of the size, a point above the middle of the grid
    makes the slope smaller, never larger, so the p-value is taken from these points too; below the middle it would be
    the other way round, and they are left out. If no size was found anywhere, the statement that there is one below
    the cap is refuted outright.

    Parameters
    ----------
    x, size, theory, cap : array_like, shape (points, replicates)
        Abscissas (positive), measured sizes (positive, or inf), the theory's growth at `x` (positive, any constant
        factor), the largest size tried (needed where the size is inf).
    resolution : float
        Excess exponent that must be ruled out for support.
    level : float
        Of the p-value.

    Raises
    ------
    ValueError
        Fewer than two points or replicates, equal abscissas, values that are not positive, an infinite size without a
        cap.
    """
    x, size, theory = (np.asarray(a, dtype=float) for a in (x, size, theory))
    cap = np.broadcast_to(np.asarray(cap, dtype=float), x.shape)
    _check(x, size, theory, cap)
    censored = np.isinf(size)
    if censored.all():
        return _without_exponents("refuted", 0.0, "no size up to the cap meets the bound at any point")
    log_x, log_theory = np.log(x), np.log(theory)
    direction = (
        -1.0 if slope(log_x, log_theory)[0] < -_ROUNDING else 1.0
    )  # so that the theory does not fall along `along`
    along = direction * log_x
    ratio = np.log(np.where(censored, cap, size)) - log_theory

    uncensored = ~censored.any(axis=1)
    p_value = _p_value(along, ratio, _usable(along, uncensored))
    dropped = int((~uncensored).sum())
    note = f"; {dropped} of {len(x)} points left out, where no size up to the cap was found" if dropped else ""
    if uncensored.sum() < 2 or np.ptp(log_x[uncensored]) == 0:
        outcome: Outcome = "refuted" if p_value <= level else "undecided"
        note = note or "; fewer than two abscissas"
        said = f"growth beyond the theory's has p-value {p_value:.2g}, level {level:.2g}{note}"
        return _without_exponents(outcome, p_value, said)

    excess, error, freedom = slope(along[uncensored], ratio[uncensored])
    effective = float(slope(log_x[uncensored], log_theory[uncensored])[0])
    reach = float(upper_limit(0.0, error, freedom))
    measured = effective + direction * float(excess)
    outcome = (
        "refuted" if p_value <= level else "supported" if excess + reach <= resolution + _ROUNDING else "undecided"
    )
    said = f"measured exponent {measured:.3g} [{measured - reach:.3g}, {measured + reach:.3g}], theory {effective:.3g}"
    if outcome == "refuted":
        said = f"grows faster than the theory says: {said} (p-value {p_value:.2g}, level {level:.2g})"
    limits = measured - reach, measured + reach
    return GrowthFit(outcome, measured, effective, *limits, float(excess), p_value, said + note)


def _without_exponents(outcome: Outcome, p_value: float, reason: str) -> GrowthFit:
    return GrowthFit(outcome, math.nan, math.nan, math.nan, math.nan, math.nan, p_value, reason)


def _check(x: np.ndarray, size: np.ndarray, theory: np.ndarray, cap: np.ndarray) -> None:
    if x.ndim != 2 or min(x.shape) < 2:
        raise ValueError(f"a growth needs at least 2 grid points and 2 replicates, got shape {x.shape}")
    if not (np.isfinite(x) & (x > 0)).all() or np.ptp(x) == 0:
        raise ValueError(f"abscissas must be positive, finite and not all equal, got {np.unique(x)}")
    if not (size > 0).all():
        raise ValueError(f"sizes must be positive (inf: none found), got {size[~(size > 0)][0]}")
    if not (np.isfinite(theory) & (theory > 0)).all():
        raise ValueError(f"the theory's growth must be positive and finite on the grid, got {np.unique(theory)}")
    if not (cap[np.isinf(size)] > 0).all():
        raise ValueError("a size of inf (none found) needs the cap of its search, fact 'cap'")


def _usable(along: np.ndarray, uncensored: np.ndarray) -> np.ndarray:
    """Points whose sizes may be replaced by the cap without making the slope larger, and all points without a missing
    size."""
    usable = np.ones_like(uncensored)
    while True:  # leaving points out moves the middle
        wrong = usable & ~uncensored
        if wrong.any():
            wrong &= (along < along[usable].mean()).any(axis=1)
        if not wrong.any():
            return usable
        usable &= ~wrong


def _p_value(along: np.ndarray, ratio: np.ndarray, points: np.ndarray) -> float:
    along, ratio = along[points], ratio[points]
    if len(along) < 2 or np.ptp(along) == 0:
        return 1.0
    excess, error, freedom = slope(along, ratio)
    return float(p_value_of(excess - _ROUNDING, error, freedom))
