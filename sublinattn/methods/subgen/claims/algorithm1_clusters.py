"""SubGen's clusters: how many, how wide, the same for every chunking, and what merging keeps [SG24, Algorithm 1]."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import sympy as sp

from ....core.backends import asnumpy, to_device
from ....primitives.clustering import OnlineClusters
from ....theory import symbols
from ....theory.adversary import Search
from ....theory.claim import Assumption, Claim, Drop, Exact, Sabotage, Trial
from ._broken import BROKEN
from ._instances import (
    FEW_STEPS,
    IN_DIGITS,
    count_measured,
    parted_kept,
    parted_start,
    radius_measured,
    separation_measured,
    stream_kept,
    stream_start,
)
from .setting import Cache, chunks, fed, members, stream

D = 8
DELTA = 1.0
ROWS = 64
"""Tokens in a chunk."""


def parts(x: Any) -> int:
    """Number of parts of diameter delta, and farther apart than delta, that a stream consists of."""
    return round(x.params["clusters"] * len(x.k) ** x.params.get("exponent", 0.0))


def clustered(
    rng: np.random.Generator, xp: Any, n: int, knobs: dict[str, Any], broken: str
) -> tuple[np.ndarray, dict[str, float]]:
    """The centers of a stream; measurements: `parts` of the stream, `diameter` of the widest, delta, clusters m."""
    x = stream(rng, n, D, **knobs)
    cache = fed(Cache(DELTA, 2, 4, broken=broken, rng=rng), xp, x.k, x.v, chunks(n, ROWS))
    centers = asnumpy(cache.centers)
    return centers, {"n": n, "parts": parts(x), "diameter": x.params["delta"], "delta": DELTA, "m": len(centers)}


def cluster_count(
    rng: np.random.Generator, xp: Any, *, n: int, knobs: dict[str, Any], broken: str = "nothing"
) -> Trial:
    """Number of clusters, against the number of parts of the stream."""
    centers, facts = clustered(rng, xp, n, knobs, broken)
    return Trial(len(centers), facts["parts"], facts=facts)


def separation(rng: np.random.Generator, xp: Any, *, n: int, knobs: dict[str, Any], broken: str = "nothing") -> Trial:
    """delta over the smallest distance of two centers."""
    centers, facts = clustered(rng, xp, n, knobs, broken)
    return Trial(float(DELTA / smallest_distance(centers)), 1.0, facts=facts)


def smallest_distance(centers: np.ndarray) -> float:
    """Smallest distance of two centers; inf if there is only one."""
    distance, _ = members(centers, centers)
    return float(distance[~np.eye(len(centers), dtype=bool)].min(initial=np.inf))


def radius(rng: np.random.Generator, xp: Any, *, n: int, knobs: dict[str, Any], broken: str = "nothing") -> Trial:
    """Largest distance of a key to the center that it joined, against delta."""
    x = stream(rng, n, D, **knobs)
    k = to_device(x.k, xp)
    clusters = BROKEN[broken].get("clusters", OnlineClusters)(DELTA, k[:0])
    labels = np.concatenate([clusters.absorb(xp, k[chunk]) for chunk in chunks(n, ROWS)])
    distance = np.linalg.norm(x.k - asnumpy(clusters.centers.rows)[labels], axis=1)
    return Trial(float(distance.max()), DELTA, facts={"n": n, "m": len(clusters.centers)})


def chunked(
    rng: np.random.Generator, xp: Any, *, n: int, rows: int, knobs: dict[str, Any], recent: int, broken: str = "nothing"
) -> Trial:
    """How many numbers of the state differ between chunks of `rows` and single rows, which `plain_clusters` checks."""
    x = stream(rng, n, D, **knobs)
    seed = int(rng.integers(2**31))
    single, many = (
        fed(Cache(DELTA, 3, 8, recent=recent, broken=how, rng=seed), xp, x.k, x.v, chunks(n, size))
        for how, size in (("nothing", 1), (broken, rows))
    )
    differ = 0
    for name, a in single.contents().items():
        b = many.contents()[name]
        differ += int((asnumpy(a) != asnumpy(b)).sum()) if a.shape == b.shape else a.size
    centers, counts = plain_clusters(x.k[: n - recent])
    right = np.array_equal(asnumpy(single.centers), centers) and np.array_equal(single.counts, counts)
    return Trial(float(differ + (not right)), 0.0, facts={"n": n, "m": len(centers)})


def plain_clusters(k: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Algorithm 1's clusters, key by key: centers and counts."""
    centers, counts = [k[0]], [1]
    for x in k[1:]:
        # UpdateSoftmaxNormalizer: the key joins its nearest center if that is within delta, else it becomes a center
        distance = ((np.array(centers) - x) ** 2).sum(axis=1)
        if distance.min() <= DELTA**2:
            counts[distance.argmin()] += 1
        else:
            centers.append(x)
            counts.append(1)
    return np.array(centers), np.array(counts)


