"""What merging two SubGen caches keeps: the clusters' number, separation, radius and counts [SG24, Algorithm 1]."""

from __future__ import annotations

from typing import Any

import numpy as np
import sympy as sp

from ....core.backends import asnumpy
from ....theory.adversary import Arrays, Search
from ....theory.claim import Claim, Exact, Sabotage, Trial
from ._instances import FEW_STEPS, IN_DIGITS, stream_kept, stream_start
from .algorithm1_clusters import APART, CROWDED, DELTA, DISTANCE, FEW, STREAMS, WIDE, D, K, X, parts, smallest_distance
from .setting import Cache, chunks, fed, members, several


def merged(
    rng: np.random.Generator,
    xp: Any,
    *,
    n: int,
    knobs: dict[str, Any],
    caches: int = 2,
    most: int | None = None,
    heads: int = 1,
    d_v: int = D,
    recent: int = 0,
    forget_radius: bool = False,
    broken: str = "nothing",
) -> Trial:
    """Largest of the ratios that merging promises to keep at 1 or below, of the last head.

    Clusters over parts (or over `most`), delta over the smallest distance of two centers, largest distance of a sample
    (16 of each cluster) to the center of its cluster over `radius`, and tokens counted (or the sum of the values'
    squared norms) over those that there are outside the window, or its inverse.
    """
    k, v = several(rng, heads, n, D, d_v=d_v, **knobs)
    ends = [i * n // caches for i in range(caches + 1)]
    cuts = [slice(a, b) for a, b in zip(ends[:-1], ends[1:], strict=True)]
    made = [Cache(DELTA, 16, 4, recent=recent, max_clusters=most, broken=broken, rng=rng) for _ in cuts]
    for cache, cut in zip(made, cuts, strict=True):
        fed(cache, xp, k, v, [cut])
    whole = made[0]
    for cache in made[1:]:
        whole.merge(cache)
    head = whole.head
    centers = asnumpy(head.clusters.centers.rows)
    distance, _ = members(asnumpy(head.sampled.rows).reshape(-1, D), centers)
    own = np.repeat(np.arange(len(centers)), 16)
    outside = v.reshape(heads, n, -1)[-1, : n - recent]
    total, mu = head.samples.counts.sum() / len(outside), head.slots.mu / (outside**2).sum()
    possible = parts(n, **knobs) if most is None else most
    ratios = (
        len(centers) / possible,
        head.clusters.delta / smallest_distance(centers),
        distance[np.arange(len(own)), own].max() / (head.clusters.delta if forget_radius else head.radius),
        max(total, 1 / total),
        max(mu, 1 / mu) - 1e-12,
    )
    facts = {"n": n, "m": len(centers), "parts": possible, "radius": head.radius}
    return Trial(float(max(ratios)), 1.0, facts=facts)


def merged_measured(xp: Any, arrays: Arrays, *, offset: float, dtype: str) -> Trial:
    """The larger of the ratios of separation and radius, of the merged halves of a small stream, delta = 1."""
    k = (arrays["k"] + offset).astype(dtype)[np.argsort(arrays["order"])]
    one, two = (
        fed(Cache(1.0, 4, 1, rng=seed), xp, half, half, chunks(len(half), 7))
        for seed, half in enumerate(np.split(k, 2))
    )
    head = one.merge(two).head
    centers, samples = (asnumpy(x.rows).astype(np.float64) for x in (head.clusters.centers, head.sampled))
    farthest = float(np.linalg.norm(samples - centers[:, None], axis=2).max())
    facts = {"n": len(k), "m": len(centers), "radius": head.radius}
    return Trial(max(1.0 / smallest_distance(centers), farthest / head.radius), 1.0, facts=facts)


CLAIMS = (
    Claim(
        id="sg24.merge",
        paper="SG24",
        source="derived here from Algorithm 1",
        basis="derived",
        restated=(
            "f3b104c: tried with one head, no window, no sum of squared norms, and delta = 1; 58c0d5d: rounding was "
            "not tolerated"
        ),
        title="Merging keeps the clusters' number, separation, radius and counts, and the sum of squared norms",
        statement=sp.And(FEW, APART, sp.Le(DISTANCE(K, X), sp.Symbol("radius")), evaluate=False),
        kind=Exact("<=", rtol=1e-9),
        trial=merged,
        search=Search(stream_start, merged_measured, stream_kept, IN_DIGITS, FEW_STEPS),
        cases={
            "smoke": (
                *STREAMS[:3],
                {**STREAMS[0], "caches": 5},
                {"n": 400, "knobs": {"clusters": 40, "delta": DELTA, "norm": 12.0}, "most": 12, "caches": 3},
                {**STREAMS[0], "knobs": {**STREAMS[0]["knobs"], "order": "cluster"}, "most": 12},
                {**WIDE[0], "most": 400, "caches": 3},
                {**STREAMS[0], "caches": 3, "heads": 2, "d_v": 3, "recent": 30},
            )
        },
        max_trials={"smoke": 10, "standard": 100},
        sabotages=(
            CROWDED,
            Sabotage(
                "radius kept",
                "a merged cluster is taken to be as narrow as before",
                {"forget_radius": True},
                breaks="bound",
            ),
        ),
        remark=(
            "The radius grows by delta with a merge: another stream's centre joins one within delta, its members come "
            "along. The cases with at most 12 clusters double delta, before merging or by it."
        ),
    ),
)
