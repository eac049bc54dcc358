"""The degree law with constants, from above and from below [AA22, AS23 Corollary 2.2]. `L = log(1/eps)`.

From above, by Taylor's bound `e^{2R} R^m / m!`, `m = g + 1`: it is at most eps if `m log(m/(eR)) >= L + 2R`.

- For `r = L/R >= 4`, `m = C L / log r` makes this `C (1 - (log log r - log(C/e)) / log r) >= 1 + 2/r`, which holds for
  C = 5/2: the left side is 1.76 at r = 4 and never below 1.5.
- For `L <= 4R`, `m = 7R` does: `7 log(7/e) > 6`.

From below, each term of the law's maximum:

- For `L >= 4R`. Let `x_0, ..., x_m` be the extrema of the Chebyshev polynomial `T_m(x/R)`.
  The divided difference over them is 0 for a polynomial of degree g, and `e^xi/m!` for `exp`. With
  `p(x_i) = e^{x_i} (1 + e_i)`, `|e_i| <= eps`, it follows that `e^{-R}/m! <= eps e^R sum_i |c_i|`; the weights `c_i`
  alternate in sign, and sum up in size to the leading coefficient of `T_m(x/R)`, `2^{m-1}/R^m`. So
  `eps >= 2 e^{-2R} (R/2)^m / m!`, hence `m log(2m/R) >= L - 2R >= L/2`, which fails for `m <= L / (2 log(L/R))`.
- For any R: `|p| <= 1 + eps` on [-R, 0], and a polynomial of degree g grows from there to R by a factor of at most
  `T_g(3) <= (3 + sqrt 8)^g`; but `p(R) >= (1 - eps) e^R`. So `g log(3 + sqrt 8) >= R - log((1 + eps)/(1 - eps))`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import scipy
import sympy as sp
from numpy.random import Generator

from ....theory import symbols
from ....theory.adversary import Arrays, Search
from ....theory.claim import Claim, Exact, Sabotage, Trial
from ..approximants import minimal_degree, taylor_degree
from .corollary2_2_degree import DEGREE, Range, log_uniform

GROWTH_OUTSIDE = math.log(3 + math.sqrt(8))  # log T_g(3) / g, at most
WIDE_BOUND = (symbols.R - sp.log((1 + symbols.eps) / (1 - symbols.eps))) / sp.log(3 + sp.sqrt(8))
SHARP_BOUND = sp.log(1 / symbols.eps) / (2 * sp.log(sp.log(1 / symbols.eps) / symbols.R)) - 1


def lower_degree(log_inverse: float, radius: float) -> float:
    """The larger of the two bounds; the first only where `log(1/eps) >= 4R`."""
    eps = math.exp(-log_inverse)
    wide = (radius - math.log((1 + eps) / (1 - eps))) / GROWTH_OUTSIDE
    sharp = log_inverse / (2 * math.log(log_inverse / radius)) - 1 if log_inverse >= 4 * radius else 0.0
    return max(wide, sharp)


def absolute_degree(eps: float, radius: float) -> int:
    """A degree that reaches the absolute error eps on [-R, 0]: `O(sqrt(R log(1/eps)))`, by the Chebyshev series of exp.

    Its coefficients are `2 e^{-R/2} I_l(R/2)`, and no less is needed than a sum of those left out that is at most eps.
    """
    left_out = 2 * np.cumsum(scipy.special.ive(np.arange(1000), radius / 2)[::-1])[::-1]
    return int(np.argmax(left_out[1:] <= eps))


def upper_degree(log_inverse: float, radius: float) -> float:
    """`5/2` times the law's first term where `log(1/eps) >= 4R`, else 7R."""
    wide = log_inverse < 4 * radius
    return 7 * radius if wide else 2.5 * log_inverse / math.log(log_inverse / radius)


def sufficient_degree(
    rng: Generator, xp: Any, *, log_inverse: Range, radius: Range, basis: str, power: float = 1.0
) -> Trial:
    """The least degree at which a basis reaches eps on [-R, R], against the bound on it.

    Sabotage: the interval is [-R^power, R^power].
    """
    return sufficient_at(log_uniform(rng, *log_inverse), log_uniform(rng, *radius), basis=basis, power=power)


def sufficient_at(log_eps: float, r: float, *, basis: str, power: float = 1.0) -> Trial:
    """The same at one eps and R."""
    wide = r**power
    degree = taylor_degree(-log_eps, wide) if basis == "explicit" else minimal_degree(basis, math.exp(-log_eps), wide)
    bound = upper_degree(log_eps, r)
    return Trial(float(degree), bound, facts={"L": log_eps, "R": r, "g": degree, "share": degree / bound})


def place_start(rng: Generator, *, basis: str) -> Arrays:
    return {"log_L": np.log([log_uniform(rng, 2.4, 30.0)]), "log_R": np.log([log_uniform(rng, 0.1, 8.0)])}


