"""Does a measured size grow faster than the theory says? Excess exponents, their limits, and sizes that were not found.

The data are sizes y[g, r] at abscissas x[g, r]: grid point g, independent replicate r. The excess exponent is the
least-squares slope of log(y / theory(x)) on log x: the measured exponent minus the theory's effective exponent on the
same grid (in this sense log n has an exponent too).

A verdict speaks of this grid. A local exponent is no O(): what is O() of a law may be steeper than it on any finite
grid (sinh(x)^2 = O(e^(2x)) is, everywhere), and what is not may be flatter. So a refutation must persist on the upper
half of the grid, in the direction in which the theory grows, and a bend towards its upper end widens the limits that
must support.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from .exponents import ROUNDING, limits, slope, upper_half
from .sequential import Outcome

COARSEST = 0.25
"""Largest resolution of an exponent, as a share of the theory's."""


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
        Limits of the measured exponent, each with CONFIDENCE on its side; wider where the plot bends (`limits`).
    excess : float
        How much faster the sizes grow than the theory says; negative if they grow more slowly.
    p_value : float
        Of "over the grid, or over its upper half, the sizes grow no faster than the theory says".
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

    Supported when a size was found everywhere, the limits of the excess exponent do not exclude 0 from above, and the
    upper one is at most `resolution`; refuted when the p-values over the grid and its upper half are at most `level`.

    A size of inf means that the search found none up to its cap, so the size is above the cap. Grid points with such
    sizes are left out of the exponents, but they may still refute. With the cap in place of the missing size, a point
    above the middle of the points that are tested can only make their slope smaller, so the p-value is taken from these
    points too. Below the middle the cap could make the slope larger, and the point is left out. If no size was found
    anywhere, nothing is decided: the constant hidden in an O() may be larger.

    Arrays are (points, replicates): abscissas; sizes; the theory's growth at `x`, up to a constant factor; the largest
    size that the search tried. ValueError for fewer than two points or replicates, equal abscissas, values that are not
    positive, inf without a cap, and a resolution above COARSEST times the theory's exponent on this grid.
    """
    x, size, growth = (np.asarray(a, dtype=float) for a in (x, size, growth))
    cap = np.broadcast_to(np.asarray(cap, dtype=float), x.shape)
    _check(x, size, growth, cap)
    finite = np.isfinite(size)
    complete = finite.all(axis=1)  # grid points at which every replicate found a size

    # Read the grid in the direction in which the theory grows: towards smaller x if it falls with x (eps^-6 in eps).
    log_x, log_growth = np.log(x), np.log(growth)
    steepness = float(slope(log_x, log_growth).value)
    if resolution > COARSEST * abs(steepness) + ROUNDING:
        raise ValueError(
            f"the resolution {resolution:.3g} of the exponent in {variable} is more than {COARSEST:g} of the theory's "
            f"exponent on this grid, {steepness:.3g}"
        )
    exponents = ("measured_exponent", "theory_exponent", "lower", "upper", "excess")
    nothing_found = Fit(
        variable=variable,
        theory=theory,
        outcome="undecided",
        **dict.fromkeys(exponents, math.nan),
        p_value=1.0,
        abscissas=tuple(np.median(x, axis=1).tolist()),
        sizes=tuple(map(tuple, size.tolist())),
        reason="no size up to the cap meets the bound at any point, which decides nothing: the constant is hidden",
    )
    if not finite.any():
        return nothing_found

    direction = -1.0 if steepness < -ROUNDING else 1.0
    along = direction * log_x
    ratio = np.log(np.where(finite, size, cap)) - log_growth
    grids = (np.ones_like(complete), upper_half(along))
    whole_p, upper_p = (_p_value(along[on], ratio[on], complete[on]) for on in grids)
    p_value = max(whole_p, upper_p)
    refuted = p_value <= level
    dropped = int((~complete).sum())
    note = f"; {dropped} of {len(x)} points left out, where no size up to the cap was found" if dropped else ""
    if whole_p <= level < upper_p:
        note = f"; refuted over the whole grid alone (p-value {whole_p:.2g}), over its upper half not" + note
    if complete.sum() < 2 or np.ptp(log_x[complete]) == 0:
        note = note or "; fewer than two abscissas"
        reason = f"growth beyond the theory's has p-value {p_value:.2g} over this grid, level {level:.2g}{note}"
        return replace(nothing_found, outcome="refuted" if refuted else "undecided", p_value=p_value, reason=reason)

    # Exponents over the complete points: measured = theory's effective exponent + excess.
    log_z, log_ratio = along[complete], ratio[complete]
    whole = slope(log_z, log_ratio)
    lower, upper = map(float, limits(whole, slope(log_z, log_ratio, upper_half(log_z))))
    effective = float(slope(log_x[complete], log_growth[complete]).value)
    measured = effective + direction * float(whole.value)
    low, high = sorted((effective + direction * lower, effective + direction * upper))
    outcome: Outcome = "undecided"
    reason = f"measured exponent {measured:.3g} [{low:.3g}, {high:.3g}], theory {effective:.3g}"
    if refuted:
        outcome = "refuted"
        words = "over this grid and its upper half it grows faster than the theory says"
        reason = f"{words}: {reason} (p-value {p_value:.2g}, level {level:.2g})"
    elif lower > ROUNDING:
        reason += f"; the limits exclude the theory's from above, but the p-value is {p_value:.2g}, level {level:.2g}"
    elif complete.all() and upper <= resolution + ROUNDING:
        outcome = "supported"
    elif complete.all():
        reason += f"; it agrees, but {x.shape[1]} replicates cannot exclude an excess above {resolution:.3g}"
    return replace(
        nothing_found,
        outcome=outcome,
        measured_exponent=measured,
        theory_exponent=effective,
        lower=low,
        upper=high,
        excess=float(whole.value),
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


def _p_value(along: np.ndarray, ratio: np.ndarray, complete: np.ndarray) -> float:
    """Of "over these points the sizes grow no faster than the theory says"; 1 where no slope can be fitted."""
    usable = _usable(along, complete)
    if usable.sum() < 2 or np.ptp(along[usable]) == 0:
        return 1.0
    return float(slope(along[usable], ratio[usable]).p_value(ROUNDING))
