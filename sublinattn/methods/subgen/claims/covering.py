"""How many clusters keys in a ball make, and how wide clusters are within a budget of bytes, by packing [SG24]."""

from __future__ import annotations

from typing import Any

import numpy as np
import sympy as sp

from ....core.backends import asnumpy, to_device
from ....primitives.kcenter import greedy_radii
from ....theory import symbols
from ....theory.adversary import Arrays, Search
from ....theory.claim import Claim, Exact, Sabotage, Trial, Vacuity
from ..head import Head
from ._instances import FEW_STEPS
from .setting import Cache, chunks, fed, members, several

AMBIENT = 16
"""Width of the keys whose ball has fewer dimensions."""
ROWS = 64
"""Tokens in a chunk."""
FIRST = 0.01
"""delta before it doubles."""
FEW_KEYS = 40
"""Keys of an instance that the adversary changes."""


def covering(
    rng: np.random.Generator, xp: Any, *, n: int, dimensions: int, ratio: float, order: str, broken: str = "nothing"
) -> Trial:
    """Clusters of radius delta = 1 that keys in a ball of radius `ratio` and so many dimensions make, over the bound.

    `order`: "random", or from the middle "outwards".
    """
    x = rng.standard_normal((n, dimensions))
    length = np.sort(rng.random(n) ** (1 / dimensions)) if order == "outwards" else rng.random(n) ** (1 / dimensions)
    x *= (ratio * length / np.linalg.norm(x, axis=1))[:, None]
    k = x @ np.linalg.qr(rng.standard_normal((AMBIENT, dimensions)))[0].T
    cache = fed(Cache(1.0, 1, 1, broken=broken, rng=rng), xp, k, rng.standard_normal((n, 3)), chunks(n, ROWS))
    # Balls of radius delta/2 around the centers are disjoint, and lie in a ball of radius R + delta/2.
    bound = (1 + 2 * ratio) ** dimensions
    facts = {"n": n, "d": dimensions, "m": len(cache.counts), "most": bound}
    return Trial(len(cache.counts), bound, facts=facts)


def within_budget(
    rng: np.random.Generator,
    xp: Any,
    *,
    n: int,
    nbytes: int,
    d: int,
    heads: int,
    recent: int,
    dtype: str,
    knobs: dict[str, Any],
    broken: str = "nothing",
) -> Trial:
    """Largest of the ratios that a cache with `nbytes` for each head keeps at 1 or below.

    After every chunk, its bytes over those; in the end, for each head, the distance of a key to the nearest center, and
    of a sample to its own, over `radius`, and `radius` over 8 times the covering radius of as many greedy centers as
    there may be clusters.
    """
    d_v, t = 3, 4
    k, v = (x.astype(dtype) for x in several(rng, heads, n, d, d_v=d_v, **knobs))
    cache = Cache.within(
        nbytes, d, d_v, delta=FIRST, cluster_samples=t, value_samples=10, recent=recent, dtype=dtype, rng=rng
    ).breaking(broken)
    most = cache.max_clusters or 0
    ratios = [fed(cache, xp, k, v, [chunk]).nbytes / (heads * nbytes) for chunk in chunks(n, ROWS)]
    for head, keys in zip(cache.heads, k.reshape(heads, n, d)[:, : n - recent], strict=True):
        ratios += reaches(xp, head, keys, most)
    return Trial(float(max(ratios)), 1.0, facts={"n": n, "m": len(cache.head.samples.counts), "most": most})


def reaches(xp: Any, head: Head, k: np.ndarray, most: int) -> list[float]:
    """How far a key is from the nearest center, or a sample from its own, over `radius`; and that over its bound.

    The bound is 8 times the covering radius of `most` greedy centers, but not less than delta at first.
    """
    centers, samples = (asnumpy(x.rows).astype(np.float64) for x in (head.clusters.centers, head.sampled))
    distance, _ = members(k.astype(np.float64), centers)
    farthest = max(distance.min(axis=1).max(), np.linalg.norm(samples - centers[:, None], axis=2).max())
    # Before delta doubled last, m centers and a key were farther than delta/2 apart: no m centers cover them within
    # delta/4. A key is within delta + delta/2 + ... < 2 delta of its center.
    least = greedy_radii(xp, to_device(np.ascontiguousarray(k), xp), most)[-1]
    return [float(farthest / head.radius), float(head.radius / max(8 * least, FIRST))]


# -------------------------------------------------------------------------------------------- the adversary's instances
def ball_start(rng: np.random.Generator, *, dimensions: int, ratio: float) -> Arrays:
    """Keys in the ball, in the order of the stream."""
    return ball_kept({"k": ratio * rng.standard_normal((FEW_KEYS, dimensions))}, dimensions=dimensions, ratio=ratio)


def ball_kept(arrays: Arrays, *, dimensions: int, ratio: float) -> Arrays:
    """Keys beyond the ball come onto its surface."""
    length = np.linalg.norm(arrays["k"], axis=1, keepdims=True)
    return {"k": arrays["k"] * np.minimum(1.0, ratio / np.maximum(length, 1e-300))}


