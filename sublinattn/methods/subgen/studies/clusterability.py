"""Do keys cluster, and values? Cost of greedy k-center, clusters over delta and over n, delta r, delta found online.

[SG24] needs keys that can be cut into few parts of small diameter: memory grows with their number m, and the samples
that each part needs with `e^(2 delta r)`, r the largest norm of a query times the scale. Both are measured here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from ....core.backends import Array, asnumpy, to_device
from ....lab.run import Run
from ....lab.statistics import growth_exponents
from ....lab.workloads import real
from ....lab.workloads.inputs import GAUSSIAN, REAL, Input
from ....primitives.clustering import OnlineClusters, nearest
from ....primitives.kcenter import diameters, greedy_k_center, greedy_radii, largest_distance
from ..subgen import SubGenCache

D = 32
"""Head width of the real input, and of the synthetic ones beside it."""
PART = 8
"""Inputs are compared at m = n/8 clusters."""
FIXED = Input("32 parts", "clusterable", {"clusters": 32})
SQRT = Input("√n parts", "clusterable", {"clusters": 1.0, "exponent": 0.5})
LINEAR = Input("n parts", "clusterable", {"clusters": 1.0, "exponent": 1.0, "separation": 2.01, "norm": 24.0})
DRIFTING = Input("32 drifting parts", "drifting", {"clusters": 32})
SYNTHETIC = (FIXED, SQRT, LINEAR, DRIFTING, GAUSSIAN)
CAPTURED, WITHOUT, NULL = "as captured", "without [CLS], [SEP]", "Gaussian, same covariance"
CLOSEST, WIDEST = 0.03, 0.8  # delta over the largest distance
Points = Iterable[tuple[str, str, int, str, Array]]
"""Input, source, replicate (or head), what, and points (n, d)."""
Pairs = Mapping[str, tuple[tuple[str, str], tuple[str, str]]]  # (what, variant) over (what, variant)
PAIRS: Pairs = {
    "keys / values": (("keys", CAPTURED), ("values", CAPTURED)),
    f"keys / values, {WITHOUT}": (("keys", WITHOUT), ("values", WITHOUT)),
    "keys / their Gaussian twin": (("keys", CAPTURED), ("keys", NULL)),
    "values / their Gaussian twin": (("values", CAPTURED), ("values", NULL)),
}
PROMISE = 8.0
"""Doubling delta finds clusters of at most so many times the least possible radius [CCFM97]."""


def stacks(xp: Any) -> dict[str, Array]:
    """Queries, keys and values of all real heads, each (layers * heads, n, d) in float32 on the device."""
    every = real()
    named = {"queries": every.q, "keys": every.k, "values": every.v}
    return {
        name: to_device(np.ascontiguousarray(a, np.float32).reshape(-1, *a.shape[-2:]), xp) for name, a in named.items()
    }


def clustered(xp: Any, x: Array, delta: float) -> tuple[int, float]:
    """Clusters that SubGen makes of the points in this order, and the largest diameter of one (nan: all single)."""
    clusters = OnlineClusters(delta, x[:0])
    labels = clusters.absorb(xp, x)
    several = np.flatnonzero(np.bincount(labels)[labels] > 1)
    if not several.size:
        return len(clusters.centers), np.nan
    _, own = np.unique(labels[several], return_inverse=True)
    return len(clusters.centers), float(diameters(xp, x[to_device(several, xp)], own).max())


def longest_query(x: Array, scale: float) -> float:
    """The theorem's r: the largest norm of a query (..., n, d), times the scale of the logits."""
    return scale * float(np.linalg.norm(asnumpy(x), axis=-1).max())


def _heads(run: Run) -> slice:
    return run.pick(smoke=slice(None, None, 3), standard=slice(None), full=slice(None))


def _points(run: Run, label: str) -> Iterator[tuple[str, str, int, str, Array]]:
    """Keys of every input, and the values of the real heads (of every third one at smoke)."""
    n = run.pick(smoke=512, standard=4096, full=16384)
    for what in SYNTHETIC:
        for replicate in range(run.pick(smoke=3, standard=10, full=10)):
            keys = what.draw(n, D, run.rng(label, what.label, replicate), run.xp).k
            yield what.label, what.source, replicate, "keys", keys
    for name, stack in stacks(run.xp).items():
        if name != "queries":
            for head in range(len(stack))[_heads(run)]:
                yield REAL.label, REAL.source, head, name, stack[head]


