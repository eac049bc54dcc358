"""Polynomials that stand for `exp` on `[-R, R]` with small *relative* error: Taylor, Chebyshev, minimax.

Alman, Song, *Fast Attention Requires Bounded Entries*, NeurIPS 2023, arXiv 2302.13214 [AS23], Lemma 3.2, takes its
polynomial from Aggarwal, Alman, *Optimal-degree polynomial approximations for exponentials and Gaussian kernel density
estimation*, CCC 2022 [AA22]. What counts is `f(x) = p(x) exp(-x) - 1`, since a factor `1 +- eps` on every entry of
`exp(s Q K^T)` is what the output's error follows from.

Facts used below. (1) For Taylor's polynomial `f' = -x^g exp(-x)/g!`, so its error is attained at `-R` and is
`int_0^R t^g e^t dt / g!` exactly. (2) `p - exp` has at most `g + 1` zeros on a line, because its `(g+1)`-th derivative
has none. A polynomial that attains them (an interpolant; a levelled one) has exactly one extremum of `f` between each
two neighbouring zeros, where `p' = p`, and its other two at the ends: nothing has to be searched on a grid. (3) So the
functions `x^l exp(-x)` are a Haar system, and Remez' exchange converges to the one polynomial whose `f` alternates
between `+-error` at `g + 2` points; on the way, de la Vallee Poussin's theorem makes the levelled error a lower bound
on what any polynomial of that degree can reach.

All of it in multiple precision: `f` is the small difference of large numbers (`exp(2R)/error` of them is lost).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import mpmath
import numpy as np
from scipy.optimize import brentq
from scipy.special import logsumexp

from . import _checks

BASES = ("taylor", "chebyshev", "minimax")
AGREEMENT = 1e-6  # of the largest error with the levelled one, relative, at which the exchange has converged
EXCHANGES = 100
MAX_RADIUS = 300.0  # for the last two bases: digits grow with it, and float64 cannot hold exp(2R) beyond 354
NEGLIGIBLE = 1e-290  # Taylor's error below which no float64 tells the bases apart
GUARD_DIGITS = 30
POINT_BITS = 60  # of a point in [-1, 1], in fixed point


@dataclass(frozen=True)
class Approximant:
    """A polynomial `p(x) = sum_l coefficients[l] x^l` for `exp` on `[-radius, radius]`.

    Attributes
    ----------
    basis : "taylor", "chebyshev" or "minimax"
    degree : int
    radius : float
        `R`.
    coefficients : tuple of float
        `degree + 1` of them, rounded to float64, which moves `p(x) exp(-x)` by at most about `exp(2R)` unit roundoffs.
    error : float
        `max |p(x) exp(-x) - 1|` on `[-R, R]`, before that rounding.
    """

    basis: str
    degree: int
    radius: float
    coefficients: tuple[float, ...]
    error: float


@lru_cache(maxsize=4096, typed=True)
def approximant(basis: str, degree: int, radius: float) -> Approximant:
    """The polynomial of a basis.

    Parameters
    ----------
    basis : "taylor", "chebyshev" or "minimax"
        Taylor's at 0; the interpolant at the Chebyshev nodes of `[-R, R]`; the one with the smallest relative error.
    degree : int
        `g`, at least 0.
    radius : float
        `R`, at least 0; at most MAX_RADIUS for the last two. At 0 all three are Taylor's, the limit for small R.

    Returns
    -------
    Approximant
        `O(g^2)` multiple-precision operations, some 10 times that for each exchange of "minimax"; kept for later calls.

    Raises
    ------
    TypeError, ValueError
        Impossible parameters.
    """
    degree, radius = _checks.integer("degree", degree, least=0), _radius(basis, radius)
    series = _exp(_log_taylor_error(degree, radius))
    if basis == "taylor" or series < NEGLIGIBLE:
        return Approximant(basis, degree, radius, _taylor(degree), series)
    mp = mpmath.mp.clone()  # a context of our own: the precision is nobody else's
    mp.dps = _digits(degree, radius)
    scaled, error = (_interpolant if basis == "chebyshev" else _minimax)(mp, degree, radius)
    coefficients = tuple(float(c / mp.mpf(radius) ** i) for i, c in enumerate(scaled))
    return Approximant(basis, degree, radius, coefficients, float(error))


@lru_cache(maxsize=4096, typed=True)
def minimal_degree(basis: str, eps: float, radius: float) -> int:
    """Smallest degree whose relative error on `[-radius, radius]` is at most `eps`.

    Parameters
    ----------
    basis : "taylor", "chebyshev" or "minimax"
    eps : float
        In (0, 1): the polynomial 0 has the error 1.
    radius : float
        As `approximant`.

    Raises
    ------
    TypeError, ValueError
        Impossible parameters.

    Notes
    -----
    Bisection: below 1 the error falls with the degree. (Taylor's rises at first if `R > 2`, from `exp(R) - 1` upwards.)
    """
    radius = _radius(basis, radius)
    if not 0 < _checks.real("eps", eps) < 1:
        raise ValueError(f"eps must lie in (0, 1), got {eps}")

    log_eps = math.log(eps)
    if not radius:
        return 0
    if basis == "taylor":
        return _smallest(lambda degree: _log_taylor_error(degree, radius) <= log_eps, math.ceil(radius))
    likely = log_eps - (radius if basis == "chebyshev" else 0)
    guess = _smallest(lambda degree: _log_minimax_estimate(degree, radius) <= likely, math.ceil(radius / 2))
    return _smallest(lambda degree: approximant(basis, degree, radius).error <= eps, guess)


def taylor_bound(degree: int, radius: float) -> float:
    """`e^{2R} R^{g+1}/(g+1)!`: no less than the relative error of Taylor's polynomial on `[-R, R]`, for any g and R.

    (Remainder at most `e^R R^{g+1}/(g+1)!`, relative to `exp(x) >= e^{-R}`. With fact (1) above a factor `e^R` could be
    spared.) Infinite where float64 overflows.
    """
    degree, radius = _checks.integer("degree", degree, least=0), _radius("taylor", radius)
    return _exp(log_taylor_bound(degree, radius))


def taylor_degree(log_eps: float, radius: float) -> int:
    """Smallest degree whose `taylor_bound` is at most `exp(log_eps)`, in logarithms: any size.

    Parameters
    ----------
    log_eps : float
        Negative; -1e6 or less is no trouble.
    radius : float

    Raises
    ------
    ValueError
        Impossible parameters.
    """
    radius = _radius("taylor", radius)
    if not -math.inf < _checks.real("log_eps", log_eps) < 0:
        raise ValueError(f"log_eps must be negative and finite, got {log_eps}")
    # For R > 1 the bound is above 1 until the degree has passed R, and falls from there.
    return _smallest(lambda degree: log_taylor_bound(degree, radius) <= log_eps, math.ceil(radius))


# ------------------------------------------------------------------------------------------------------------ the bases
def _taylor(degree: int) -> tuple[float, ...]:
    terms = [1.0]
    for i in range(1, degree + 1):
        terms.append(terms[-1] / i)
    return tuple(terms)


def _interpolant(mp: Any, degree: int, radius: float) -> tuple[list[Any], Any]:
    nodes = _cosines(2 * np.arange(degree + 1) + 1, 2 * (degree + 1))
    p = _interpolate(mp, nodes, [mp.exp(radius * mp.mpf(y)) for y in nodes])
    return p, _Deviation(mp, p, radius).extremes(nodes)[1]


def _minimax(mp: Any, degree: int, radius: float) -> tuple[list[Any], Any]:
    """Remez' exchange of all `g + 2` points at once."""
    points = _reference(degree, radius)
    for _ in range(EXCHANGES):
        p, levelled = _level(mp, points, radius)
        f = _Deviation(mp, p, radius)
        points, error = f.extremes(f.zeros(points))
        if error <= levelled * (1 + AGREEMENT):
            return p, error
    raise ArithmeticError(f"the exchange of degree {degree}, radius {radius} did not converge in {EXCHANGES} rounds")


def _reference(degree: int, radius: float) -> list[float]:
    """Points to begin with: `f` is nearly `E cos((g+1) theta - R sin theta)` at `x = R cos theta`, for g well above R
    (Bernstein-Szego: `Re(z^{g+1} exp(R/z))` on the circle has the envelope `e^x`)."""
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
    """`f(x) = p(x) exp(-x) - 1` at `x = R y`, by Horner's scheme in fixed point: Python's integers are several times as
    fast as multiple-precision floats."""

    def __init__(self, mp: Any, p: Sequence[Any], radius: float) -> None:
        self.mp, self.radius = mp, mp.mpf(radius)
        slope = [c - (i + 1) * after / self.radius for i, (c, after) in enumerate(zip(p, [*p[1:], 0], strict=True))]
        self.p, self.slope = ([int(mp.ldexp(c, mp.prec)) for c in poly] for poly in (p, slope))

    def __call__(self, y: float) -> Any:
        point = _fixed(y)
        p = self.mp.ldexp(self._horner(self.p, point), -self.mp.prec)
        return p * self.mp.exp(-self.radius * self.mp.ldexp(point, -POINT_BITS)) - 1

    def zeros(self, points: Sequence[float]) -> list[float]:
        """One between each two points, where `f` has opposite signs. Rough: they only separate the extrema."""
        gaps = zip(points, points[1:], strict=False)
        return [brentq(lambda y: float(self(y)), a, b, xtol=1e-3 * (b - a)) for a, b in gaps]

    def extremes(self, zeros: Sequence[float]) -> tuple[list[float], Any]:
        """Where |f| may be largest (the ends, and `p = p'` between each two zeros), and its largest value there.

        `f` being flat at such a place, an error of 1e-6 in the place is one of 1e-12 in the value.
        """
        one = 1 << self.mp.prec
        gaps = zip(zeros, zeros[1:], strict=False)
        inner = [
            brentq(lambda y: self._horner(self.slope, _fixed(y)) / one, a, b, xtol=1e-6 * (b - a)) for a, b in gaps
        ]
        places = [-1.0, *inner, 1.0]
        return places, max(abs(self(y)) for y in places)

    def _horner(self, p: Sequence[int], point: int) -> int:
        out = p[-1]
        for c in p[-2::-1]:
            out = (out * point >> POINT_BITS) + c
        return out


def _fixed(y: float) -> int:
    return round(math.ldexp(y, POINT_BITS))


def _cosines(numerators: np.ndarray, denominator: int) -> list[float]:
    return [float(y) for y in -np.cos(np.pi * numerators / denominator)]


def _digits(degree: int, radius: float) -> int:
    """Decimal digits: for the error's smallness, for exp(2R) between the ends, and for monomials on [-1, 1]."""
    smallest = _log_minimax_estimate(degree, radius) - radius
    return GUARD_DIGITS + math.ceil((max(-smallest, 0.0) + 2 * radius) / math.log(10) + 0.8 * degree)


# ------------------------------------------------------------------------------------------------------------- degrees
def log_taylor_bound(degree: float, radius: float) -> float:
    """Log of `taylor_bound`, at any size; the degree need not be whole."""
    if not radius:
        return -math.inf
    return 2 * radius + (degree + 1) * math.log(radius) - math.lgamma(degree + 2)


def _log_minimax_estimate(degree: int, radius: float) -> float:
    """Log of `2 (R/2)^{g+1}/(g+1)!`: what x^{g+1}/(g+1)! differs from lower powers on [-R, R]. Near the minimax error;
    the interpolant's is about e^R times as large."""
    return math.log(2) + (degree + 1) * math.log(radius / 2) - math.lgamma(degree + 2)


def _log_taylor_error(degree: int, radius: float) -> float:
    """Log of `int_0^R t^g e^t dt / g!`, by its series `R^{g+1}/g! sum_j R^j / (j! (g+1+j))`: no term is negative."""
    if not radius:
        return -math.inf
    log_terms: list[float] = []
    log_power = 0.0  # of R^j / j!
    while len(log_terms) <= radius or log_terms[-1] > max(log_terms) - 40:
        log_terms.append(log_power - math.log(degree + 1 + len(log_terms)))
        log_power += math.log(radius / len(log_terms))
    return (degree + 1) * math.log(radius) - math.lgamma(degree + 1) + float(logsumexp(log_terms))


def _exp(x: float) -> float:
    return math.exp(x) if x < 709 else math.inf


def _smallest(holds: Callable[[int], bool], guess: int) -> int:
    """Smallest integer from 0 on that satisfies a predicate which, once true, stays true: strides, then bisection."""
    low, high, stride = -1, guess, 1
    if holds(guess):
        while high and holds(max(high - stride, 0)):
            high, stride = max(high - stride, 0), 2 * stride
        low = max(high - stride, -1)
    else:
        while not holds(high):
            low, high, stride = high, high + stride, 2 * stride
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _radius(basis: str, radius: float) -> float:
    if basis not in BASES:
        raise ValueError(f"basis must be one of {BASES}, got {basis!r}")
    if not 0 <= _checks.real("radius", radius) < math.inf:
        raise ValueError(f"radius must be finite and at least 0, got {radius}")
    if basis != "taylor" and radius > MAX_RADIUS:
        raise ValueError(f"radius must be at most {MAX_RADIUS:g} for basis {basis!r}, got {radius:g}")
    return float(radius)