def ball_measured(xp: Any, arrays: Arrays, *, dimensions: int, ratio: float) -> Trial:
    """Clusters of radius 1 against the bound."""
    k = arrays["k"]
    cache = fed(Cache(1.0, 1, 1, rng=0), xp, k, k, chunks(len(k), 7))
    return Trial(len(cache.counts), (1 + 2 * ratio) ** dimensions, facts={"n": len(k), "m": len(cache.counts)})


def budget_start(rng: np.random.Generator, *, most: int) -> Arrays:
    """Keys in a plane, in the order of the stream."""
    return {"k": rng.standard_normal((FEW_KEYS, 2))}


def budget_kept(arrays: Arrays, *, most: int) -> Arrays:
    return {"k": np.clip(arrays["k"], -100, 100)}


def budget_measured(xp: Any, arrays: Arrays, *, most: int) -> Trial:
    """The larger of the ratios `reaches` with at most so many clusters."""
    k = arrays["k"]
    cache = fed(Cache(FIRST, 4, 1, max_clusters=most, rng=0), xp, k, k, chunks(len(k), 7))
    return Trial(max(reaches(xp, cache.head, k, most)), 1.0, facts={"n": len(k), "m": len(cache.counts), "most": most})


R, MOST = sp.symbols("R m_max", positive=True)
BALLS: tuple[dict[str, Any], ...] = tuple(
    {"n": 1000, "dimensions": d, "ratio": ratio, "order": order}
    for d, ratio in ((1, 8.0), (2, 4.0), (3, 2.0), (4, 1.5), (8, 1.0))
    for order in ("random", "outwards")
)
SMALL_BALLS = ({"dimensions": 1, "ratio": 3.0}, {"dimensions": 2, "ratio": 1.5})
BUDGETS: tuple[dict[str, Any], ...] = (
    {
        "n": 500,
        "nbytes": 5000,
        "d": 8,
        "heads": 3,
        "recent": 16,
        "dtype": "float32",
        "knobs": {"clusters": 40, "norm": 12.0},
    },
    {
        "n": 500,
        "nbytes": 6000,
        "d": 8,
        "heads": 1,
        "recent": 0,
        "dtype": "float64",
        "knobs": {"clusters": 500, "norm": 40.0},
    },
    {"n": 500, "nbytes": 6000, "d": 8, "heads": 2, "recent": 7, "dtype": "float32", "knobs": {"workload": "drifting"}},
    {"n": 500, "nbytes": 2500, "d": 1, "heads": 2, "recent": 7, "dtype": "float32", "knobs": {"workload": "gaussian"}},
)

CLAIMS = (
    Claim(
        id="sg24.covering",
        paper="SG24",
        source="derived here: Algorithm 1's clusters, by packing balls",
        basis="derived",
        title="Keys in a ball of radius R in d dimensions make at most (1 + 2R/delta)^d clusters, in any order",
        statement=sp.Le(symbols.m, (1 + 2 * R / symbols.delta) ** symbols.d),
        kind=Exact("<=", rtol=0.0),
        trial=covering,
        cases={"smoke": BALLS},
        max_trials={"smoke": 10, "standard": 100},
        search=Search(ball_start, ball_measured, ball_kept, SMALL_BALLS, FEW_STEPS),
        sabotages=(
            Sabotage(
                "half of delta", "a key opens a cluster from a distance of delta/2 on", {"broken": "crowded clusters"}
            ),
        ),
        vacuity=Vacuity(sp.Ge(sp.Symbol("most"), symbols.n), onset=sp.Symbol("most")),
        remark=(
            "Sublinear memory without clusters in the keys: their number stops growing with n, but at a size that is "
            "exponential in d. Keys have 16 coordinates and lie in d dimensions of them."
        ),
    ),
    Claim(
        id="sg24.budget",
        paper="SG24",
        source="derived here: the doubling algorithm of [CCFM97] on Algorithm 1's clusters",
        basis="derived",
        title="Within a budget of bytes, each key is within 8 times the least radius, or delta, of a centre",
        restated="58c0d5d: keys in no more places than there may be clusters keep the delta that they began with",
        statement=sp.Le(sp.Symbol("radius"), sp.Max(symbols.delta, 8 * sp.Function("radius")(MOST))),
        kind=Exact("<=", rtol=1e-9),
        trial=within_budget,
        cases={"smoke": BUDGETS},
        max_trials={"smoke": 10, "standard": 100},
        search=Search(budget_start, budget_measured, budget_kept, ({"most": 2}, {"most": 5}), FEW_STEPS),
        sabotages=(
            Sabotage("no bound", "delta does not double when the budget is used up", {"broken": "endless clusters"}),
            Sabotage("full", "once it is used up, keys join their nearest centre", {"broken": "full clusters"}),
        ),
        remark=(
            "The least radius with which m_max centres can cover the keys is at most that of the greedy k-center, with "
            "which it is compared. Several heads, float32, a recent window, and n that is no multiple of the chunk."
        ),
    ),
)
