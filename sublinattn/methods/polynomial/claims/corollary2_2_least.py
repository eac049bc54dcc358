"""The polynomials and degrees that are computed are the best: against linear programming and plain summation [AA22]."""

from __future__ import annotations

import math
from typing import Any

import mpmath
import numpy as np
import scipy
import sympy as sp
from numpy.random import Generator

from ....theory.claim import Claim, Exact, Sabotage, Trial
from ..approximants import approximant, minimal_degree, taylor_degree
from .corollary2_2_degree import DEGREE, Range, log_uniform

POINTS = 600  # of a grid on [-R, R]; the largest error there is less by a share of about (g / POINTS)^2


def points(radius: float) -> np.ndarray:
    """Places in [-radius, radius], denser at the ends."""
    return radius * np.cos(np.linspace(0, np.pi, POINTS))


def least_error(degree: int, radius: float) -> float:
    """The smallest E for which some polynomial has `|p(x) e^{-x} - 1| <= E` at the points, by linear programming."""
    x = points(radius)
    powers = np.polynomial.chebyshev.chebvander(x / radius, degree) * np.exp(-x)[:, None]
    ones = np.ones((POINTS, 1))
    matrix = np.concatenate([np.hstack([powers, -ones]), np.hstack([-powers, -ones])])
    limit = np.concatenate([np.ones(POINTS), -np.ones(POINTS)])
    costs = np.append(np.zeros(degree + 1), 1.0)  # the unknowns are the coefficients, and E
    return float(scipy.optimize.linprog(costs, matrix, limit, bounds=(None, None)).fun)


def reference_error(basis: str, degree: int, radius: float) -> float:
    """Relative error of the polynomial of this degree, without the method's code; "explicit" is Taylor's bound."""
    if basis in ("taylor", "explicit"):
        with mpmath.workdps(60):
            r = mpmath.mpf(radius)
            if basis == "explicit":
                return float(mpmath.exp(2 * r) * r ** (degree + 1) / mpmath.factorial(degree + 1))
            at_the_end = mpmath.fsum((-r) ** power / mpmath.factorial(power) for power in range(degree + 1))
            return float(abs(at_the_end * mpmath.exp(r) - 1))  # the error is largest at -R
    if basis == "minimax":
        return least_error(degree, radius)
    x = points(radius)
    interpolant = np.polynomial.Chebyshev.interpolate(np.exp, degree, domain=[-radius, radius])
    return float(np.abs(interpolant(x) * np.exp(-x) - 1).max())


def chosen_degree(
    rng: Generator, xp: Any, *, basis: str, eps: Range, radius: Range, short: int = 0, part: float = 1.0
) -> Trial:
    """The degree that the method takes for eps on [-R, R], and the first that reaches it by the reference.

    Sabotages: the degree is lower by `short`; it is that of [-part R, part R].
    """
    small, r = log_uniform(rng, *eps), log_uniform(rng, *radius)
    there = part * r
    degree = taylor_degree(math.log(small), there) if basis == "explicit" else minimal_degree(basis, small, there)
    least = next(g for g in range(1000) if reference_error(basis, g, r) <= small)
    return Trial(float(degree - short), float(least), facts={"varepsilon": small, "R": r, "g": least})


def minimax_error(rng: Generator, xp: Any, *, degree: int, radius: Range, basis: str = "minimax") -> Trial:
    """The minimax polynomial's error, the larger of the recorded and the seen one, and the least there is.

    Sabotage: the polynomial is that of another `basis`.
    """
    r = log_uniform(rng, *radius)
    x, p = points(r), approximant(basis, degree, r)
    seen = float(np.abs(np.polyval(p.coefficients[::-1], x) * np.exp(-x) - 1).max())
    least = least_error(degree, r)
    return Trial(max(seen, p.error), least, scale=least, facts={"R": r, "g": degree})


BEST = sp.Symbol(r"\min_{\deg p\le g}\max_{|x|\le R}|p(x)e^{-x}-1|", positive=True)
ERROR = sp.Symbol(r"\max_{|x|\le R}|p_{g,R}(x)e^{-x}-1|", positive=True)
FIRST = sp.Symbol(r"\min\{g : \mathrm{err}(g, R)\le\varepsilon\}", positive=True)

CLAIMS = (
    Claim(
        id="as23.degree-least",
        paper="AA22",
        source="Corollary 2.2 (the degree, as it is computed here)",
        basis="derived",
        title="The degree taken for eps on [-R, R] is the first that reaches it, for each polynomial",
        statement=sp.Eq(DEGREE, FIRST),
        kind=Exact("=="),
        trial=chosen_degree,
        cases={
            "smoke": (
                {"basis": "taylor", "eps": [1e-9, 0.5], "radius": [0.1, 8.0]},
                {"basis": "explicit", "eps": [1e-9, 0.5], "radius": [0.1, 8.0]},
                {"basis": "chebyshev", "eps": [1e-7, 0.5], "radius": [0.1, 4.0]},
                {"basis": "minimax", "eps": [1e-3, 0.5], "radius": [0.3, 4.0]},
            )
        },
        max_trials={"smoke": 10, "standard": 100},
        sabotages=(
            Sabotage("a degree short", "the degree is lower by one", {"short": 1}),
            Sabotage("half the radius", "the degree is that of [-R/2, R/2]", {"part": 0.5}),
        ),
        remark=(
            "The reference sums Taylor's polynomial in multiple precision, interpolates with NumPy, and finds the "
            "minimax error by linear programming on 600 points."
        ),
    ),
    Claim(
        id="as23.minimax",
        paper="AA22",
        source="Corollary 2.2 (the best polynomial, as it is computed here)",
        basis="derived",
        title="No polynomial of its degree has a smaller relative error than the minimax polynomial",
        statement=sp.Eq(ERROR, BEST),
        kind=Exact("==", rtol=1e-3),
        trial=minimax_error,
        cases={
            "smoke": tuple(
                {"degree": degree, "radius": radius}
                for degree, radius in ((0, [0.1, 2.0]), (1, [0.5, 2.0]), (3, [1.5, 4.0]), (5, [3.0, 6.0]))
            )
        },
        max_trials={"smoke": 4, "standard": 50},
        sabotages=(Sabotage("the interpolant", "the polynomial is Chebyshev's interpolant", {"basis": "chebyshev"}),),
        remark="Against linear programming on 600 points, where the least error is less by a share of about 1e-4.",
    ),
)
