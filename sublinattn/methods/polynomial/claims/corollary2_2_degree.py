"""The polynomial's degree and the rank of its matrix [AS23, AA22].

Corollary 2.2 says what degree an accuracy takes; Lemma 3.2 counts the monomials of that degree.
"""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

import mpmath
import numpy as np
import sympy as sp
from numpy.random import Generator

from ....theory import symbols
from ....theory.adversary import Arrays, Search
from ....theory.claim import Case, Claim, Exact, Growth, Sabotage, Trial, evaluate
from ..approximants import approximant, log_taylor_bound, minimal_degree, taylor_bound, taylor_degree
from ..monomials import Monomials

PRIME = 2**31 - 1  # products of two residues fit in int64
Range = tuple[float, float]


def log_uniform(rng: Generator, low: float, high: float) -> float:
    """A number whose logarithm is uniform between those of `low` and `high`."""
    return math.exp(rng.uniform(math.log(low), math.log(high)))


def taylor_remainder(rng: Generator, xp: Any, *, degree: int, radius: Range, ahead: int = 0, missing: int = 0) -> Trial:
    """Relative error of Taylor's polynomial on [-R, R] against its bound.

    Sabotages: the bound is that of the degree `degree + ahead`; the `missing` highest powers are left out.
    """
    return remainder_at(log_uniform(rng, *radius), degree=degree, ahead=ahead, missing=missing)


def remainder_at(r: float, *, degree: int, ahead: int = 0, missing: int = 0) -> Trial:
    """The same at one R."""
    with mpmath.workdps(300):  # errors down to 1e-100
        # max |e^{-x} sum_{l <= g} x^l / l! - 1| over 17 points; the largest error is at -R, one of them.
        terms = [1 / mpmath.factorial(power) for power in range(degree - missing, -1, -1)]
        points = [mpmath.mpf(r) * i / 8 for i in range(-8, 9)]
        error = float(max(abs(mpmath.polyval(terms, x) * mpmath.exp(-x) - 1) for x in points))
    bound = taylor_bound(degree + ahead, r)  # e^{2R} R^{g+1} / (g+1)!
    return Trial(error, bound, scale=bound, facts={"R": r, "g": degree, "share": error / bound})


def radius_start(rng: Generator, *, degree: int) -> Arrays:
    return {"R": np.array([log_uniform(rng, 0.01, 16.0)])}


def radius_kept(arrays: Arrays, *, degree: int) -> Arrays:
    return {"R": np.clip(arrays["R"], 1e-3, 16.0)}


def radius_measured(xp: Any, arrays: Arrays, *, degree: int) -> Trial:
    return remainder_at(float(arrays["R"][0]), degree=degree)


def crossing(basis: str, log_inverse: float, radius: float) -> float:
    """Degree at which the error on [-radius, radius] is `exp(-log_inverse)`.

    The error's logarithm is interpolated between two degrees, because a searched size must not be rounded
    (`claim.Growth`). At degree -1 the polynomial is 0 and the error 1. The basis "explicit" is Taylor's with its bound
    in place of the error, which works at any size.
    """
    if basis == "explicit":
        degree = taylor_degree(-log_inverse, radius)
        before, after = (log_taylor_bound(g, radius) for g in (degree - 1, degree))
    else:
        degree = minimal_degree(basis, math.exp(-log_inverse), radius)
        after = math.log(approximant(basis, degree, radius).error)
        before = math.log(approximant(basis, degree - 1, radius).error) if degree else 0.0
    return degree - 1 + (before + log_inverse) / (before - after)


def needed_degree(
    rng: Generator, xp: Any, *, variable: str, basis: str, L: float, R: float, power: float = 1.0
) -> Trial:
    """Degree for accuracy `eps = exp(-L)` on [-R, R]. Nothing is drawn: two replicates agree.

    Sabotage: the interval is [-R^power, R^power].
    """
    degree = crossing(basis, L, R**power)
    facts = {"L": L, "R": R}
    return Trial(degree, facts={**facts, "share": degree / evaluate(symbols.DEGREE_GROWTH, facts)})


def polynomial_rank(rng: Generator, xp: Any, *, d: int, degree: int, lowest: int = 0) -> Trial:
    """Exact rank of the matrix of `p(<q_i, k_j>)` for integer rows and `p(x) = sum_l (g!/l!) x^l`.

    The matrix has 10 more rows and columns than there are monomials. Its rank modulo a prime is no larger than that
    over the rationals, which is at most `C(d+g, g)`: where the two meet, it is the rank. Random residues miss it with
    probability at most `2 t g / PRIME` (Schwartz, Zippel). Sabotage: the sum begins at `lowest` (at g, if larger).
    """
    t = math.comb(d + degree, degree)
    q, k = (rng.integers(PRIME, size=(t + 10, d)) for _ in range(2))
    x = np.zeros((t + 10, t + 10), dtype=np.int64)
    for column in range(d):  # <q_i, k_j>; each product is reduced before the next is added
        x = (x + np.outer(q[:, column], k[:, column]) % PRIME) % PRIME
    entries = np.zeros_like(x)
    for l in range(degree, -1, -1):  # noqa: E741 - as in the paper; Horner's rule with the weights g!/l!
        weight = math.factorial(degree) // math.factorial(l) if l >= min(lowest, degree) else 0
        entries = (entries * x + weight) % PRIME
    return Trial(float(modular_rank(entries)), float(Monomials(d, degree).rank), facts={"d": d, "g": degree, "t": t})