def merged(
    rng: np.random.Generator,
    xp: Any,
    *,
    n: int,
    knobs: dict[str, Any],
    caches: int = 2,
    most: int | None = None,
    forget_radius: bool = False,
    broken: str = "nothing",
) -> Trial:
    """Largest of the ratios that merging promises to keep at 1 or below.

    Clusters over parts (or over `most`), delta over the smallest distance of two centers, largest distance of a sample
    (16 of each cluster) to the center of its cluster over `radius`, and keys counted over keys there are, or its
    inverse.
    """
    x = stream(rng, n, D, **knobs)
    ends = [i * n // caches for i in range(caches + 1)]
    cuts = [slice(a, b) for a, b in zip(ends[:-1], ends[1:], strict=True)]
    made = [Cache(DELTA, 16, 4, max_clusters=most, broken=broken, rng=rng) for _ in cuts]
    for cache, cut in zip(made, cuts, strict=True):
        fed(cache, xp, x.k, x.v, [cut])
    whole = made[0]
    for cache in made[1:]:
        whole.merge(cache)
    centers = asnumpy(whole.centers)
    distance, _ = members(asnumpy(whole.head.sampled.rows).reshape(-1, D), centers)
    own = np.repeat(np.arange(len(centers)), 16)
    total = float(whole.counts.sum())
    ratios = (
        len(centers) / (parts(x) if most is None else most),
        whole.current_delta / smallest_distance(centers),
        distance[np.arange(len(own)), own].max() / (whole.current_delta if forget_radius else whole.radius),
        max(total / n, n / total),
    )
    facts = {"n": n, "m": len(centers), "parts": parts(x), "radius": whole.radius}
    return Trial(float(max(ratios)), 1.0, facts=facts)


STREAMS: tuple[dict[str, Any], ...] = (
    {"n": 400, "knobs": {"clusters": 20, "delta": DELTA}},
    {"n": 400, "knobs": {"clusters": 1.0, "exponent": 0.5, "delta": DELTA, "order": "norm"}},
    {"n": 400, "knobs": {"clusters": 1.0, "exponent": 0.5, "delta": DELTA, "order": "cluster"}},
    {"n": 300, "knobs": {"clusters": 1.0, "exponent": 1.0, "delta": DELTA, "separation": 2.01, "norm": 24.0}},
)
WIDE: tuple[dict[str, Any], ...] = tuple(
    {"n": 400, "knobs": {"clusters": 5, "delta": 1.4 * DELTA, "norm": 20.0, "order": order}}
    for order in ("random", "norm")
)
"""Parts too wide for one cluster: a claim that does not count clusters is about these too."""
DRIFTING: dict[str, Any] = {"n": 400, "knobs": {"workload": "drifting", "clusters": 5, "delta": DELTA, "speed": 4.0}}
CHUNKED = ((160, 0, WIDE[0]), (7, 0, WIDE[0]), (64, 20, WIDE[1]), (64, 0, STREAMS[0]))

PARTS, RADIUS = sp.Symbol(r"m_{\delta}"), sp.Symbol("radius")
K, X, Y = (sp.Symbol(name) for name in ("k_i", "x", "y"))
DISTANCE: Callable[..., Any] = sp.Function("dist")
FEW, APART = sp.Le(symbols.m, PARTS), sp.Le(symbols.delta, DISTANCE(X, Y))
CLUSTERABLE = Assumption("clusterable", sp.Le(sp.Symbol("diameter"), symbols.delta))
DRIFT = Sabotage("centre drift", "centres move to the mean of their cluster", {"broken": "drifting centres"})
CROWDED = Sabotage(
    "half of delta", "a key opens a cluster from a distance of delta/2 on", {"broken": "crowded clusters"}
)
BLIND = Sabotage(
    "old centres only",
    "a key near an old centre does not look at those that its own chunk made",
    {"broken": "blind clusters"},
)

exact_claim = partial(
    Claim,
    paper="SG24",
    kind=Exact("<=", rtol=0.0),
    max_trials={"smoke": 10, "standard": 100},
    source="Algorithm 1",
    basis="theorem",
)

CLAIMS = (
    exact_claim(
        id="sg24.clusters",
        source="Algorithm 1 with the definition of (m, delta)-clusterability",
        basis="theorem",
        title="There are at most m clusters if the keys are (m, delta)-clusterable, in any order of the tokens",
        statement=FEW,
        trial=cluster_count,
        cases={"smoke": STREAMS},
        assumptions=(CLUSTERABLE,),
        drops=(Drop("clusterable", WIDE),),
        search=Search(parted_start, count_measured, parted_kept, IN_DIGITS, FEW_STEPS),
        sabotages=(CROWDED,),
        remark="Parts are farther apart than delta, so m clusters are also needed: the bound is met with equality.",
    ),
    exact_claim(
        id="sg24.packing",
        title="Centres are pairwise farther than delta",
        statement=APART,
        trial=separation,
        cases={"smoke": (*STREAMS, *WIDE, DRIFTING)},
        search=Search(stream_start, separation_measured, stream_kept, IN_DIGITS, FEW_STEPS),
        sabotages=(CROWDED, DRIFT),
    ),
    exact_claim(
        id="sg24.radius",
        title="Every key is within delta of a centre, so of any other member of its cluster within 2 delta",
        statement=sp.Le(DISTANCE(K, X), symbols.delta),
        trial=radius,
        cases={"smoke": (*STREAMS, *WIDE, DRIFTING)},
        search=Search(stream_start, radius_measured, stream_kept, IN_DIGITS, FEW_STEPS),
        sabotages=(DRIFT,),
        remark="The centre must stay where it is: one that moves to the mean of its cluster leaves members behind.",
    ),
    exact_claim(
        id="sg24.chunks",
        source="Algorithm 1, with the chunked rule derived here",
        basis="derived",
        title="Absorbing chunks gives the state of the row by row rule, to the bit",
        statement=sp.Eq(sp.Symbol(r"\mathrm{state}_{c}"), sp.Symbol(r"\mathrm{state}_{1}")),
        kind=Exact("==", rtol=0.0),
        trial=chunked,
        cases={"smoke": tuple({"n": 160, "rows": r, "recent": w, "knobs": case["knobs"]} for r, w, case in CHUNKED)},
        sabotages=(BLIND,),
        remark=(
            "Centres, counts, samples, slots, and what will replace them; centres and counts also against a plain loop "
            "over the keys."
        ),
    ),
    exact_claim(
        id="sg24.merge",
        source="derived here from Algorithm 1",
        basis="derived",
        title="Merging keeps the clusters' number, separation, radius and counts",
        statement=sp.And(FEW, APART, sp.Le(DISTANCE(K, X), RADIUS), evaluate=False),
        trial=merged,
        cases={
            "smoke": (
                *STREAMS[:3],
                {**STREAMS[0], "caches": 5},
                {"n": 400, "knobs": {"clusters": 40, "delta": DELTA, "norm": 12.0}, "most": 12, "caches": 3},
                {**STREAMS[0], "knobs": {**STREAMS[0]["knobs"], "order": "cluster"}, "most": 12},
                {**WIDE[0], "most": 400, "caches": 3},
            )
        },
        sabotages=(
            CROWDED,
            Sabotage("radius kept", "a merged cluster is taken to be as narrow as before", {"forget_radius": True}),
        ),
        remark=(
            "The radius grows by delta with a merge: another stream's centre joins one within delta, its members come "
            "along. The cases with at most 12 clusters double delta, before merging or by it."
        ),
    ),
)
