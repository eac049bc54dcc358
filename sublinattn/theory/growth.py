"""Does a measured size grow faster than the theory says? Excess exponents, their limits, and sizes that were not found.

The data are sizes y[g, r] at abscissas x[g, r]: grid point g, independent replicate r. The excess exponent is the
least-squares slope of log(y / theory(x)) on log x: the measured exponent minus the theory's effective exponent on the
same grid (in this sense log n has an exponent too).

Its standard error is that of the bootstrap over the replicates of each grid point, in closed form because the slope is
linear in the log sizes, times sqrt(R / (R - 1)), with Satterthwaite's degrees of freedom. Only the spread of the
replicates counts as noise: the limits are those of the exponent on this grid, power law or not.

Student's t is an approximation here, the only one in a verdict. With 6 to 8 replicates and noise that doubles over the
grid, true claims were refuted 1.3 to 2.2 times as often as the level 1e-4 says, about 10 times as often as 1e-6 says,
and no more often with 4 replicates (`theory.error_rates`). Noise that is strongly skewed to the left at the far end of
the grid only is worse.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import scipy
from numpy.typing import ArrayLike

from .sequential import CONFIDENCE, Outcome

ROUNDING = 1e-9
"""An excess exponent that is smaller is rounding."""
FIRST_LOOK = 4
"""Replicates at which a sabotaged growth is fitted for the first time: Student's t errs no more with 4 than with 8."""


@dataclass(frozen=True)
class Fit:
    """Growth of a size in one variable, against the theory's.

    Attributes
    ----------
    variable, theory : str
        What varies, and the theory's growth in it as LaTeX.
    outcome : "supported", "refuted" or "undecided"
    measured_exponent, theory_exponent : float
        Least-squares exponents over the grid points whose sizes are all finite; these and the next three are nan where
        there are fewer than two such points.
    lower, upper : float
        Limits of the measured exponent, each with CONFIDENCE on its side.
    excess : float
        How much faster the sizes grow than the theory says; negative if they grow more slowly.
    p_value : float
        Of "the sizes grow no faster than the theory says".
    abscissas : tuple of float
        Median abscissa of each grid point.
    sizes : tuple of tuple of float
        All replicates at each grid point; inf where the search found no size up to its cap.
    reason : str
        One clause with the numbers that decided.
    """

    variable: str
    theory: str
    outcome: Outcome
    measured_exponent: float
    theory_exponent: float
    lower: float
    upper: float
    excess: float
    p_value: float
    abscissas: tuple[float, ...]
    sizes: tuple[tuple[float, ...], ...]
    reason: str


class Slope(NamedTuple):
    """A least-squares slope, its standard error and degrees of freedom; arrays where many data sets were fitted."""

    value: Any
    error: Any
    freedom: Any

    def p_value(self, maximum: float = 0.0) -> Any:
        """One-sided p-value of "the slope is at most `maximum`" (t test); without noise it is 0 or 1."""
        beyond = self.value - maximum
        with np.errstate(invalid="ignore", divide="ignore"):
            noisy = scipy.special.stdtr(self.freedom, -beyond / self.error)
        return np.where(self.error > 0, noisy, np.where(beyond > 0, 0.0, 1.0))

    @property
    def reach(self) -> Any:
        """Distance from the slope to its upper (or lower) limit, each with CONFIDENCE on its side."""
        return scipy.special.stdtrit(self.freedom, CONFIDENCE) * self.error


def slope(log_x: np.ndarray, y: np.ndarray) -> Slope:
    """Least-squares slope of `y` (..., g, r) on `log_x` (g, r), with the error that the spread of replicates gives."""
    replicates = log_x.shape[1]
    centred = log_x - log_x.mean()
    weights = centred / np.sum(centred**2)  # the slope is sum(weights * y)
    value = np.sum(weights * y, axis=(-2, -1))
    # Bootstrap within grid points: the variance of the sum of each point's influences, in closed form.
    residual = y - y.mean(axis=(-2, -1), keepdims=True) - value[..., None, None] * centred
    influence = weights * residual
    influence -= influence.mean(axis=-1, keepdims=True)
    variances = np.sum(influence**2, axis=-1) * replicates / (replicates - 1)  # share of each grid point
    total = variances.sum(axis=-1)
    # Satterthwaite: degrees of freedom of a sum of variances that are known from R - 1 degrees each.
    with np.errstate(invalid="ignore", divide="ignore"):
        freedom = total**2 / np.sum(variances**2 / (replicates - 1), axis=-1)
    return Slope(value, np.sqrt(total), np.where(total > 0, freedom, replicates - 1))