def modular_rank(a: np.ndarray) -> int:
    """Rank over the integers modulo PRIME, by elimination in place."""
    rank = 0
    for column in range(a.shape[1]):
        pivots = np.flatnonzero(a[rank:, column])
        if not pivots.size:
            continue
        a[[rank, rank + pivots[0]]] = a[[rank + pivots[0], rank]]
        a[rank] = a[rank] * pow(int(a[rank, column]), -1, PRIME) % PRIME
        a[rank + 1 :] = (a[rank + 1 :] - a[rank + 1 :, column, None] * a[rank] % PRIME) % PRIME
        rank += 1
        if rank == len(a):
            break
    return rank


def rank_bound(rng: Generator, xp: Any, *, d: int, degree: int, doubled: bool = True, ordered: bool = False) -> Trial:
    """Number of monomials against the paper's bound, where it comes nearest of all dimensions and degrees up to these.

    Sabotages: the bound is the number of monomials of degree g alone (`doubled=False`); the features are the entries of
    the tensor powers `x (x) ... (x) x`, one per `ordered` product of variables.
    """

    def features(e: int, g: int) -> int:
        return sum(e**level for level in range(g + 1)) if ordered else math.comb(e + g, g)

    def bound(e: int, g: int) -> int:
        return math.comb(2 * (g + e), 2 * g) if doubled else math.comb(e + g - 1, g)

    pairs = ((e, g) for e in range(1, d + 1) for g in range(1, degree + 1))
    e, g = max(pairs, key=lambda pair: Fraction(features(*pair), bound(*pair)))
    t, most = features(e, g), bound(e, g)
    facts = {"d": e, "g": g, "log10_t": math.log10(t), "log10_bound": math.log10(most)}
    return Trial(float(t), float(most), facts=facts)


def grid(variable: str, basis: str, L: tuple[float, ...], R: tuple[float, ...]) -> tuple[Case, ...]:
    """Cases of `needed_degree`: every L with every R."""
    return tuple({"variable": variable, "basis": basis, "L": one, "R": r} for one in L for r in R)


IN_L = grid("L", "explicit", (100.0, 300.0, 1e3, 3e3, 1e4, 3e4, 1e5), (2.0,))
IN_R = grid("R", "minimax", (35.0,), (2.0, 2.8, 4.0, 5.6, 8.0, 11.0))
WIDE = grid("R", "minimax", (3.0,), (4.0, 5.5, 7.5, 10.0, 13.0, 17.0))
ERROR = sp.Symbol(r"\max_{|x|\le R}\left|e^{-x}\textstyle\sum_{l\le g}\tfrac{x^l}{l!}-1\right|", positive=True)
DEGREE, RANK_OF = sp.Symbol("g^*", positive=True), sp.Symbol(r"\mathrm{rank}\,p(s\,QK^{\top})", positive=True)
LAW = symbols.DEGREE_GROWTH.subs(symbols.L, sp.log(1 / symbols.eps, evaluate=False))
FIXED = "f3b104c: L and R were drawn anew in each replicate; the one not varied is held fixed, R begins at e^-3 L"
DEGREE_LAW = Claim(
    id="as23.degree-law",
    paper="AA22",
    source="Corollary 2.2 (the degree law of [AA22]), for R < log(1/eps)",
    basis="theorem",
    source_checked=False,
    title="A relative error eps on [-R, R] takes a polynomial of degree O(log(1/eps) / log(log(1/eps)/R))",
    statement=sp.Eq(DEGREE, symbols.O(LAW), evaluate=False),
    kind=Growth(variables={"L": symbols.DEGREE_GROWTH, "R": symbols.DEGREE_GROWTH}),
    trial=needed_degree,
    cases={"smoke": IN_L + IN_R},
    max_trials={"smoke": 2},
    sabotages=(
        Sabotage(
            "a longer interval",
            "the error is that on [-R^1.5, R^1.5] (Taylor's bound, for speed)",
            {"power": 1.5, "basis": "explicit"},
        ),
    ),
    remark=(
        "L = log(1/eps). Over L (R = 2) it is the degree of Taylor's explicit bound, at any size; over R (L = 35) the "
        "minimax polynomial's. Nothing is drawn, so the exponents have no noise. To leading order minimax degree/law "
        "rises to 3/2 at L/R = e^3 and falls to both sides: R begins there, since below it the local exponent in R "
        "is above the law's. as23.degree-upper and as23.degree-lower have no exponents: they bound the constant."
    ),
    restated=FIXED,
)

