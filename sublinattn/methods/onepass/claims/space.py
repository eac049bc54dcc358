"""What the one-pass algorithm stores: over n, over k, eps1 and eps2, and with d = Theta(log n) [ALSY23]."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import sympy as sp
from numpy.random import Generator

from ....lab.workloads import make
from ....theory import symbols
from ....theory.claim import Case, Claim, Growth, Sabotage, Trial, Vacuity
from ....theory.cost import over, powers
from ...countsketch.countsketch import bit_length
from ...countsketch.recovery import bit_tables_for, tables_for, width_for
from ...polynomial.approximants import taylor_degree
from ..onepass import OnePassSketch
from ..variants import product_width


# --------------------------------------------------------------------------------------------------- numbers, and n of
def held(sketch: OnePassSketch) -> int:
    """Numbers in the arrays of a sketch: sums, tables, bit counters, hashes."""
    return sum(int(x.size) for x in sketch.contents().values())


def numbers(
    n: int, d: int, d_v: int, *, degree: int, sparsity: int, eps1: float, eps2: float = 1.0, variant: str
) -> int:
    """`held` of a sketch that has read all rows, from its parameters: exact at any size, nothing is allocated."""
    t, tables = math.comb(d + degree, degree), tables_for(n * d_v, eps1)
    buckets = tables + bit_tables_for(sparsity * d_v, eps1) * bit_length(n)
    phi = width_for(sparsity, eps1) * buckets  # for one column; and 4 coefficients of each table's cubic
    if variant == "fused":
        return phi * d_v + 4 * tables + t * (d_v + 1)
    return phi * t + 4 * tables + product_width(eps2) * (t + d_v) + 4 + t


def crossing(numbers_at: Callable[[int], int], per_token: int, *, longest: int = 2**30) -> int:
    """The n from which on `numbers_at(n)` are fewer than `per_token` n.

    Numbers never fall as n grows: from `f(n) = numbers(n) // per_token + 1` on there are more than are held at n.

    Raises
    ------
    ValueError
        `longest` tokens are not enough.
    """
    n = longest
    if numbers_at(n) >= per_token * n:
        raise ValueError(f"longest must be past the crossing, got {n}, where no fewer than {per_token} n are held")
    while (below := numbers_at(n - 1) // per_token + 1) < n:
        n = below
    return n


@cache
def smallest_n(d: int, d_v: int, **parameters: Any) -> int:
    """The n from which on a sketch holds fewer numbers than keys and values."""
    return crossing(lambda n: numbers(n, d, d_v, **parameters), d + d_v)


# -------------------------------------------------------------------------------------------------------------- trials
def near(rng: Generator, value: float) -> float:
    """A number within 10 percent of `value`: replicates of a quantity without noise differ in where they are taken."""
    return value * rng.uniform(0.9, 1.1)


def stored_bytes(rng: Generator, xp: Any, *, variable: str, n: int, variant: str, keep_rows: bool = False) -> Trial:
    """Bytes that a sketch stores after all rows. Sabotage: the values are stored as well."""
    x = make("compressible", int(near(rng, n)), 4, rng=rng)
    x, (n, d) = x.to(xp), x.k.shape
    sizes: dict[str, Any] = {"degree": 2, "sparsity": 4, "eps1": 1.0, "eps2": 1.0, "variant": variant}
    sketch = OnePassSketch(n, d, d, scale=x.scale, rng=rng, **sizes).absorb_keys(x.k, x.v).absorb_queries(x.q)
    size = sketch.nbytes + (x.v.nbytes if keep_rows else 0)
    return Trial(float(size), facts={"n": n, "cache": x.k.nbytes + x.v.nbytes})


def allocated(rng: Generator, xp: Any, *, variable: str, k: int, eps1: float, eps2: float, squared: str = "") -> Trial:
    """Numbers that the paper's three sketches hold for n = 2^16, d = d_v = 2 and degree 2, after all rows.

    The variable is drawn within 10 percent. Sabotage: the parameter `squared` enters as its square.
    """
    n, d = 2**16, 2
    given: dict[str, Any] = {"k": k, "eps1": eps1, "eps2": eps2}
    given[variable] = near(rng, given[variable])
    given["k"] = round(given["k"])
    used = given | ({squared: given[squared] ** 2} if squared else {})
    sparsity = used.pop("k")
    sketch = OnePassSketch(n, d, d, degree=2, sparsity=sparsity, variant="paper", rng=rng, **used)
    sketch.state.allocate(np, np.float32, queries=True)
    return Trial(float(held(sketch)), facts={**given, "n": n})


def wide(rng: Generator, xp: Any, *, variable: str, log_n: float, radius_of_width: bool = False) -> Trial:
    """Log of the numbers of the three sketches for d = d_v = log n, `|s <q, k>|` at most 1 and eps = 1/n.

    Sabotage: the logits lack the scale 1/d, and are as large as d.
    """
    log_n = near(rng, log_n)
    log_held, log_replaced = wide_logs(log_n, radius_of_width)
    facts = {"Lambda": log_n, "log_held": log_held, "log_replaced": log_replaced, "onset": wide_onset()}
    return Trial(log_held, facts={**facts, "exponent": log_held / log_n})


def wide_logs(log_n: float, radius_of_width: bool = False) -> tuple[float, float]:
    """Logs of the numbers held and replaced in `wide`; k = 8, eps1 = 0.5, eps2 = 1."""
    n, d = int(math.exp(log_n)), math.ceil(log_n)
    degree = taylor_degree(-log_n, float(d if radius_of_width else 1))
    sketch = numbers(n, d, d, degree=degree, sparsity=8, eps1=0.5, variant="paper")
    return math.log(sketch), log_n + math.log(2 * d)


@cache
def wide_onset() -> float:
    """n from which on the sketches of `wide` hold fewer numbers than keys and values."""
    grid = np.arange(3.0, 100.0, 0.05)
    above = [held >= replaced for held, replaced in map(wide_logs, grid)]
    return math.exp(grid[np.flatnonzero(above)[-1] + 1])


def within(**grids: tuple[float, ...]) -> tuple[Case, ...]:
    """One grid for each of k, eps1 and eps2, the others fixed."""
    fixed: Case = {"k": 4, "eps1": 0.5, "eps2": 1.0}
    return tuple({"variable": name, **fixed, name: value} for name, grid in grids.items() for value in grid)


def _space(variant: str) -> Claim:
    return Claim(
        id=f"alsy23.space-{variant}",
        paper="ALSY23",
        source="main theorem (space)",
        basis="implementation",
        source_checked=False,
        title=f"This code, {variant} variant: bytes grow no faster than log n at fixed d, degree, k, eps1, eps2",
        statement=sp.Eq(symbols.BYTES, symbols.O(symbols.LOG_N)),
        kind=Growth(variables={"n": symbols.LOG_N}, resolution={"n": 0.03}),
        trial=stored_bytes,
        cases={
            "smoke": over("n", powers(10, 14), variant=variant),
            "full": over("n", powers(12, 20, 2), variant=variant),
        },
        max_trials={"smoke": 8},
        sabotages=(Sabotage("values kept", "the values are kept beside the sketch", {"keep_rows": True}),),
        remark=(
            "All arrays, after all rows. With degree and d fixed, n^{o(1)} is log n, the counters per bucket; how the "
            "rank must grow with n is as23.phase. Support means that an excess of 0.03 is ruled out."
        ),
        restated="f3b104c: the tolerance on the exponent is at most a quarter of that of log n, 0.03 instead of 0.05",
    )


NUMBERS = sp.Symbol(r"\mathrm{numbers}", positive=True)
EPS1, EPS2, LOG_HELD, LOG_REPLACED = sp.symbols("eps1 eps2 log_held log_replaced", positive=True)

CLAIMS = (
    _space("fused"),
    _space("paper"),
    Claim(
        id="alsy23.space-parameters",
        paper="ALSY23",
        source="main theorem (space)",
        basis="theorem",
        source_checked=False,
        title="The three sketches hold numbers that grow no faster than k, 1/eps1 and 1/eps2^2",
        statement=sp.Eq(NUMBERS, symbols.O(symbols.k / EPS1 + EPS2**-2)),
        kind=Growth(
            variables={"k": symbols.k, "eps1": 1 / EPS1, "eps2": EPS2**-2},
            resolution={"k": 0.2, "eps1": 0.2, "eps2": 0.4},
        ),
        trial=allocated,
        cases={"smoke": within(k=(4, 8, 16, 32), eps1=(0.8, 0.4, 0.2, 0.1), eps2=(0.4, 0.2, 0.1, 0.05))},
        max_trials={"smoke": 12},
        sabotages=(
            Sabotage("k squared", "k^2 / eps1 buckets", {"squared": "k"}),
            Sabotage("eps1 squared", "k / eps1^2 buckets, as for exactly k entries", {"squared": "eps1"}),
            Sabotage("eps2 to the fourth", "Psi has 1/eps2^4 rows", {"squared": "eps2"}),
        ),
        remark=(
            "All numbers of the paper's variant after all rows, counted at its arrays; n = 2^16, d = 2, degree 2. The "
            "term in eps2, from the rows of Psi, is derived here: the abstract of the theorem has k/eps1 alone."
        ),
    ),
    Claim(
        id="alsy23.space-log-width",
        paper="ALSY23",
        source="main theorem (space), d = O(log n)",
        basis="theorem",
        source_checked=False,
        title="With d = log n, bounded entries and accuracy 1/n the three sketches hold n^{o(1)} numbers at fixed k",
        statement=sp.Eq(NUMBERS, symbols.n ** sp.Function("o")(1), evaluate=False),
        kind=Growth(variables={"Lambda": symbols.LOG_RANK_GROWTH}, resolution={"Lambda": 0.05}),
        trial=wide,
        cases={"smoke": tuple({"variable": "Lambda", "log_n": log_n} for log_n in (40.0, 100.0, 250.0, 625.0))},
        max_trials={"smoke": 12, "standard": 24},
        sabotages=(Sabotage("scale 1", "the logits are <q, k>, not <q, k>/d: up to d", {"radius_of_width": True}),),
        vacuity=Vacuity(LOG_HELD >= LOG_REPLACED, onset=symbols.ONSET),
        remark=(
            "By the package's formulas, log n from 40 to 625: what grows is log(numbers), against Lambda log log "
            "Lambda / log Lambda, Lambda = log n (as23.phase). A case is vacuous where the numbers held are no fewer "
            "than the n (d + d_v) of keys and values; eps2 = 1."
        ),
    ),
)
