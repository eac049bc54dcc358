"""SubGen's memory and time over n: what the number of clusters makes of them [SG24, Theorem 1]."""

from __future__ import annotations

from typing import Any

import numpy as np
import sympy as sp

from ....core.backends import to_device
from ....core.timing import best_of
from ....lab.workloads import make
from ....theory import symbols
from ....theory.claim import Case, Claim, Growth, Sabotage, Trial
from ....theory.cost import over, powers
from ..subgen import SubGenCache
from .setting import chunks

DELTA = 1.0
TIMED = 1024
"""Tokens of the chunk whose time is taken, the stream's last."""
NEARLY = sp.Rational(3, 4)
"""Exponent of n that counts as not sublinear where overheads are part of what is measured."""
CLUSTERS: dict[str, dict[str, Any]] = {
    "fixed": {"clusters": 64},
    "sqrt": {"clusters": 2.0, "exponent": 0.5},
    "linear": {"clusters": 1.0, "exponent": 1.0},
}


def _stream(rng: np.random.Generator, xp: Any, n: int, growth: str, d: int = 16) -> tuple[Any, Any]:
    """Keys and values of about n tokens: replicates must not all have one n."""
    n = round(n * 2 ** rng.uniform(-0.1, 0.1))
    x = make("clusterable", n, d, rng=rng, delta=DELTA, **CLUSTERS[growth])
    return to_device(x.k, xp), to_device(x.v, xp)


def _cache(rng: np.random.Generator, most: int | None = None) -> SubGenCache:
    return SubGenCache(DELTA, 4, 64, max_clusters=most, rng=rng)


def held_bytes(
    rng: np.random.Generator,
    xp: Any,
    *,
    variable: str,
    n: int,
    growth: str,
    keep_rows: bool = False,
    most: int | None = None,
    at_least: bool = False,
) -> Trial:
    """Bytes held after n tokens; `at_least`: n over them, which a memory that is linear in n keeps from growing."""
    k, v = _stream(rng, xp, n, growth)
    cache = _cache(rng, most)
    for chunk in chunks(len(k), 4096):
        cache.update(k[chunk], v[chunk])
    held = cache.nbytes + (k.nbytes + v.nbytes if keep_rows else 0)
    facts = {"n": len(k), "m": len(cache.counts), "nbytes": held}
    return Trial(float(len(k) / held if at_least else held), facts=facts)


def update_seconds(
    rng: np.random.Generator,
    xp: Any,
    *,
    variable: str,
    n: int,
    growth: str,
    d: int = 16,
    against_all: bool = False,
    most: int | None = None,
    at_least: bool = False,
    rounds: int = 3,
) -> Trial:
    """Fastest of some updates with the last `TIMED` tokens of a stream of n; `at_least`: n^NEARLY over its seconds."""
    k, v = _stream(rng, xp, n, growth, d)
    last = slice(-TIMED, None)
    cache = _cache(rng, most)
    for chunk in chunks(len(k), 4096):
        cache.update(k[chunk], v[chunk])

    def update() -> None:
        cache.update(k[last], v[last])  # tokens that came before, so that no cluster is made
        if against_all:
            xp.matmul(k[last], k.T).min(axis=1)

    best = best_of(xp, update, rounds)
    return Trial(
        float(len(k) ** float(NEARLY) / best) if at_least else best, facts={"n": len(k), "m": len(cache.counts)}
    )


ONE, ROOT = sp.Integer(1), sp.sqrt(symbols.n)
SPACE, TIME, LINEAR = powers(10, 15), powers(11, 14), powers(10, 13)
KEPT = Sabotage("rows kept", "keys and values are kept beside the state", {"keep_rows": True})
CAPPED = Sabotage("capped", "delta doubles beyond 64 clusters", {"most": 64})
ALL_KEYS = Sabotage("all keys", "each key is compared with all keys so far", {"against_all": True})


TAKEN = "Seconds of this machine for 1024 tokens that the stream of n ended with; d = 16, t = 4, s = 64; "


def _grows(
    slug: str,
    title: str,
    statement: sp.Basic,
    theory: sp.Expr,
    cases: tuple[Case, ...],
    sabotage: Sabotage,
    remark: str,
) -> Claim:
    machine = slug.startswith("time")
    return Claim(
        id=f"sg24.{slug}",
        paper="SG24",
        source="Theorem 1 (memory and time)",
        title=title,
        statement=statement,
        kind=Growth(variables={"n": theory}, machine=machine, resolution=0.1 if machine else 0.05),
        trial=update_seconds if machine else held_bytes,
        cases={"smoke": cases},
        max_trials={"smoke": 8, "standard": 16},
        sabotages=(sabotage,),
        remark=remark,
    )


CLAIMS = (
    _grows(
        "memory-fixed",
        "Memory does not grow with n while the number of clusters does not",
        sp.Eq(symbols.BYTES, symbols.O(1)),
        ONE,
        over("n", SPACE, growth="fixed"),
        KEPT,
        "64 clusters, d = 16, t = 4, s = 64. Support means that an excess of 0.05 is ruled out.",
    ),
    _grows(
        "memory-sublinear",
        "Memory grows no faster than n^0.5 when the number of clusters is n^0.5",
        sp.Eq(symbols.BYTES, symbols.O(ROOT)),
        ROOT,
        over("n", SPACE, growth="sqrt"),
        KEPT,
        "2 n^0.5 clusters, d = 16, t = 4, s = 64. All arrays count, the room to spare too.",
    ),
    _grows(
        "memory-linear",
        "Where keys do not cluster memory grows at least like n",
        sp.Eq(symbols.n / symbols.BYTES, symbols.O(1)),
        ONE,
        over("n", LINEAR, growth="linear", at_least=True),
        CAPPED,
        "A cluster per key. n over the bytes must not grow. The sabotage shows that bounded memory would be seen.",
    ),
    _grows(
        "time-fixed",
        "The time of an update does not grow with n while the number of clusters does not",
        sp.Eq(symbols.SECONDS, symbols.O(1)),
        ONE,
        over("n", TIME, growth="fixed"),
        ALL_KEYS,
        TAKEN + "64 clusters.",
    ),
    _grows(
        "time-sublinear",
        "The time of an update grows no faster than n^0.5 when the number of clusters is n^0.5",
        sp.Eq(symbols.SECONDS, symbols.O(ROOT)),
        ROOT,
        over("n", TIME, growth="sqrt"),
        ALL_KEYS,
        TAKEN + "2 n^0.5 clusters.",
    ),
    _grows(
        "time-linear",
        "Where keys do not cluster the time of an update is not sublinear: it grows faster than n^0.75",
        sp.Eq(symbols.n**NEARLY / symbols.SECONDS, symbols.O(1)),
        ONE,
        over("n", LINEAR, growth="linear", d=64, at_least=True),
        CAPPED,
        TAKEN
        + "a cluster per key, and d = 64. n^0.75 over the seconds must not grow. What does not depend on n keeps the "
        "measured exponent, 0.75 less the fit's, below 1 at these n: at least linear growth would be refuted.",
    ),
)