CLAIMS = (
    Claim(
        id="as23.taylor",
        paper="AS23",
        source="Corollary 2.2's polynomial made explicit: Taylor's remainder",
        basis="derived",
        title="Taylor's polynomial of degree g has relative error at most e^{2R} R^{g+1}/(g+1)! on [-R, R]",
        statement=sp.Le(ERROR, symbols.TAYLOR_ERROR),
        kind=Exact("<="),
        trial=taylor_remainder,
        cases={
            "smoke": tuple(
                {"degree": degree, "radius": radius}
                for degree in (0, 2, 5, 12, 30)
                for radius in ([0.01, 0.1], [0.1, 1.0], [1.0, 4.0], [4.0, 16.0])
            )
        },
        max_trials={"smoke": 10, "standard": 100},
        sabotages=(
            Sabotage("a term too few", "the sum ends before the power g", {"missing": 1}),
            Sabotage("a degree too many", "the bound of degree g + 1 is claimed for degree g", {"ahead": 1}, "bound"),
        ),
        search=Search(
            radius_start,
            radius_measured,
            radius_kept,
            cases=tuple({"degree": g} for g in (0, 2, 5, 12, 30)),
            steps={"smoke": 150, "standard": 1500},
        ),
        remark=(
            "The error is int_0^R t^g e^t dt / g! exactly, attained at -R: at most e^R R^{g+1}/(g+1)!, so the bound "
            "could spare a factor e^R. For R e^R > g + 2 even the bound of degree g + 1 holds: it is caught at small R."
        ),
    ),
    DEGREE_LAW,
    replace(
        DEGREE_LAW,
        id="as23.degree-wide",
        source="Corollary 2.2 (the degree law of [AA22]), for R > log(1/eps)",
        basis="theorem",
        title="Where R exceeds log(1/eps), a relative error eps on [-R, R] takes degree O(R)",
        statement=sp.Eq(DEGREE, symbols.O(symbols.R), evaluate=False),
        kind=Growth(variables={"R": symbols.R}),
        cases={"smoke": WIDE},
        remark=(
            "Of the minimax polynomial, eps = e^-3 = 0.05, without noise. The law's first term has a pole at "
            "log(1/eps) = R."
        ),
    ),
    Claim(
        id="as23.rank",
        paper="AS23",
        source="Lemma 3.2 (the factorisation), with the exact number of monomials",
        basis="derived",
        title="The matrix of p(<q_i, k_j>) has rank C(d+g, g), no less",
        statement=sp.Eq(RANK_OF, symbols.RANK, evaluate=False),
        kind=Exact("=="),
        trial=polynomial_rank,
        cases={
            "smoke": tuple({"d": d, "degree": g} for d, g in ((1, 12), (2, 8), (3, 5), (4, 4), (6, 3), (12, 2))),
            "standard": tuple({"d": d, "degree": g} for d, g in ((1, 20), (2, 12), (4, 6), (8, 4), (12, 3))),
        },
        max_trials={"smoke": 4, "standard": 10},
        sabotages=(Sabotage("the top degree only", "p(x) = x^g, without the lower powers", {"lowest": 10**6}),),
        remark=(
            "Exact, on random integer rows: rank modulo 2^31 - 1. An n x n matrix has rank n if t is larger; here n is."
        ),
    ),
    Claim(
        id="as23.rank-bound",
        paper="AS23",
        source="Lemma 3.2 (rank)",
        basis="theorem",
        source_checked=False,
        title="The rank C(d+g, g) is at most the paper's C(2(g+d), 2g)",
        statement=sp.Le(symbols.RANK, symbols.RANK_BOUND, evaluate=False),
        kind=Exact("<="),
        trial=rank_bound,
        cases={"smoke": ({"d": 16, "degree": 8}, {"d": 64, "degree": 12}, {"d": 128, "degree": 40})},
        max_trials={"smoke": 1},
        sabotages=(
            Sabotage(
                "ordered products", "a feature per entry of the tensor powers of x, d^l of level l", {"ordered": True}
            ),
            Sabotage("a variable too few", "C(d+g-1, g), the monomials of degree g alone", {"doubled": False}, "bound"),
        ),
        remark=(
            "Every d and g up to those of the case; reported, as powers of ten, where the bound comes nearest. It is "
            "about (pi g d / (g+d))^1/2 times the rank squared."
        ),
    ),
)
