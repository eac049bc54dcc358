"""The estimate of an entry from one table of a CountSketch, its mean and variance, and the median over tables [CCF02].

All three laws are those of section 3.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import sympy as sp
from numpy.random import Generator

from ....core.backends import asnumpy, to_device
from ....theory import symbols
from ....theory.claim import Claim, Mean, Sabotage, Trial
from ..countsketch import median
from ..hashing import MAX_INDEX, cubics
from .signals import NO_SIGNS, by_table, sketched

FAMILIES = {
    "flat": lambda n: np.ones(n),
    "power": lambda n: 1 / np.arange(1, n + 1),
    "alternating": lambda n: np.where(np.arange(n) % 2, -1.0, 1.0) * np.sqrt(np.arange(n, 0, -1)),
}


def first_estimates(
    rng: Generator, xp: Any, x: np.ndarray, start: int, *, width: int, tables: int, signs: bool = True
) -> np.ndarray:
    """Estimates of the first entry of x, whose index is `start`, from independent tables: shape (tables,)."""
    sketch = sketched(xp, cubics(rng, tables), x[:, None], start=start, width=width, signs=signs)
    return asnumpy(by_table(xp, sketch, xp.arange(start, start + 1)))[:, 0]


def mean_of_estimates(
    rng: Generator, xp: Any, *, family: str, n: int, width: int, start: int, tables: int, signs: bool = True
) -> Trial:
    """Average of the estimates of the first entry."""
    x = FAMILIES[family](n)
    estimates = first_estimates(rng, xp, x, start, width=width, tables=tables, signs=signs)
    deviation = np.sqrt((x[1:] ** 2).sum() / width / tables)
    return Trial(float(estimates.mean()), float(x[0]), scale=float(deviation), facts={"n": n, "w": width})


def mean_square(
    rng: Generator, xp: Any, *, family: str, n: int, width: int, start: int, tables: int, narrow: int = 1
) -> Trial:
    """Average of the squared errors of those estimates.

    The error's fourth moment has a term `(1/w) sum x_j^4 + (3/w^2) sum_{j != l} x_j^2 x_l^2`, by 4-wise independence,
    and one from four different other entries. The latter is about five indices, of which a cubic knows nothing but that
    the four meet with probability `w^-3`: it is at most `w^-3` times the sum of `|x_i x_j x_l x_m|` over them.
    Sabotage: there are `width / narrow` buckets.
    """
    x = FAMILIES[family](n)
    estimates = first_estimates(rng, xp, x, start, width=width // narrow, tables=tables)
    s2, s4 = (float((x[1:] ** power).sum()) for power in (2, 4))
    # The sum over ordered quadruples of different indices is 4! times a coefficient of prod_i (z + |x_i|).
    quadruples = 24 * float(np.poly(-np.abs(x[1:]))[4])
    fourth = s4 / width + 3 * (s2**2 - s4) / width**2 + quadruples / width**3
    law = s2 / width
    deviation = np.sqrt((fourth - law**2) / tables)
    return Trial(float(((estimates - x[0]) ** 2).mean()), law, scale=float(deviation), facts={"n": n, "w": width})


def middle_of_estimates(
    rng: Generator, xp: Any, *, width: int, tables: int, sketches: int, lower: bool = False
) -> Trial:
    """Average square of the median over `tables` tables of the estimates of the first of four ones.

    One table's estimate is 1 plus, of each of the three others that is in its bucket, the product of the two signs.
    Four indices are independent under a random cubic, so the median's law follows from all combinations of errors.
    Sabotage (`lower`): the lower of the two middle estimates, or the one just below the middle.
    """
    estimates = first_estimates(rng, xp, np.ones(4), 0, width=width, tables=tables * sketches)
    estimates = estimates.reshape(tables, sketches)
    below = np.sort(estimates, axis=0)[tables // 2 - 1]
    medians = below if lower else asnumpy(median(xp, to_device(estimates, xp)))
    # Error of one table: a sum of three terms that are -1, 0 or 1 with these probabilities.
    each = np.array([1, 2 * width - 2, 1]) / (2 * width)
    one = np.convolve(np.convolve(each, each), each)
    which = np.indices((7,) * tables).reshape(tables, -1)
    chance, value = one[which].prod(axis=0), 1 + np.median(which - 3, axis=0)
    law, fourth = (float(chance @ value**power) for power in (2, 4))
    facts = {"w": width, "tables": tables, "mean": float(medians.mean())}
    return Trial(float((medians**2).mean()), law, scale=float(np.sqrt((fourth - law**2) / sketches)), facts=facts)


LAST = MAX_INDEX - 64  # the largest indices there are
MEANS = tuple(
    {"family": family, "n": 64, "width": 16, "start": start, "tables": 2000}
    for family, start in (("flat", 0), ("flat", LAST), ("power", 12345), ("alternating", 0))
)
SQUARES = tuple(
    {"family": family, "n": 12, "width": width, "start": start, "tables": 4000}
    for family, width, start in (("flat", 32, 0), ("power", 32, LAST), ("alternating", 64, 12345))
)
MIDDLES = tuple({"width": 2, "tables": tables, "sketches": 2000} for tables in (2, 4, 5))
X, X_HAT = sp.IndexedBase("x"), sp.IndexedBase(r"\hat{x}")
MEDIAN = sp.Symbol(r"\mathrm{median}_j\,\hat{x}_i^{(j)}")
SQUARE_LAW = sp.Symbol(r"\sum_{e}\Pr[e]\,\mathrm{median}_j(x_i+e_j)^2", positive=True)
i, j, E = symbols.i, symbols.j, symbols.E

CLAIMS = (
    Claim(
        id="ccf02.unbiased",
        paper="CCF02",
        source="Section 3 (the estimate of one row of the sketch)",
        basis="theorem",
        title="One CountSketch table estimates every entry without bias",
        statement=sp.Eq(E(X_HAT[i]), X[i]),
        kind=Mean(resolution=0.05),
        trial=mean_of_estimates,
        cases={"smoke": MEANS},
        max_trials={"smoke": 400, "standard": 4000},
        sabotages=(NO_SIGNS,),
        remark=(
            "Many independent tables per trial, with the exact standard deviation that pairwise independence gives. "
            "The hash's bias, about 1e-9, is far below the resolution."
        ),
    ),
    Claim(
        id="ccf02.variance",
        paper="CCF02",
        source="Section 3 (the variance of that estimate)",
        basis="theorem",
        title="Its squared error is (1/w) times the sum of the other entries' squares",
        statement=sp.Eq(E((X_HAT[i] - X[i]) ** 2), (sp.Sum(X[j] ** 2, (j, 1, symbols.n)) - X[i] ** 2) / symbols.w),
        kind=Mean(resolution=0.05),
        trial=mean_square,
        cases={"smoke": SQUARES},
        max_trials={"smoke": 600, "standard": 6000},
        sabotages=(Sabotage("too few buckets", "half the buckets that the claim counts", {"narrow": 2}),),
        remark=(
            "The test's standard deviation is an upper bound: a fourth moment at a given entry is about five indices, "
            "one more than a random cubic makes independent. Few entries keep the difference small."
        ),
    ),
    Claim(
        id="ccf02.median",
        paper="CCF02",
        source="Section 3 (the median over rows of the sketch)",
        basis="derived",
        title="The median over tables, an even or an odd number of them, has the law of independent tables",
        statement=sp.Eq(E(MEDIAN**2), SQUARE_LAW),
        kind=Mean(resolution=0.05),
        trial=middle_of_estimates,
        cases={"smoke": MIDDLES},
        max_trials={"smoke": 200, "standard": 2000},
        sabotages=(Sabotage("below the middle", "the lower of two middle estimates, or the next", {"lower": True}),),
        remark=(
            "Four ones: the law of the median follows from every combination of the tables' errors, and is symmetric "
            "about 1. A median that leans to one side moves the mean of its square as much as one that spreads."
        ),
    ),
)
