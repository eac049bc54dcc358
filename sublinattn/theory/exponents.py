"""Slopes of log-log plots, with the noise that replicates show: their errors, limits and p-values.

The data are y[..., g, r] at log_x[g, r]: grid point g, independent replicate r, any number of data sets before them.
Noise is what differs between replicates; its spread may differ between grid points. A slope is a weighted sum of the
points' means. Its variance is estimated by that of the bootstrap within each point, in closed form, times R / (R - 1).
Student's t has R - 1 degrees of freedom: for normal noise this is conservative whatever the points' spreads are [Hajek
1962; Mickey, Brown 1966], and `theory.error_rates` measures it for skewed noise. Satterthwaite's approximate degrees
are more, but far out in the tail, at the level of one hypothesis of a ledger, they refuted true claims ten times too
often.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import scipy
from numpy.typing import ArrayLike

from .sequential import CONFIDENCE

ROUNDING = 1e-9
"""An exponent that is smaller is rounding."""


class Slope(NamedTuple):
    """A least-squares slope, and each replicate's influence on it (..., g, r); or a difference of two slopes."""

    value: Any
    influence: np.ndarray

    def minus(self, other: Slope) -> Slope:
        return Slope(self.value - other.value, self.influence - other.influence)

    @property
    def freedom(self) -> int:
        return self.influence.shape[-1] - 1

    @property
    def error(self) -> Any:
        """Standard error by the spread of the replicates within each grid point."""
        spread = self.influence - self.influence.mean(axis=-1, keepdims=True)
        return np.sqrt(np.sum(spread**2, axis=(-2, -1)) * (self.freedom + 1) / self.freedom)

    def p_value(self, maximum: float = 0.0) -> Any:
        """One-sided p-value of "the slope is at most `maximum`" (t test); without noise it is 0 or 1."""
        beyond, error = self.value - maximum, self.error
        with np.errstate(invalid="ignore", divide="ignore"):
            noisy = scipy.special.stdtr(self.freedom, -beyond / error)
        return np.where(error > 0, noisy, np.where(beyond > 0, 0.0, 1.0))

    @property
    def reach(self) -> Any:
        """Distance from the slope to its upper (or lower) limit, each with CONFIDENCE on its side."""
        return scipy.special.stdtrit(self.freedom, CONFIDENCE) * self.error


def slope(log_x: np.ndarray, y: np.ndarray, points: ArrayLike = True) -> Slope:
    """Least-squares slope of `y` (..., g, r) on `log_x` (g, r) over some of the grid points (all by default)."""
    used = np.broadcast_to(np.asarray(points), len(log_x))[:, None]
    centred = np.where(used, log_x - log_x[used[:, 0]].mean(), 0.0)
    weights = centred / np.sum(centred**2)  # the slope is sum(weights * y)
    value = np.sum(weights * y, axis=(-2, -1))
    level = np.mean(y, axis=(-2, -1), keepdims=True, where=used)
    return Slope(value, weights * (y - level - value[..., None, None] * centred))


def upper_half(log_x: np.ndarray) -> np.ndarray:
    """Which grid points are the upper half: the uppermost G // 2 + 1 of G, the fewest that span half of the grid."""
    ranks = np.argsort(np.argsort(log_x.mean(axis=1)))
    return ranks >= (len(ranks) - 1) // 2


def limits(whole: Slope, part: Slope) -> tuple[Any, Any]:
    """Lower and upper limit of the slope over a grid, wider where the log-log plot bends; `part`: over its upper half.

    The spread of replicates says nothing of a bend, and no number of them averages it away. Growth beyond the grid is
    what its upper end shows. So where the slope over the upper half differs from that over the whole grid by more than
    noise explains (t test of the difference, CONFIDENCE on each side), the limits take in those of the upper half. With
    a power law this happens to at most 2 percent of the data.
    """
    lower, upper = whole.value - whole.reach, whole.value + whole.reach
    bend = part.minus(whole)
    bends = np.abs(bend.value) > bend.reach + ROUNDING
    return (
        np.where(bends, np.minimum(lower, part.value - part.reach), lower),
        np.where(bends, np.maximum(upper, part.value + part.reach), upper),
    )