def place_kept(arrays: Arrays, *, basis: str) -> Arrays:
    ranges = ((2.4, 1e6), (0.01, 1e4)) if basis == "explicit" else ((2.4, 30.0), (0.1, 8.0))
    return {name: np.clip(arrays[name], *np.log(one)) for name, one in zip(arrays, ranges, strict=True)}


def place_measured(xp: Any, arrays: Arrays, *, basis: str) -> Trial:
    return sufficient_at(*(math.exp(arrays[name][0]) for name in ("log_L", "log_R")), basis=basis)


def least_degree(rng: Generator, xp: Any, *, log_inverse: Range, radius: Range, relative: bool = True) -> Trial:
    """The bound on the degree against the least degree of a polynomial that reaches eps: the minimax polynomial's.

    Sabotage (`relative=False`): the error is absolute, on the half [-R, 0] where `exp` is at most 1.
    """
    return least_at(log_uniform(rng, *log_inverse), log_uniform(rng, *radius), relative=relative)


def least_at(log_eps: float, r: float, *, relative: bool = True) -> Trial:
    """The same at one eps and R."""
    eps = math.exp(-log_eps)
    degree = minimal_degree("minimax", eps, r) if relative else absolute_degree(eps, r)
    bound = lower_degree(log_eps, r)
    return Trial(bound, float(degree), facts={"L": log_eps, "R": r, "g": degree, "share": bound / max(degree, 1)})


def least_measured(xp: Any, arrays: Arrays, *, basis: str) -> Trial:
    return least_at(*(math.exp(arrays[name][0]) for name in ("log_L", "log_R")))


UPPER_BOUND = sp.Piecewise(
    (sp.Rational(5, 2) * symbols.L / sp.log(symbols.L / symbols.R), symbols.L >= 4 * symbols.R), (7 * symbols.R, True)
)

CLAIMS = (
    Claim(
        id="as23.degree-upper",
        paper="AA22",
        source="Corollary 2.2, the upper half of its Theta (constants derived here)",
        basis="theorem",
        title="A degree of 5/2 log(1/eps) / log(log(1/eps)/R), or of 7R if R > log(1/eps)/4, reaches eps on [-R, R]",
        statement=sp.Le(DEGREE, UPPER_BOUND, evaluate=False),
        kind=Exact("<="),
        trial=sufficient_degree,
        cases={
            "smoke": (
                {"basis": "taylor", "log_inverse": [3.0, 30.0], "radius": [0.3, 7.0]},
                {"basis": "taylor", "log_inverse": [2.4, 8.0], "radius": [8.0, 60.0]},
                {"basis": "chebyshev", "log_inverse": [3.0, 30.0], "radius": [0.3, 7.0]},
                {"basis": "minimax", "log_inverse": [3.0, 30.0], "radius": [0.3, 7.0]},
                {"basis": "explicit", "log_inverse": [1e2, 1e6], "radius": [1.0, 1e4]},
            )
        },
        max_trials={"smoke": 10, "standard": 100},
        sabotages=(Sabotage("a longer interval", "the error is that on [-R^1.5, R^1.5]", {"power": 1.5}),),
        search=Search(
            place_start, place_measured, place_kept, ({"basis": "explicit"}, {"basis": "taylor"}), {"smoke": 200}
        ),
        remark="The worst constants are those of Taylor's bound near L = 4R. The proof stands in the file.",
    ),
    Claim(
        id="as23.degree-lower",
        paper="AA22",
        source="Corollary 2.2, the lower half of its Theta (constants derived here)",
        basis="theorem",
        title="No polynomial of a degree below a constant times the law reaches the relative error eps on [-R, R]",
        statement=sp.Ge(DEGREE, sp.Max(SHARP_BOUND, WIDE_BOUND), evaluate=False),
        kind=Exact("<="),
        trial=least_degree,
        cases={
            "smoke": (
                {"log_inverse": [4.0, 12.0], "radius": [0.1, 1.0]},
                {"log_inverse": [12.0, 36.0], "radius": [1.0, 3.0]},
                {"log_inverse": [2.4, 4.0], "radius": [4.0, 18.0]},
            )
        },
        max_trials={"smoke": 8, "standard": 100},
        sabotages=(
            Sabotage(
                "an absolute error",
                "the error is absolute, on [-R, 0], where a degree of O(sqrt(R log(1/eps))) does",
                {"relative": False},
            ),
        ),
        search=Search(place_start, least_measured, place_kept, ({"basis": "minimax"},), {"smoke": 60, "standard": 600}),
        remark=(
            "The law's constant lies between 1/2 (first term, for L = log(1/eps) >= 4R; 1/log(3 + sqrt 8) = 0.57 of R "
            "in the second) and that of as23.degree-law. The degree is Remez' minimax polynomial's, the least there "
            "is. The proof stands in the file."
        ),
    ),
)
