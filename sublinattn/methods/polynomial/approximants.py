"""Polynomials that stand for `exp` on `[-R, R]` with small *relative* error: Taylor, Chebyshev, minimax.

Sources: [AS23] Alman, Song, *Fast Attention Requires Bounded Entries*, NeurIPS 2023, arXiv 2302.13214, Corollary 2.2,
which takes its polynomial from [AA22] Aggarwal, Alman, *Optimal-degree polynomial approximations for exponentials and
Gaussian kernel density estimation*, CCC 2022. The error that counts is that of `f(x) = p(x) exp(-x) - 1`: a factor
`1 +- eps` on every entry of `exp(s Q K^T)` bounds the output's error.

Facts used below. (1) For Taylor's polynomial `f' = -x^g exp(-x)/g!`, so its error is attained at `-R` and is
`int_0^R t^g e^t dt / g!` exactly. (2) `p - exp` has at most `g + 1` zeros on a line, because its `(g+1)`-th derivative
has none. A polynomial that attains them (an interpolant; a levelled one) has exactly one extremum of `f` between each
two neighbouring zeros, where `p' = p`, and its other two at the ends: nothing has to be searched on a grid. (3) So the
functions `x^l exp(-x)` are a Haar system, and Remez' exchange converges to the one polynomial whose `f` alternates
between `+-error` at `g + 2` points; on the way, de la Vallee Poussin's theorem makes the levelled error a lower bound
on the error of any polynomial of that degree.

Cost: `O(g^2)` operations in multiple precision (`f` is the small difference of large numbers: a factor `exp(2R)/error`
of the precision is lost), ten times as many per exchange of Remez' algorithm.

Differs from the papers in: [AS23] and [AA22] state that a polynomial of degree
`Theta(max{log(1/eps) / log(log(1/eps)/R), R})` exists; here the best one of each degree is computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from operator import truediv

import numpy as np

from ...core import checks

BASES = ("taylor", "chebyshev", "minimax")
MAX_RADIUS = 300.0  # for the last two bases: digits grow with it, and float64 cannot hold exp(2R) beyond 354
NEGLIGIBLE = 1e-290  # where Taylor's error is below this, the bases are equal in float64
GUARD_DIGITS = 30


@dataclass(frozen=True)
class Approximant:
    """A polynomial `p(x) = sum_l coefficients[l] x^l` for `exp` on `[-radius, radius]`.

    `error` is `max |p(x) exp(-x) - 1|` on `[-R, R]`, before the coefficients are rounded to float64: that moves
    `p(x) exp(-x)` by at most about `exp(2R)` unit roundoffs.
    """

    basis: str
    degree: int
    radius: float
    coefficients: tuple[float, ...]
    error: float


@lru_cache(maxsize=4096, typed=True)
def approximant(basis: str, degree: int, radius: float) -> Approximant:
    """The polynomial of a basis, kept for later calls.

    "taylor" is Taylor's at 0, "chebyshev" the interpolant at the Chebyshev nodes of `[-R, R]`, "minimax" the one with
    the smallest relative error. The last two take radii `R` up to MAX_RADIUS; at 0 all three are Taylor's.
    """
    degree, radius = checks.integer("degree", degree, minimum=0), _radius(basis, radius)
    series = _exp(_log_taylor_error(degree, radius))
    if basis == "taylor" or series < NEGLIGIBLE:
        coefficients = tuple(accumulate(range(1, degree + 1), truediv, initial=1.0))  # 1/0!, ..., 1/g!
        return Approximant(basis, degree, radius, coefficients, series)
    from .minimax import multiprecision  # here: what it needs takes a second to load, and streams need Taylor's only

    return Approximant(basis, degree, radius, *multiprecision(basis, degree, radius, _digits(degree, radius)))


@lru_cache(maxsize=4096, typed=True)
def minimal_degree(basis: str, eps: float, radius: float) -> int:
    """Smallest degree whose relative error on `[-radius, radius]` is at most `eps`, in (0, 1).

    By bisection: below 1 the error falls with the degree. (Taylor's rises at first if `R > 1.6`, from `exp(R) - 1`.)
    """
    radius = _radius(basis, radius)
    if not 0 < checks.real("eps", eps) < 1:
        raise ValueError(f"eps must lie in (0, 1), got {eps}")

    log_eps = math.log(eps)
    if not radius:
        return 0
    if basis == "taylor":
        return _smallest(lambda degree: _log_taylor_error(degree, radius) <= log_eps, math.ceil(radius))
    likely = log_eps - (radius if basis == "chebyshev" else 0)  # the interpolant's error is e^R times the minimax
    guess = _smallest(lambda degree: _log_minimax_estimate(degree, radius) <= likely, math.ceil(radius / 2))
    return _smallest(lambda degree: approximant(basis, degree, radius).error <= eps, guess)


def taylor_bound(degree: int, radius: float) -> float:
    """`e^{2R} R^{g+1}/(g+1)!`: no less than the relative error of Taylor's polynomial on `[-R, R]`, for any g and R.

    (Remainder at most `e^R R^{g+1}/(g+1)!`, relative to `exp(x) >= e^{-R}`. With fact (1) above a factor `e^R` could be
    spared.) Infinite where float64 overflows.
    """
    degree, radius = checks.integer("degree", degree, minimum=0), _radius("taylor", radius)
    return _exp(log_taylor_bound(degree, radius))


def taylor_degree(log_eps: float, radius: float) -> int:
    """Smallest degree whose `taylor_bound` is at most `exp(log_eps)`; a `log_eps` of -1e6 or less is no trouble."""
    radius = _radius("taylor", radius)
    if not -math.inf < checks.real("log_eps", log_eps) < 0:
        raise ValueError(f"log_eps must be negative and finite, got {log_eps}")
    # For R > 1 the bound is above 1 until the degree has passed R, and falls from there.
    return _smallest(lambda degree: log_taylor_bound(degree, radius) <= log_eps, math.ceil(radius))


# ------------------------------------------------------------------------------------------------------------ the bases
def _digits(degree: int, radius: float) -> int:
    """Decimal digits to compute with: for the error, for exp(2R) between the ends, and for monomials on [-1, 1]."""
    smallest = _log_minimax_estimate(degree, radius) - radius
    return GUARD_DIGITS + math.ceil((max(-smallest, 0.0) + 2 * radius) / math.log(10) + 0.8 * degree)


# ------------------------------------------------------------------------------------------------------------- degrees
def log_taylor_bound(degree: float, radius: float) -> float:
    """Log of `taylor_bound`, at any size; the degree need not be whole."""
    if not radius:
        return -math.inf
    return 2 * radius + (degree + 1) * math.log(radius) - math.lgamma(degree + 2)


def _log_minimax_estimate(degree: int, radius: float) -> float:
    """Log of `2 (R/2)^{g+1}/(g+1)!`, near the minimax error: how far x^{g+1}/(g+1)! is from lower powers on [-R, R]."""
    return math.log(2) + (degree + 1) * math.log(radius / 2) - math.lgamma(degree + 2)


def _log_taylor_error(degree: int, radius: float) -> float:
    """Log of Taylor's error (fact 1), `int_0^R t^g e^t dt / g! = R^{g+1}/g! sum_j R^j / (j! (g+1+j))`."""
    if not radius:
        return -math.inf
    log_terms: list[float] = []
    log_power = 0.0  # of R^j / j!
    while len(log_terms) <= radius or log_terms[-1] > max(log_terms) - 40:
        log_terms.append(log_power - math.log(degree + 1 + len(log_terms)))
        log_power += math.log(radius / len(log_terms))
    return (degree + 1) * math.log(radius) - math.lgamma(degree + 1) + float(np.logaddexp.reduce(log_terms))


def _exp(x: float) -> float:
    """`e^x`, infinite where float64 overflows."""
    return math.exp(x) if x < 709 else math.inf


def _smallest(holds: Callable[[int], bool], guess: int) -> int:
    """Smallest integer from 0 on that satisfies a predicate which, once true, stays true: strides, then bisection."""
    low, high, stride = -1, guess, 1  # in the end false at `low` (-1 counts as false), true at `high`
    if holds(guess):
        while high and holds(max(high - stride, 0)):
            high, stride = max(high - stride, 0), 2 * stride
        low = max(high - stride, -1)
    else:
        while not holds(high):
            low, high, stride = high, high + stride, 2 * stride
    while high - low > 1:  # `bisect` takes no integers beyond 64 bits
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def check_basis(basis: str) -> None:
    """ValueError for the name of no basis."""
    checks.choice("basis", basis, BASES)


def _radius(basis: str, radius: float) -> float:
    """The radius, refused where the basis does not take it."""
    check_basis(basis)
    if not 0 <= checks.real("radius", radius) < math.inf:
        raise ValueError(f"radius must be finite and at least 0, got {radius}")
    if basis != "taylor" and radius > MAX_RADIUS:
        raise ValueError(f"radius must be at most {MAX_RADIUS:g} for basis {basis!r}, got {radius:g}")
    return float(radius)