def cost_curves(run: Run) -> pd.DataFrame:
    """`costs` of every input; real heads also without their first and last token."""
    return costs(run, run.xp, _points(run, "cost"), without=(WITHOUT, slice(1, -1)))


def costs(run: Run, xp: Any, given: Points, *, without: tuple[str, slice]) -> pd.DataFrame:
    """Cost of greedy k-center: the covering radius over the largest distance of two points, for 1 to n/4 centres.

    Real points also without some of them (the variant's name, and which are left), and beside Gaussian points of the
    same mean and covariance, in units of the real ones' largest distance: a cost below theirs is clusters, not merely
    few directions.

    Returns
    -------
    DataFrame
        input, source, n, replicate (or head), what ("keys", "values"), variant, m, share (m / n), radius, mean
        (distance to the nearest centre, at m = n/8; else nan).
    """
    rows = []
    for label, source, replicate, name, points in given:
        largest = largest_distance(xp, points)
        variants = {CAPTURED: (points, largest)}
        if source == "real":
            host, rng = asnumpy(points).astype(np.float64), run.rng("null", name, replicate)
            drawn = rng.multivariate_normal(host.mean(axis=0), np.cov(host.T), size=len(host), method="eigh")
            fewer = points[without[1]]
            variants[without[0]] = fewer, largest_distance(xp, fewer)
            variants[NULL] = to_device(drawn.astype(np.float32), xp), largest
        n = len(points)
        ms = sorted({n // PART, *np.geomspace(1, n // 4, 20).round().astype(int).tolist()})
        for variant, (x, unit) in variants.items():
            centres, radii = greedy_k_center(xp, x, n // 4)
            _, squares = nearest(xp, x, x[to_device(centres[: n // PART], xp)])
            radii, mean = np.pad(radii, (0, n // 4 - len(radii))) / unit, float(np.sqrt(squares).mean()) / unit
            for m in ms:
                own = (m, m / n, radii[m - 1], mean if m == n // PART else np.nan)
                rows.append((label, source, n, replicate, name, variant, *own))
    columns = ["input", "source", "n", "replicate", "what", "variant", "m", "share", "radius", "mean"]
    return pd.DataFrame(rows, columns=columns)


def ratios(rows: pd.DataFrame, pairs: Pairs) -> pd.DataFrame:
    """At m = n/8, how many times as much one set of points costs as another, head by head: columns (pair, "radius": the
    cost of k-center, or "mean": distance to the nearest centre)."""
    here = rows[(rows["source"] == "real") & (rows["m"] == rows["n"] // PART)]
    found: dict[tuple[str, str], pd.Series] = {}
    for measure in ("radius", "mean"):
        cost = here.pivot(index="replicate", columns=["what", "variant"], values=measure)
        found |= {(name, measure): cost[one] / cost[other] for name, (one, other) in pairs.items()}
    return pd.DataFrame(found)


def keys_over_values(rows: pd.DataFrame) -> pd.DataFrame:
    """The `ratios` of keys over values, and of both over their Gaussian twins: median, 10 % and 90 % over heads, share
    of the heads below 1."""
    found = ratios(rows, PAIRS)
    table = found.quantile([0.5, 0.1, 0.9]).T
    table.columns = pd.Index(["median", "10 %", "90 %"])
    return table.assign(**{"share below 1": (found < 1).mean()})


def over_delta(run: Run) -> pd.DataFrame:
    """`counts` of every input."""
    return counts(run.xp, _points(run, "delta"), run.pick(smoke=6, standard=12, full=12))


def counts(xp: Any, given: Points, radii: int) -> pd.DataFrame:
    """SubGen's clusters over so many delta: how many, and how wide.

    Returns
    -------
    DataFrame
        input, source, n, replicate (or head), what, delta, relative (delta over the largest distance), clusters, share
        (clusters / n), widest (largest diameter of a cluster, over delta; nan if all clusters are single points).
    """
    rows = []
    for label, source, replicate, name, points in given:
        n, largest = len(points), largest_distance(xp, points)
        for relative in np.geomspace(CLOSEST, WIDEST, radii):
            delta = relative * largest
            count, widest = clustered(xp, points, delta)
            own = (delta, relative, count, count / n, widest / delta)
            rows.append((label, source, n, replicate, name, *own))
    columns = ["input", "source", "n", "replicate", "what", "delta", "relative", "clusters", "share", "widest"]
    return pd.DataFrame(rows, columns=columns)


def head_table(run: Run) -> pd.DataFrame:
    """`needs` of every layer and head of the real input, with the columns layer and head before."""
    xp, every, found = run.xp, real(), stacks(run.xp)
    places = pd.DataFrame(list(np.ndindex(*every.k.shape[:2])), columns=["layer", "head"])
    return places.join(needs(xp, found["queries"], found["keys"], every.scale))


def needs(xp: Any, q: Array, k: Array, scale: float) -> pd.DataFrame:
    """What Theorem 1 asks of heads, q (heads, n_q, d) and k (heads, n, d), at m = n/8 clusters.

    `delta` is the covering radius of m greedy centres. These and the farthest point are m + 1 points at distance delta
    and more: no partition into m parts has smaller diameters, so delta is the least that the theorem can be given.

    Returns
    -------
    DataFrame
        n, m, delta, r (largest query norm times the scale), delta_r, ratio (`delta r / log n`), factor
        (`e^(2 delta r)`, samples per cluster but for `eps^-2 log n` and the constant).
    """
    n, m = k.shape[1], k.shape[1] // PART
    delta = np.array([greedy_radii(xp, k[i], m)[-1] for i in range(len(k))])
    r = np.array([longest_query(q[i], scale) for i in range(len(q))])
    values = {"delta": delta, "r": r, "delta_r": delta * r, "ratio": delta * r / np.log(n)}
    return pd.DataFrame({"n": n, "m": m, **values, "factor": np.exp(2 * delta * r)})


def over_n(run: Run) -> pd.DataFrame:
    """Clusters at a fixed delta, and `delta r / log n` at m = n/8 clusters, over n.

    Synthetic inputs are drawn anew for each n; of real heads it is the first n tokens. The fixed delta is that of the
    stream's parts; where there are none, the greedy radius for n/8 centres at the largest n.

    Returns
    -------
    DataFrame
        input, source, replicate (or head), n, delta, clusters, ratio, parts (that the stream has; nan if unknown).
    """
    xp, every = run.xp, real()
    rows: list[tuple[Any, ...]] = []
    lengths = tuple(128 * 4**i for i in range(run.pick(smoke=3, standard=4, full=5)))

    def measure(q: Array, k: Array, scale: float, delta: float) -> tuple[int, float]:
        clusters = OnlineClusters(delta, k[:0])
        clusters.absorb(xp, k)
        needed = greedy_radii(xp, k, len(k) // PART)[-1]
        return len(clusters.centers), float(needed * longest_query(q, scale) / np.log(len(k)))

    for what in SYNTHETIC:
        for replicate in range(run.pick(smoke=3, standard=10, full=10)):
            delta = None
            for n in reversed(lengths):
                x = what.draw(n, D, run.rng("over n", what.label, replicate, n), xp)
                if delta is None:
                    delta = x.params.get("delta") or greedy_radii(xp, x.k, n // PART)[-1]
                known = what.workload == "clusterable"
                parts = round(x.params["clusters"] * n ** x.params["exponent"]) if known else np.nan
                own = measure(x.q, x.k, x.scale, delta)
                rows.append((what.label, what.source, replicate, n, delta, *own, parts))
    found = stacks(xp)
    longest = found["keys"].shape[1]
    for head in range(len(found["keys"]))[_heads(run)]:
        q, k = found["queries"][head], found["keys"][head]
        delta = greedy_radii(xp, k, longest // PART)[-1]
        for n in (longest // 8, longest // 4, longest // 2, longest):
            own = measure(q[:n], k[:n], every.scale, delta)
            rows.append((REAL.label, REAL.source, head, n, delta, *own, np.nan))
    columns = ["input", "source", "replicate", "n", "delta", "clusters", "ratio", "parts"]
    return pd.DataFrame(rows, columns=columns)


def online(run: Run) -> pd.DataFrame:
    """delta found by doubling, with at most m clusters at any time, against the offline greedy radius for m centres.

    delta starts between 2^-11 and 2^-10 of the largest distance, log-uniform: where it ends is then fair.

    Returns
    -------
    DataFrame
        input, source, n, replicate (or head), m, share (m / n), held (clusters at the end), promised (the cache's
        `radius`, over the greedy radius), reached (largest distance of a key to its nearest centre, over it).
    """
    xp, rows = run.xp, []
    parts = run.pick(smoke=(32, PART), standard=(64, 32, 16, PART, 4), full=(64, 32, 16, PART, 4))
    for label, source, replicate, name, points in _points(run, "online"):
        if name != "keys":
            continue
        n = len(points)
        radii, largest = greedy_radii(xp, points, n // min(parts)), largest_distance(xp, points)
        rng = run.rng("start", label, replicate)
        for part in parts:
            m, start = n // part, largest * 2 ** -rng.uniform(10, 11)
            cache = SubGenCache(start, 1, 1, max_clusters=m, rng=rng).update(points, points[:, :1])
            _, squares = nearest(xp, points, cache.centers)
            own = cache.radius / radii[m - 1], float(np.sqrt(squares.max())) / radii[m - 1]
            rows.append((label, source, n, replicate, m, m / n, len(cache.counts), *own))
    columns = ["input", "source", "n", "replicate", "m", "share", "held", "promised", "reached"]
    return pd.DataFrame(rows, columns=columns)


def findings(curves: pd.DataFrame, heads: pd.DataFrame, grown: pd.DataFrame, found: pd.DataFrame) -> str:
    """What the tables of `cost_curves`, `head_table`, `over_n` and `online` say, as a Markdown list."""
    cost = keys_over_values(curves)
    ratio, inside, twin, other = (cost.loc[name] for name in cost.index.unique(0))
    slopes = {quantity: growth_exponents(grown, quantity).set_index("input") for quantity in ("clusters", "ratio")}
    keys, needed = (slopes[quantity].loc[REAL.label] for quantity in ("clusters", "ratio"))
    lengths = sorted(set(grown.loc[grown["source"] == "real", "n"].astype(int)))
    trend = "falls" if needed["upper"] < 0 else "grows" if needed["lower"] > 0 else "shows no clear trend"
    count = int(curves.loc[curves["source"] == "real", "replicate"].nunique())
    factor, n, m = heads["factor"], int(heads["n"].iloc[0]), int(heads["m"].iloc[0])
    worst, other_worst = (float(found.loc[found["source"] == x, "promised"].max()) for x in ("real", "synthetic"))
    held = (found["held"] / found["m"])[found["source"] == "real"].median()
    both = ratio.loc["radius"]
    more = "keys" if twin.loc["mean", "median"] < other.loc["mean", "median"] else "values"
    return "\n".join(
        (
            f"- **Keys against values.** At m = n/{PART} greedy k-center costs a head's keys {both['median']:.2f} "
            f"times what it costs its values (median of {count} heads; 10 to 90 %: {both['10 %']:.2f} to "
            f"{both['90 %']:.2f}), and less for {both['share below 1']:.0%} of the heads; without the first and "
            f"last token {inside.loc['radius', 'median']:.2f} times. The mean distance to the nearest centre is "
            f"{ratio.loc['mean', 'median']:.2f} times that of the values.",
            "- **Clusters, or few directions?** Beside Gaussian points of the same mean and covariance, keys cost "
            f"{twin.loc['radius', 'median']:.2f} times as much and are {twin.loc['mean', 'median']:.2f} times as far "
            f"from the nearest centre on average; values {other.loc['radius', 'median']:.2f} and "
            f"{other.loc['mean', 'median']:.2f} times. Beside their twins, by the mean distance, the {more} are the "
            "more clustered.",
            f"- **Clusters over n.** At a fixed delta, the clusters of real keys grow like n^{keys['exponent']:.2f} "
            f"from {lengths[0]} to {lengths[-1]} tokens (99 % limits of the mean over heads: "
            f"{keys['lower']:.2f} to {keys['upper']:.2f}; 10 to 90 % of the heads: {keys['10 %']:.2f} to "
            f"{keys['90 %']:.2f}).",
            f"- **delta r against log n.** At m = n/{PART} = {m} clusters `delta r / log n` is "
            f"{heads['ratio'].min():.2f} to {heads['ratio'].max():.2f} (median {heads['ratio'].median():.2f}) over the "
            f"heads, and `e^(2 delta r)` is {factor.min():.0e} to {factor.max():.0e}: more than the {n} tokens there "
            f"are for {(factor > n).sum()} of {len(heads)} heads. Over n the ratio {trend}: exponent "
            f"{needed['exponent']:+.2f} (99 % limits {needed['lower']:+.2f} to {needed['upper']:+.2f}).",
            "- **delta found online.** Doubling ends with a radius of at most "
            f"{worst:.1f} times the greedy one for real keys, {other_worst:.1f} times for synthetic ones "
            f"({PROMISE:g} is promised); no key is farther from its nearest centre than {found['reached'].max():.1f} "
            f"times the greedy radius. The median cache of real keys ends with {held:.0%} of the clusters that it may "
            "hold.",
        )
    )
