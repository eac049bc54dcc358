"""The error of every estimate at once, the largest entries aside [CCF02, section 3]."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import sympy as sp
from numpy.random import Generator

from ....core.backends import asnumpy
from ....theory import symbols
from ....theory.claim import Claim, Probability, Sabotage, Trial, Vacuity
from ..hashing import cubics
from .signals import by_table, signals, sketched, tail

FAILURE = 0.01
WIDTH, SPREAD = 8, 8
"""`b = 8 k` buckets in a table; every estimate within `8 gamma`, `gamma = ||tail_k|| / sqrt(b)`."""


def tables_needed(n: int, k: int) -> int:
    """Smallest odd number of tables for which the bound is proven for n entries at once."""
    tables = 1
    while symbols.estimate_spread(k, width=WIDTH * k, tables=tables, entries=n, failure=FAILURE) > SPREAD**2:
        tables += 2
    return tables


def point_error(
    rng: Generator, xp: Any, *, family: str, n: int, k: int, narrow: int = 1, average: bool = False, used: int = 0
) -> Trial:
    """Largest error of an estimate of n entries, against `8 gamma` and rounding.

    Sabotages: a width divided by `narrow`, the average of the tables in place of their median, `used` tables.
    """
    width, tables = WIDTH * k, tables_needed(n, k)
    y = signals(rng, family, n, k, columns=1)
    sketch = sketched(xp, cubics(rng, used or tables), y, width=width // narrow)
    index = xp.arange(n)
    estimates = by_table(xp, sketch, index).mean(axis=0) if average else sketch.estimates(xp, index)[:, 0]
    error, largest = float(np.abs(asnumpy(estimates) - y[:, 0]).max()), float(np.abs(y).max())
    bound = SPREAD * float(tail(y, k)[0]) / math.sqrt(width) + 1e-12 * largest
    facts = {"n": n, "k": k, "w": width, "tables": tables, "counters": sketch.table.size, "zero": largest}
    return Trial(error, bound, facts={**facts, "bound_over_largest": bound / largest})


ESTIMATES = symbols.norm(r"\hat{x}-x", r"\infty")
GAMMA = symbols.norm(r"\mathrm{tail}_k(x)", "2") / sp.sqrt(WIDTH * symbols.k)
COUNTERS = sp.Symbol("counters", positive=True)

CLAIMS = (
    Claim(
        id="ccf02.point-error",
        paper="CCF02",
        source="Section 3 (all estimates within 8 gamma, b = 8 k); the number of tables is derived here",
        basis="theorem",
        title="All estimates at once are within 8 |tail_k| / sqrt(8 k), whatever the k largest entries are",
        statement=sp.Le(ESTIMATES, SPREAD * GAMMA),
        kind=Probability(p=FAILURE),
        trial=point_error,
        cases={
            "smoke": tuple(
                {"family": family, "n": 1000, "k": k} for family, k in (("power", 4), ("sparse", 2), ("dominant", 2))
            )
        },
        max_trials={"smoke": 1200, "standard": 4000},
        sabotages=(
            Sabotage("average", "the average over tables in place of their median", {"average": True}),
            Sabotage("a quarter of the width", "2 k buckets in a table", {"narrow": 4}),
            Sabotage("three tables", "the median of 3", {"used": 3}),
        ),
        vacuity=Vacuity(sp.Or(sp.Symbol("bound_over_largest") >= 1, symbols.n <= COUNTERS)),
        remark=(
            "CCF02 has t = O(log(n/delta)) tables. Here t is the smallest for which the median is proven: a table "
            "fails by a collision with one of the k largest (1/8 at most) or by noise (1/64, Markov). A case is "
            "vacuous where the tables hold no fewer numbers than the n that they replace, or the bound is that of "
            "answering 0."
        ),
    ),
)
