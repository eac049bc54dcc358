"""SubGen's clusters: how many, how wide, the same for every chunking, and what merging keeps [SG24, Algorithm 1]."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import sympy as sp

from ....core.backends import asnumpy, to_device
from ....theory import symbols
from ....theory.claim import Assumption, Claim, Drop, Exact, Sabotage, Trial
from .setting import CLUSTERS, Cache, chunks, fed, members, stream

D = 8
DELTA = 1.0


def found(
    rng: np.random.Generator,
    xp: Any,
    *,
    n: int,
    knobs: dict[str, Any],
    broken: str,
    rows: int = 64,
) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
    """A stream's keys, the centres found, and the facts: `parts` in the stream, the largest `diameter` of one."""
    x = stream(rng, n, D, **knobs)
    cache = fed(Cache(DELTA, 2, 4, broken=broken, rng=rng), xp, x.k, x.v, chunks(n, rows))
    parts = round(x.params["clusters"] * n ** x.params.get("exponent", 0.0))
    facts = {"n": n, "parts": parts, "diameter": x.params["delta"], "delta": DELTA, "m": len(cache.centers)}
    return x.k, asnumpy(cache.centers), facts


def number(rng: np.random.Generator, xp: Any, *, broken: str = "nothing", **case: Any) -> Trial:
    """Clusters found, against the parts of the stream."""
    _, centres, facts = found(rng, xp, broken=broken, **case)
    return Trial(len(centres), facts["parts"], facts=facts)


def radius(
    rng: np.random.Generator, xp: Any, *, n: int, knobs: dict[str, Any], rows: int = 64, broken: str = "nothing"
) -> Trial:
    """Largest distance of a key to the centre that it joined, against delta."""
    x = stream(rng, n, D, **knobs)
    k = to_device(x.k, xp)
    clusters = CLUSTERS[broken](DELTA, k[:0])
    labels = np.concatenate([clusters.absorb(xp, k[chunk]) for chunk in chunks(n, rows)])
    distance = np.linalg.norm(x.k - asnumpy(clusters.centers.rows)[labels], axis=1)
    return Trial(float(distance.max()), DELTA, facts={"n": n, "m": len(clusters.centers)})


def packing(rng: np.random.Generator, xp: Any, *, broken: str = "nothing", **case: Any) -> Trial:
    """delta over the least distance of two centres."""
    _, centres, facts = found(rng, xp, broken=broken, **case)
    distance, _ = members(centres, centres)
    least = distance[~np.eye(len(centres), dtype=bool)].min()
    return Trial(float(DELTA / least), 1.0, facts=facts)


def chunked(
    rng: np.random.Generator, xp: Any, *, n: int, rows: int, knobs: dict[str, Any], recent: int, broken: str = "nothing"
) -> Trial:
    """Numbers of the saved state that differ between chunks of `rows` and single rows; clusters also by `plain`."""
    x = stream(rng, n, D, **knobs)
    seed = int(rng.integers(2**31))
    one, many = (
        fed(Cache(DELTA, 3, 8, recent=recent, broken=how, rng=seed), xp, x.k, x.v, chunks(n, size))
        for how, size in (("nothing", 1), (broken, rows))
    )
    mine, its = one.contents(), many.contents()
    differ = sum(
        int((asnumpy(mine[name]) != asnumpy(its[name])).sum())
        if mine[name].shape == its[name].shape
        else mine[name].size
        for name in mine
    )
    centres, counts = plain(x.k[: n - recent])
    wrong = len(centres) != len(one.counts) or (centres != asnumpy(one.centers)).any() or (counts != one.counts).any()
    return Trial(float(differ + wrong), 0.0, facts={"n": n, "m": len(centres)})


