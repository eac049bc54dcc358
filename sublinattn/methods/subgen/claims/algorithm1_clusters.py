"""SubGen's clusters: how many, how wide, and the same for every chunking [SG24, Algorithm 1]."""

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
from .setting import Cache, chunks, fed, members, several, stream

D = 8
DELTA = 0.7
"""Not 1, whose square is itself."""
ROWS = 64
"""Tokens in a chunk."""


def parts(n: int, *, clusters: float, exponent: float = 0.0, **_: Any) -> int:
    """Number of parts of diameter delta, and farther apart than delta, that a stream of n tokens consists of."""
    return round(clusters * n**exponent)


def clustered(
    rng: np.random.Generator, xp: Any, n: int, knobs: dict[str, Any], broken: str
) -> tuple[np.ndarray, dict[str, float]]:
    """The centers of a stream; measurements: `parts` of the stream, `diameter` of the widest, delta, clusters m."""
    x = stream(rng, n, D, **knobs)
    cache = fed(Cache(DELTA, 2, 4, broken=broken, rng=rng), xp, x.k, x.v, chunks(n, ROWS))
    centers = asnumpy(cache.centers)
    return centers, {
        "n": n,
        "parts": parts(n, **knobs),
        "diameter": x.params["delta"],
        "delta": DELTA,
        "m": len(centers),
    }


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
    rng: np.random.Generator,
    xp: Any,
    *,
    n: int,
    rows: int,
    knobs: dict[str, Any],
    recent: int,
    heads: int = 1,
    d_v: int = D,
    dtype: str = "float64",
    most: int | None = None,
    broken: str = "nothing",
) -> Trial:
    """How many numbers of the state differ between chunks of `rows` and single rows, which `plain_clusters` checks."""
    k, v = (x.astype(dtype) for x in several(rng, heads, n, D, d_v=d_v, **knobs))
    seed = int(rng.integers(2**31))
    single, many = (
        fed(Cache(DELTA, 3, 8, recent=recent, max_clusters=most, broken=how, rng=seed), xp, k, v, chunks(n, size))
        for how, size in (("nothing", 1), (broken, rows))
    )
    differ = 0
    for name, a in single.contents().items():
        b = many.contents()[name]
        differ += int((asnumpy(a) != asnumpy(b)).sum()) if a.shape == b.shape else a.size
    for head, keys in zip(single.heads, k.reshape(heads, n, D), strict=True):
        centers, counts, delta = plain_clusters(keys[: n - recent], most)
        differ += not np.array_equal(asnumpy(head.clusters.centers.rows), centers)
        differ += not np.array_equal(head.samples.counts, counts) or head.clusters.delta != delta
    return Trial(float(differ), 0.0, facts={"n": n, "m": len(single.head.clusters.centers)})


def plain_clusters(k: np.ndarray, most: int | None = None) -> tuple[np.ndarray, np.ndarray, float]:
    """Algorithm 1's clusters, key by key: centers, counts, delta, doubled where there would be more than `most`."""
    wide, delta = k.astype(np.float64), DELTA
    centers, counts = [0], [1]  # which keys are centers

    def joined(key: int, count: int) -> bool:
        # UpdateSoftmaxNormalizer: the key joins its nearest center if that is within delta
        distance = ((wide[centers] - wide[key]) ** 2).sum(axis=1)
        if near := bool(distance.min(initial=np.inf) <= delta**2):
            counts[distance.argmin()] += count
        return near

    for key in range(1, len(k)):
        while not joined(key, 1):
            if most is None or len(centers) < most:  # else it becomes a center
                centers.append(key)
                counts.append(1)
                break
            delta, former = 2 * delta, list(zip(centers, counts, strict=True))
            centers.clear()
            counts.clear()
            for center, count in former:
                if not joined(center, count):
                    centers.append(center)
                    counts.append(count)
    return k[centers], np.array(counts), delta


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
HEADS: dict[str, Any] = {"heads": 3, "d_v": 3, "dtype": "float32"}
CHUNKED: tuple[dict[str, Any], ...] = tuple(
    {"n": 160, "recent": 0, **case}
    for case in (
        {"rows": 160, "knobs": WIDE[0]["knobs"]},
        {"rows": 7, "knobs": WIDE[0]["knobs"]},
        {"rows": 64, "knobs": WIDE[1]["knobs"], "recent": 20},
        {"rows": 64, "knobs": STREAMS[0]["knobs"]},
        {"rows": 37, "knobs": WIDE[0]["knobs"], "recent": 20, **HEADS},
        {"rows": 37, "knobs": {**WIDE[0]["knobs"], "clusters": 40}, "most": 12, **HEADS},
        {"rows": 37, "knobs": {**WIDE[0]["knobs"], "norm": 300.0}, **HEADS},
        {"n": 400, "rows": 400, "knobs": WIDE[0]["knobs"]},
    )
)

PARTS = sp.Symbol(r"m_{\delta}")
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

SQUARE = "f3b104c: delta was 1, whose square is itself"

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
        restated=SQUARE,
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
        restated=SQUARE,
        title="Centres are pairwise farther than delta",
        statement=APART,
        trial=separation,
        cases={"smoke": (*STREAMS, *WIDE, DRIFTING)},
        search=Search(stream_start, separation_measured, stream_kept, IN_DIGITS, FEW_STEPS),
        sabotages=(CROWDED, DRIFT),
    ),
    exact_claim(
        id="sg24.radius",
        restated=SQUARE,
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
        restated="f3b104c: tried with one head in float64, short chunks, no bound on the clusters, and delta = 1",
        cases={"smoke": CHUNKED},
        sabotages=(BLIND,),
        remark=(
            "Centres, counts, samples, slots, and what will replace them; centres, counts and delta also against a "
            "plain loop over the keys. Three heads in float32 too, with a recent window, or at most 12 clusters."
        ),
    ),
)
