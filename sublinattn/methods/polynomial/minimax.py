"""Chebyshev interpolation and Remez' exchange for `exp`, relative to `exp`, in multiple precision.

Source: the polynomial of [AS23], Corollary 2.2 (arXiv 2302.13214), is any of degree g with small relative error; this
is the best one. Facts (2) and (3) of `approximants` say why no grid is searched, and when the exchange has converged.
Points are on `[-1, 1]`: `y = x/R`. Cost: `O(g^2)` operations in multiple precision per exchange, times about 10.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import mpmath
import numpy as np
import scipy

AGREEMENT = 1e-6  # the exchange has converged when the largest error exceeds the levelled one by this, relative
EXCHANGES = 100
POINT_BITS = 60  # of a point in [-1, 1], in fixed point


def multiprecision(basis: str, degree: int, radius: float, digits: int) -> tuple[tuple[float, ...], float]:
    """Monomial coefficients, rounded, of the interpolant or of the minimax polynomial, and its relative error."""
    mp = mpmath.mp.clone()  # a context of its own: the caller's precision stays as it is
    mp.dps = digits
    scaled, error = (_interpolant if basis == "chebyshev" else _minimax)(mp, degree, radius)
    return tuple(float(c / mp.mpf(radius) ** i) for i, c in enumerate(scaled)), float(error)


def _interpolant(mp: Any, degree: int, radius: float) -> tuple[list[Any], Any]:
    """The polynomial through `exp` at the zeros of the Chebyshev polynomial of degree `g + 1`, and its error."""
    nodes = (-np.cos(np.pi * (2 * np.arange(degree + 1) + 1) / (2 * (degree + 1)))).tolist()
    p = _interpolate(mp, nodes, [mp.exp(radius * mp.mpf(y)) for y in nodes])
    return p, _Deviation(mp, p, radius).extremes(nodes)[1]


def _minimax(mp: Any, degree: int, radius: float) -> tuple[list[Any], Any]:
    """The polynomial with the smallest error, and that error, by Remez' exchange of all `g + 2` points at once."""
    points = _first_points(degree, radius)
    for _ in range(EXCHANGES):
        p, levelled = _level(mp, points, radius)  # |f| = levelled at all points: a lower bound on the error
        f = _Deviation(mp, p, radius)
        points, error = f.extremes(f.zeros(points))  # the new points are where |f| is largest
        if error <= levelled * (1 + AGREEMENT):
            return p, error
    raise ArithmeticError(f"the exchange of degree {degree}, radius {radius} did not converge in {EXCHANGES} rounds")


def _first_points(degree: int, radius: float) -> list[float]:
    """Points to begin with: the extrema of `E cos((g+1) theta - R sin theta)`, `x = R cos theta`.

    For g well above R, `f` is nearly that (Bernstein-Szego: `Re(z^{g+1} exp(R/z))` on the circle has the envelope
    `e^x`).
    """
    theta = np.linspace(np.pi, 0, 64 * (degree + 2))
    phase = (degree + 1) * theta - min(radius, 0.9 * (degree + 1)) * np.sin(theta)
    inner = np.cos(np.interp(np.pi * np.arange(degree, 0, -1), phase[::-1], theta[::-1]))
    return [-1.0, *inner.tolist(), 1.0]


def _level(mp: Any, points: Sequence[float], radius: float) -> tuple[list[Any], Any]:
    """The polynomial whose `f` is `+E, -E, +E, ...` at the `g + 2` points, and `|E|`.

    Values `exp(x_i) (1 + (-1)^i E)` belong to a polynomial of degree `g` if their divided difference is 0: that is E.
    """
    y = [mp.mpf(a) for a in points]
    shares = [mp.exp(radius * a) / mp.fprod(a - b for b in y if b != a) for a in y]
    level = -mp.fsum(shares) / mp.fsum(share * (-1) ** i for i, share in enumerate(shares))
    values = [mp.exp(radius * a) * (1 + (-1) ** i * level) for i, a in enumerate(y)]
    return _interpolate(mp, points[:-1], values[:-1]), abs(level)


# ------------------------------------------------------------------------------ polynomials in y = x/R, as coefficients
def _interpolate(mp: Any, nodes: Sequence[float], values: Sequence[Any]) -> list[Any]:
    """Coefficients of the polynomial through the points, by divided differences."""
    y, table = [mp.mpf(a) for a in nodes], list(values)
    for order in range(1, len(y)):
        for i in range(len(y) - 1, order - 1, -1):
            table[i] = (table[i] - table[i - 1]) / (y[i] - y[i - order])
    out = [table[-1]]
    for node, value in zip(y[-2::-1], table[-2::-1], strict=True):  # out * (y - node) + value
        out = [value - node * out[0], *(a - node * b for a, b in zip(out, out[1:], strict=False)), out[-1]]
    return out


class _Deviation:
    """`f(x) = p(x) exp(-x) - 1` at `x = R y`, in fixed point: integers are faster than multiple-precision floats."""

    def __init__(self, mp: Any, p: Sequence[Any], radius: float) -> None:
        self.mp, self.radius = mp, mp.mpf(radius)
        # p - p', zero where f is extreme: coefficient i of p' in x is (i + 1) p_{i+1} / R in terms of y.
        slope = [c - (i + 1) * after / self.radius for i, (c, after) in enumerate(zip(p, [*p[1:], 0], strict=True))]
        self.p, self.slope = ([int(mp.ldexp(c, mp.prec)) for c in poly] for poly in (p, slope))

    def __call__(self, y: float) -> Any:
        point = _fixed(y)
        p = self.mp.ldexp(self._horner(self.p, point), -self.mp.prec)
        return p * self.mp.exp(-self.radius * self.mp.ldexp(point, -POINT_BITS)) - 1

    def zeros(self, points: Sequence[float]) -> list[float]:
        """One between each two points, where `f` has opposite signs. Rough: they only separate the extrema."""
        gaps = zip(points, points[1:], strict=False)
        return [scipy.optimize.brentq(lambda y: float(self(y)), a, b, xtol=1e-3 * (b - a)) for a, b in gaps]

    def extremes(self, zeros: Sequence[float]) -> tuple[list[float], Any]:
        """Where |f| may be largest (the ends, and `p = p'` between each two zeros), and its largest value there."""
        one = 1 << self.mp.prec
        gaps = zip(zeros, zeros[1:], strict=False)

        def difference(y: float) -> float:
            return self._horner(self.slope, _fixed(y)) / one

        # f is flat at such a place: an error of 1e-6 in the place is one of 1e-12 in the value.
        inner = [scipy.optimize.brentq(difference, a, b, xtol=1e-6 * (b - a)) for a, b in gaps]
        places = [-1.0, *inner, 1.0]
        return places, max(abs(self(y)) for y in places)

    def _horner(self, p: Sequence[int], point: int) -> int:
        out = p[-1]
        for c in p[-2::-1]:
            out = (out * point >> POINT_BITS) + c
        return out


def _fixed(y: float) -> int:
    return round(math.ldexp(y, POINT_BITS))