def plain(k: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Algorithm 1's clusters, key by key: centres and counts."""
    centres, counts = [k[0]], [1]
    for x in k[1:]:
        distance = ((np.array(centres) - x) ** 2).sum(axis=1)
        if distance.min() <= DELTA**2:
            counts[distance.argmin()] += 1
        else:
            centres.append(x)
            counts.append(1)
    return np.array(centres), np.array(counts)


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
    """Largest of four ratios that merging promises to keep at 1 or below.

    Clusters over parts (or over `most`), delta over the least distance of two centres, largest distance of a sample (16
    of each cluster) to the centre of its cluster over `radius`, and keys counted over keys there are, or its inverse.
    """
    x = stream(rng, n, D, **knobs)
    ends = [i * n // caches for i in range(caches + 1)]
    parts = [slice(a, b) for a, b in zip(ends[:-1], ends[1:], strict=True)]
    made = [Cache(DELTA, 16, 4, max_clusters=most, broken=broken, rng=rng) for _ in parts]
    for cache, part in zip(made, parts, strict=True):
        fed(cache, xp, x.k, x.v, iter([part]))
    whole = made[0]
    for cache in made[1:]:
        whole.merge(cache)
    centres = asnumpy(whole.centers)
    distance, _ = members(asnumpy(whole.head.sampled.rows).reshape(-1, D), centres)
    own = np.repeat(np.arange(len(centres)), 16)
    between = members(centres, centres)[0] + np.where(np.eye(len(centres)), np.inf, 0)
    total = float(whole.counts.sum())
    wanted = round(x.params["clusters"] * n ** x.params["exponent"])
    ratios = [
        len(centres) / (wanted if most is None else most),
        whole.head.clusters.delta / between.min(),
        distance[np.arange(len(own)), own].max() / (whole.head.clusters.delta if forget_radius else whole.radius),
        max(total / n, n / total),
    ]
    facts = {"n": n, "m": len(centres), "parts": wanted, "radius": whole.radius}
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

PARTS, RADIUS = sp.Symbol(r"m_{\delta}"), sp.Symbol("radius")
K, X, Y = (sp.Symbol(name) for name in ("k_i", "x", "y"))
DISTANCE: Callable[..., Any] = sp.Function("dist")
CLUSTERABLE = Assumption("clusterable", sp.Le(sp.Symbol("diameter"), symbols.delta))
DRIFT = Sabotage("centre drift", "centres move to the mean of their cluster", {"broken": "drifting centres"})
ALL = (*STREAMS, *WIDE, DRIFTING)
CROWDED = Sabotage(
    "half of delta", "a key opens a cluster from a distance of delta/2 on", {"broken": "crowded clusters"}
)

CLAIMS = (
    Claim(
        id="sg24.clusters",
        paper="SG24",
        source="Algorithm 1 with the definition of (m, delta)-clusterability",
        title="There are at most m clusters if the keys are (m, delta)-clusterable, in any order of the tokens",
        statement=sp.Le(symbols.m, PARTS),
        kind=Exact("<=", rtol=0.0),
        trial=number,
        cases={"smoke": STREAMS},
        max_trials={"smoke": 10, "standard": 100},
        assumptions=(CLUSTERABLE,),
        drops=(Drop("clusterable", WIDE),),
        sabotages=(CROWDED,),
        remark="Parts are farther apart than delta, so m clusters are also needed: the bound is met with equality.",
    ),
    Claim(
        id="sg24.packing",
        paper="SG24",
        source="Algorithm 1",
        title="Centres are pairwise farther than delta",
        statement=sp.Le(symbols.delta, DISTANCE(X, Y)),
        kind=Exact("<=", rtol=0.0),
        trial=packing,
        cases={"smoke": ALL},
        max_trials={"smoke": 10, "standard": 100},
        sabotages=(CROWDED, DRIFT),
    ),
    Claim(
        id="sg24.radius",
        paper="SG24",
        source="Algorithm 1",
        title="Every key is within delta of a centre, so of any other member of its cluster within 2 delta",
        statement=sp.Le(DISTANCE(K, X), symbols.delta),
        kind=Exact("<=", rtol=0.0),
        trial=radius,
        cases={"smoke": ALL},
        max_trials={"smoke": 10, "standard": 100},
        sabotages=(DRIFT,),
        remark="The centre must stay where it is: one that moves to the mean of its cluster leaves members behind.",
    ),
    Claim(
        id="sg24.chunks",
        paper="SG24",
        source="Algorithm 1, with the chunked rule derived here",
        title="Absorbing chunks gives the state of the row by row rule, to the bit",
        statement=sp.Eq(sp.Symbol(r"\mathrm{state}_{c}"), sp.Symbol(r"\mathrm{state}_{1}")),
        kind=Exact("==", rtol=0.0),
        trial=chunked,
        cases={
            "smoke": tuple(
                {"n": 160, "rows": rows, "recent": recent, "knobs": case["knobs"]}
                for rows, recent, case in ((160, 0, WIDE[0]), (7, 0, WIDE[0]), (64, 20, WIDE[1]), (64, 0, STREAMS[0]))
            )
        },
        max_trials={"smoke": 10, "standard": 100},
        sabotages=(
            Sabotage(
                "old centres only",
                "a key near an old centre does not look at those that its own chunk made",
                {"broken": "blind clusters"},
            ),
        ),
        remark=(
            "Centres, counts, samples, slots, and what will replace them; centres and counts also against a plain loop "
            "over the keys."
        ),
    ),
    Claim(
        id="sg24.merge",
        paper="SG24",
        source="derived here from Algorithm 1",
        title="Merging keeps the clusters' number, separation, radius and counts",
        statement=sp.And(
            sp.Le(symbols.m, PARTS), sp.Le(symbols.delta, DISTANCE(X, Y)), sp.Le(DISTANCE(K, X), RADIUS), evaluate=False
        ),
        kind=Exact("<=", rtol=0.0),
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
        max_trials={"smoke": 10, "standard": 100},
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
