"""What SubGen stores and what an update and a query compute, counted exactly, against `O(d (m t + s))` [SG24]."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any

import numpy as np
import sympy as sp

from ....theory import symbols
from ....theory.claim import Claim, Exact, Sabotage, Trial, Vacuity
from ..head import normalisers, numerators
from .algorithm1_clusters import parts
from .setting import Cache, chunks, fed, several
from .theorem1 import samples_for, slots_for


class Counted(np.ndarray):
    """An array that counts the multiplications of each product, and the subtractions, that it takes part in.

    Results take part too, and share `counts`. What NumPy does with its own arrays is not counted.
    """

    __module__ = "numpy"  # where `core.backends` looks to see whose array it is

    def __array_finalize__(self, obj: Any) -> None:
        shared: Counter[str] | None = getattr(obj, "counts", None)
        self.counts = Counter() if shared is None else shared

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, out: Any = None, **keywords: Any) -> Any:
        if out is not None:
            keywords["out"] = tuple(map(_plain, out))
        result = getattr(ufunc, method)(*map(_plain, inputs), **keywords)
        if ufunc is np.matmul:
            self.counts["products"] += result.size * inputs[0].shape[-1]
        if ufunc is np.subtract:
            self.counts["differences"] += result.size
        return counting(result, self.counts) if isinstance(result, np.ndarray) else result


def _plain(x: Any) -> Any:
    return x.view(np.ndarray) if isinstance(x, Counted) else x


def counting(x: np.ndarray, counts: Counter[str]) -> Counted:
    """A view of the array that counts into `counts`."""
    out = x.view(Counted)
    out.counts = counts
    return out


# ------------------------------------------------------------------------------------------------------------ memory
def held_numbers(
    rng: np.random.Generator,
    xp: Any,
    *,
    n: int,
    d: int,
    d_v: int,
    heads: int,
    eps: float,
    delta_r: float,
    knobs: dict[str, Any],
    keep_rows: bool = False,
    broken: str = "nothing",
) -> Trial:
    """Numbers that a cache of the prescribed t and s holds after n tokens, per head, against the formula.

    The clusters are those that the stream is made of. Slots are for values of the least stable rank, 1.
    """
    t, s, m = samples_for(delta_r, eps, 0.1), slots_for(1.0, eps, 0.1), parts(n, **knobs)
    k, v = several(rng, heads, n, d, d_v=d_v, **knobs)
    cache = fed(Cache(1.0, t, s, broken=broken, rng=rng), xp, k, v, chunks(n, 300))
    held = sum(x.size for x in cache.contents().values()) / heads + keep_rows * n * (d + d_v)
    bound = m * (1 + t) * (d + 1) + s * (d + d_v + 1)
    facts = {"n": n, "d": d, "d_v": d_v, "m": m, "t": t, "s": s, "numbers": bound}
    return Trial(float(held), float(bound), facts=facts)


# -------------------------------------------------------------------------------------------------------------- time
def operations(
    rng: np.random.Generator,
    xp: Any,
    *,
    of: str,
    n: int,
    d: int,
    d_v: int,
    t: int,
    s: int,
    knobs: dict[str, Any],
    against_all: bool = False,
    broken: str = "nothing",
) -> Trial:
    """Multiplications of a "query", or subtractions of an "update" with one token, against the formula.

    Counted with NumPy, whatever the backend. `against_all` (a sabotage): all tokens are looked at, too.
    """
    k, v = several(rng, 1, n, d, d_v=d_v, **knobs)
    cache, m = fed(Cache(1.0, t, s, broken=broken, rng=rng), np, k, v, chunks(n, 300)), parts(n, **knobs)
    counts: Counter[str] = Counter()
    x = counting(rng.standard_normal((1, 1, d)) if of == "query" else k[:1], counts)
    if of == "query":
        numerators(np, cache.heads, x, 1.0)
        normalisers(np, cache.heads, x, 1.0)
        bound = m * t * (d + 2) + s * (d + d_v + 1)  # each key's product with q, and with its weight, value and 1
    else:
        cache.head.absorb(np, x, v[:1], np.inf)
        bound = m * d
    if against_all:
        np.subtract(np.matmul(x, k.T), 1.0)
    done = counts["products" if of == "query" else "differences"]
    return Trial(float(done), float(bound), facts={"n": n, "m": m, "t": t, "s": s, "d": d, "d_v": d_v})


M, T, S, D, D_V, N = symbols.m, symbols.t, symbols.s, symbols.d, symbols.d_v, symbols.n
CROWDED = Sabotage(
    "half of delta", "a key opens a cluster from a distance of delta/2 on", {"broken": "crowded clusters"}
)
MEMORY: tuple[dict[str, Any], ...] = (
    {"n": 3000, "d": 16, "d_v": 16, "heads": 1, "eps": 0.3, "delta_r": 0.25, "knobs": {"clusters": 20}},
    {"n": 3000, "d": 8, "d_v": 12, "heads": 2, "eps": 0.2, "delta_r": 0.5, "knobs": {"clusters": 1, "exponent": 0.5}},
    {"n": 3000, "d": 8, "d_v": 3, "heads": 1, "eps": 0.4, "delta_r": 0.5, "knobs": {"clusters": 8, "order": "norm"}},
    {"n": 500, "d": 8, "d_v": 8, "heads": 1, "eps": 0.2, "delta_r": 1.0, "knobs": {"clusters": 10}},
)
TIME: tuple[dict[str, Any], ...] = tuple(
    {"of": of, "n": 900, "d": 8, "d_v": d_v, "t": t, "s": s, "knobs": {"clusters": m}}
    for of in ("query", "update")
    for m, t, s, d_v in ((5, 3, 20, 8), (40, 3, 20, 8), (5, 24, 20, 5), (5, 3, 160, 8))
)

count_claim = partial(
    Claim, paper="SG24", basis="theorem", kind=Exact("==", rtol=0.0), max_trials={"smoke": 3, "standard": 30}
)

CLAIMS = (
    count_claim(
        id="sg24.numbers-held",
        source="Theorem 1 (memory), counted exactly here",
        title="With t samples of m clusters and s slots, m (1 + t)(d + 1) + s (d + d_v + 1) numbers are held, no fewer",
        statement=sp.Eq(sp.Symbol(r"\mathrm{numbers}"), M * (1 + T) * (D + 1) + S * (D + D_V + 1)),
        trial=held_numbers,
        cases={"smoke": MEMORY},
        sabotages=(
            CROWDED,
            Sabotage("rows kept", "keys and values are kept beside the state", {"keep_rows": True}),
        ),
        vacuity=Vacuity(sp.Ge(sp.Symbol("numbers"), N * (D + D_V)), onset=sp.Symbol("numbers") / (D + D_V)),
        remark=(
            "t = sinh(delta r)^2 / (eps^2 p) and s = 1 / (eps^2 p) for p = 0.1: the theorem's sizes, with constants, "
            "for values of stable rank 1. d (m t + s) of it are the keys; the rest are centres, values, and a number "
            "of state for each. m is the number of parts of the stream. A state as large as all keys and values is "
            "vacuous."
        ),
    ),
    count_claim(
        id="sg24.operations",
        source="Theorem 1 (time), counted exactly here",
        title="A query costs m t (d + 2) + s (d + d_v + 1) multiplications, an update m d subtractions, exactly",
        statement=sp.Eq(sp.Symbol(r"\mathrm{products}"), M * T * (D + 2) + S * (D + D_V + 1)),
        trial=operations,
        cases={"smoke": TIME},
        sabotages=(
            CROWDED,
            Sabotage("all keys", "the token or query is compared with all keys so far, too", {"against_all": True}),
        ),
        remark=(
            "The theorem's O(d (m t + s)) is tight for this algorithm: of the formula's terms none can be left out, "
            "and nothing grows with n. Counted in the calls of NumPy that one query, or one token as in decoding, "
            "makes, as m, t, s and d_v change one at a time."
        ),
    ),
)
