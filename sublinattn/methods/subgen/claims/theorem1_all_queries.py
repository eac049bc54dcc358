"""SubGen's normaliser for n queries at once, which is what Theorem 1's log n is for [SG24]."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
import sympy as sp

from ....core.exact import partial_attention
from ....theory import symbols
from ....theory.claim import Claim, Probability, Sabotage, Trial, Vacuity
from ..head import normalisers
from .setting import Cache, chunks, fed, stream, sums
from .theorem1 import hardest

DELTA = 1.0


def samples_for_all(delta_r: float, eps: float, p: float, queries: int) -> int:
    """`t` at which tau is within eps of its mean for that many queries at once, except with probability p.

    Bernstein's inequality for each query, p/queries each. A sample's share of tau is off by at most `e^(2 delta r) - 1`
    times its mean, and the shares' relative variances add up to at most `sinh(delta r)^2 / t`.
    """
    spread = np.sinh(delta_r) ** 2 + np.expm1(2 * delta_r) * eps / 3
    return math.ceil(2 * spread * np.log(2 * queries / p) / eps**2)


@lru_cache(maxsize=8)
def tokens(n: int, d: int, *, clusters: int, r: float, two_sided: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """n queries of norm r and n keys, each (n, d), and the normaliser of every query (n,).

    `two_sided`: the clusters on which one query's variance is largest, and among the queries that one.
    """
    rng = np.random.default_rng(0)
    x = stream(rng, n, d, clusters=clusters, delta=DELTA, norm=4.0, query_norm=r)
    q, k = x.q, x.k
    if two_sided:
        k, q[:1] = hardest(rng, n, d, DELTA, DELTA * r, clusters)
    sums = partial_attention(q, k, np.ones((n, 1)), scale=1.0)
    return q, k, np.exp(sums.m) * sums.l


def all_queries(
    rng: np.random.Generator,
    xp: Any,
    *,
    n: int,
    clusters: int,
    r: float,
    two_sided: bool,
    eps: float,
    p: float,
    broken: str = "nothing",
) -> Trial:
    """Largest relative error of tau over n queries, with the t prescribed for n queries."""
    d = 8
    q, k, exact = tokens(n, d, clusters=clusters, r=r, two_sided=two_sided)
    t = samples_for_all(DELTA * r, eps, p, n)
    cache = fed(Cache(DELTA, t, 1, broken=broken, rng=rng), xp, k, np.ones((n, 1)), chunks(n, 500))
    tau = sums(normalisers, xp, [cache.head], q)[0, :, 0]
    m = len(cache.counts)
    facts = {"n": n, "d": d, "m": m, "t": t, "numbers": m * (1 + t) * (d + 1), "delta_r": DELTA * r}
    return Trial(float(np.abs(tau / exact - 1).max()), eps, facts=facts)


EPS, T, P, N = symbols.eps, symbols.t, sp.Symbol("p", positive=True), symbols.n
W = symbols.delta * symbols.r
ENOUGH = 2 * (sp.sinh(W) ** 2 + (sp.exp(2 * W) - 1) * EPS / 3) * sp.log(2 * N / P) / EPS**2
CASES: tuple[dict[str, Any], ...] = tuple(
    {"n": n, "clusters": clusters, "r": r, "two_sided": two_sided, "eps": 0.2, "p": 0.1}
    for n in (512, 2048)
    for clusters, r, two_sided in ((8, 0.25, False), (2, 0.5, True))
)

CLAIMS = (
    Claim(
        id="sg24.theorem-queries",
        paper="SG24",
        source="Theorem 1 (t, with its log n), with constants derived here",
        basis="theorem",
        title="With t = O(eps^-2 e^(2 delta r) log n) samples tau is within eps for all n queries at once",
        statement=sp.Implies(
            sp.Ge(T, ENOUGH),
            sp.Le(sp.Function(r"\Pr")(sp.Gt(sp.Symbol(r"\max_i|\tau_i/\mathbb{E}\tau_i-1|"), EPS)), P),
        ),
        kind=Probability(0.1),
        trial=all_queries,
        cases={"smoke": CASES, "standard": (*CASES, {**CASES[0], "n": 8192}, {**CASES[1], "n": 8192})},
        max_trials={"smoke": 300, "standard": 4000},
        sabotages=(Sabotage("twins", "all samples of a cluster are one and the same", {"broken": "twin samples"}),),
        vacuity=Vacuity(sp.Ge(sp.Symbol("numbers"), N * symbols.d), onset=sp.Symbol("numbers") / symbols.d),
        remark=(
            "t = 2 (sinh(delta r)^2 + (e^(2 delta r) - 1) eps/3) log(2n/p) / eps^2, by Bernstein's inequality and the "
            "union bound; eps = 0.2, p = 0.1. On clusters of a stream, and on the two-sided ones whose variance is the "
            "largest for one of the n queries. Vacuous where samples and centres are as many numbers as the keys. For "
            "z the theorem's s has no log n, and Chebyshev's inequality with a union bound would ask for more slots "
            "than there are tokens."
        ),
    ),
)