def fit(
    x: ArrayLike,
    size: ArrayLike,
    growth: ArrayLike,
    *,
    cap: ArrayLike = math.nan,
    resolution: float = 0.0,
    level: float,
    variable: str = "x",
    theory: str = "",
) -> Fit:
    """Test whether sizes grow no faster than the theory says.

    Supported when the upper limit of the excess exponent is at most `resolution`, refuted when its p-value is at most
    `level`.

    A size of inf means that the search found none up to its cap, so the size is above the cap. Grid points with such
    sizes are left out of the exponents, but they may still refute. With the cap in place of the missing size, a point
    above the middle of the grid can only make the slope smaller, so the p-value is taken from these points too. Below
    the middle the cap could make the slope larger, and the point is left out. If no size was found anywhere, the
    statement that there is one below the cap is refuted outright.

    Arrays are (points, replicates): abscissas; sizes; the theory's growth at `x`, up to a constant factor; the largest
    size that the search tried. ValueError for fewer than two points or replicates, equal abscissas, values that are not
    positive, and inf without a cap.
    """
    x, size, growth = (np.asarray(a, dtype=float) for a in (x, size, growth))
    cap = np.broadcast_to(np.asarray(cap, dtype=float), x.shape)
    _check(x, size, growth, cap)
    finite = np.isfinite(size)
    complete = finite.all(axis=1)  # grid points at which every replicate found a size

    exponents = ("measured_exponent", "theory_exponent", "lower", "upper", "excess")
    nothing_found = Fit(
        variable=variable,
        theory=theory,
        outcome="refuted",
        **dict.fromkeys(exponents, math.nan),
        p_value=0.0,
        abscissas=tuple(np.median(x, axis=1).tolist()),
        sizes=tuple(map(tuple, size.tolist())),
        reason="no size up to the cap meets the bound at any point",
    )
    if not finite.any():
        return nothing_found

    # Read the grid in the direction in which the theory grows: towards smaller x if it falls with x (eps^-6 in eps).
    log_x, log_growth = np.log(x), np.log(growth)
    direction = -1.0 if slope(log_x, log_growth).value < -ROUNDING else 1.0
    along = direction * log_x
    ratio = np.log(np.where(finite, size, cap)) - log_growth

    usable = _usable(along, complete)
    sloping = usable.sum() >= 2 and np.ptp(along[usable]) > 0
    p_value = float(slope(along[usable], ratio[usable]).p_value(ROUNDING)) if sloping else 1.0
    dropped = int((~complete).sum())
    note = f"; {dropped} of {len(x)} points left out, where no size up to the cap was found" if dropped else ""
    if complete.sum() < 2 or np.ptp(log_x[complete]) == 0:
        note = note or "; fewer than two abscissas"
        reason = f"growth beyond the theory's has p-value {p_value:.2g}, level {level:.2g}{note}"
        outcome: Outcome = "refuted" if p_value <= level else "undecided"
        return replace(nothing_found, outcome=outcome, p_value=p_value, reason=reason)

    # Exponents over the complete points: measured = theory's effective exponent + excess.
    excess = slope(along[complete], ratio[complete])
    effective = float(slope(log_x[complete], log_growth[complete]).value)
    measured, reach = effective + direction * float(excess.value), float(excess.reach)
    outcome = "undecided"
    reason = (
        f"measured exponent {measured:.3g} [{measured - reach:.3g}, {measured + reach:.3g}], theory {effective:.3g}"
    )
    if p_value <= level:
        outcome = "refuted"
        reason = f"grows faster than the theory says: {reason} (p-value {p_value:.2g}, level {level:.2g})"
    elif excess.value + reach <= resolution + ROUNDING:
        outcome = "supported"
    return replace(
        nothing_found,
        outcome=outcome,
        measured_exponent=measured,
        theory_exponent=effective,
        lower=measured - reach,
        upper=measured + reach,
        excess=float(excess.value),
        p_value=p_value,
        reason=reason + note,
    )


def _check(x: np.ndarray, size: np.ndarray, growth: np.ndarray, cap: np.ndarray) -> None:
    if x.ndim != 2 or min(x.shape) < 2:
        raise ValueError(f"a growth needs at least 2 grid points and 2 replicates, got shape {x.shape}")
    if not (np.isfinite(x) & (x > 0)).all() or np.ptp(x) == 0:
        raise ValueError(f"abscissas must be positive, finite and not all equal, got {np.unique(x)}")
    if not (size > 0).all():
        raise ValueError(f"sizes must be positive (inf: none found), got {size[~(size > 0)][0]}")
    if not (np.isfinite(growth) & (growth > 0)).all():
        raise ValueError(f"the theory's growth must be positive and finite on the grid, got {np.unique(growth)}")
    if not (cap[np.isinf(size)] > 0).all():
        raise ValueError("a size of inf (none found) needs the cap of its search, fact 'cap'")


def _usable(along: np.ndarray, complete: np.ndarray) -> np.ndarray:
    """The complete grid points, and those above the mean of the usable abscissas: there a cap lowers the slope."""
    usable = np.ones_like(complete)
    while True:  # leaving points out moves the mean
        wrong = usable & ~complete
        if wrong.any():
            wrong &= (along < along[usable].mean()).any(axis=1)
        if not wrong.any():
            return usable
        usable &= ~wrong
