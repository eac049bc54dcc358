"""Do keys cluster, and values? Notebook 12; the measures are also those of `model_keys_values`.

[SG24] needs keys that can be cut into few parts of small diameter: memory grows with their number m, and the samples
that each part needs with `e^(2 delta r)`, where r is the largest norm of a query times the scale of the logits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ....core.backends import Array, asnumpy, namespace, row_squares, to_device
from ....lab.run import Run
from ....lab.workloads import real
from ....lab.workloads.inputs import GAUSSIAN, REAL, Input
from ....plots.heads import head_maps
from ....plots.panels import facets, lines, theory_line
from ....plots.style import paper_style, series
from ....primitives.clustering import OnlineClusters, nearest
from ....primitives.kcenter import diameters, each_greedy_k_center, greedy_radii, largest_distance
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
CLOSEST, WIDEST = 0.03, 0.8
"""Smallest and largest delta, as a fraction of the largest distance."""
Points = Iterable[tuple[str, str, Sequence[int], str, Array]]
"""Input, source, replicates (or heads), what, and points (replicates, n, d)."""
Pairs = Mapping[str, tuple[tuple[str, str], tuple[str, str]]]
"""Name of a ratio: (what, variant) of its numerator and of its denominator."""
PAIRS: Pairs = {
    "keys / values": (("keys", CAPTURED), ("values", CAPTURED)),
    f"keys / values, {WITHOUT}": (("keys", WITHOUT), ("values", WITHOUT)),
    "keys / their Gaussian twin": (("keys", CAPTURED), ("keys", NULL)),
    "values / their Gaussian twin": (("values", CAPTURED), ("values", NULL)),
}
PROMISE = 8.0
"""Doubling delta finds clusters whose radius is at most this many times the least possible one [CCFM97]."""
_BEFORE = "keys before the rotation"


def stacks(xp: Any) -> dict[str, Array]:
    """Queries, keys and values of all real heads, each (layers * heads, n, d) in float32 on the device."""
    x = real()
    named = {"queries": x.q, "keys": x.k, "values": x.v}
    return {
        name: to_device(np.ascontiguousarray(a, np.float32).reshape(-1, *a.shape[-2:]), xp) for name, a in named.items()
    }


def clustered(xp: Any, x: Array, delta: float) -> tuple[int, float]:
    """Number of clusters that SubGen makes of the points in this order, and the largest diameter of one.

    The diameter is nan if every cluster is a single point.
    """
    clusters = OnlineClusters(delta, x[:0])
    labels = clusters.absorb(xp, x)
    several = np.flatnonzero(np.bincount(labels)[labels] > 1)
    if not several.size:
        return len(clusters.centers), np.nan
    _, own = np.unique(labels[several], return_inverse=True)
    return len(clusters.centers), float(diameters(xp, x[to_device(several, xp)], own).max())


def longest_queries(xp: Any, q: Array, scale: float) -> np.ndarray:
    """The theorem's r of heads q (heads, n, d): the largest norm of a query, times the scale of the logits."""
    return scale * np.sqrt(asnumpy(row_squares(xp, q).max(axis=1)).astype(np.float64))


def heads_measured(run: Run) -> slice:
    """Which real heads are measured: every third one at smoke effort."""
    return run.pick(smoke=slice(None, None, 3), standard=slice(None), full=slice(None))


def _points(run: Run, label: str) -> Iterator[tuple[str, str, Sequence[int], str, Array]]:
    """Keys of every synthetic input (n, d and replicates of the run's); keys and values of the real heads."""
    n, d = run.given("n", run.pick(smoke=512, standard=4096, full=16384)), run.given("d", D)
    replicates = range(run.given("replicates", run.pick(smoke=3, standard=10, full=10)))
    for what in SYNTHETIC:
        keys = [what.draw(n, d, run.rng(label, what.label, replicate), run.xp).k for replicate in replicates]
        yield what.label, what.source, replicates, "keys", run.xp.stack(keys)
    for name, stack in stacks(run.xp).items():
        if name != "queries":
            chosen = heads_measured(run)
            yield REAL.label, REAL.source, range(len(stack))[chosen], name, stack[chosen]


def _one_by_one(points: Points) -> Iterator[tuple[str, str, int, str, Array]]:
    """The same with one replicate at a time, and its points (n, d)."""
    for label, source, replicates, name, sets in points:
        for number, replicate in enumerate(replicates):
            yield label, source, replicate, name, sets[number]


# ---------------------------------------------------------------------------------------------- cost of greedy k-center
def cost_curves(run: Run) -> pd.DataFrame:
    """`costs` of every input; of the real heads also without their first and last token."""
    return costs(run, run.xp, _points(run, "cost"), without=(WITHOUT, slice(1, -1)))


def costs(run: Run, xp: Any, points: Points, *, without: tuple[str, slice]) -> pd.DataFrame:
    """Cost of greedy k-center for 1 to n/4 centers: the covering radius over the largest distance of two points.

    Real points have two more variants: without some of them (`without`: the variant's name, and which points are left),
    and a twin of Gaussian points with the same mean and covariance, in units of the real points' largest distance. A
    cost below the twin's means clusters, and not merely few directions.

    Returns
    -------
    DataFrame
        input, source, n, replicate (or head), what ("keys", "values"), variant, m, share (m / n), radius, mean
        (distance to the nearest center, at m = n/8; else nan).
    """
    rows = []
    for label, source, replicates, name, x in points:
        (count, n, _), units = x.shape, [largest_distance(xp, x[i]) for i in range(len(x))]
        variants = {CAPTURED: (x, units)}
        if source == "real":
            twins = [_twin(run.rng("null", name, replicates[i]), x[i]) for i in range(count)]
            fewer = xp.ascontiguousarray(x[:, without[1]])
            variants[without[0]] = fewer, [largest_distance(xp, fewer[i]) for i in range(count)]
            variants[NULL] = to_device(np.stack(twins), xp), units
        ms = sorted({n // PART, *np.geomspace(1, n // 4, 20).round().astype(int).tolist()})
        for variant, (sets, lengths) in variants.items():
            for i, (centers, radii) in enumerate(each_greedy_k_center(xp, sets, n // 4)):
                _, squares = nearest(xp, sets[i], sets[i][to_device(centers[: n // PART], xp)])
                costs = np.pad(radii, (0, n // 4 - len(radii))) / lengths[i]
                mean = float(np.sqrt(squares).mean()) / lengths[i]
                for m in ms:
                    own = (m, m / n, costs[m - 1], mean if m == n // PART else np.nan)
                    rows.append((label, source, n, replicates[i], name, variant, *own))
    columns = ["input", "source", "n", "replicate", "what", "variant", "m", "share", "radius", "mean"]
    return pd.DataFrame(rows, columns=columns)


def _twin(rng: np.random.Generator, x: Array) -> np.ndarray:
    """Gaussian points with the mean and the covariance of x (n, d)."""
    host = asnumpy(x).astype(np.float64)
    return rng.multivariate_normal(host.mean(axis=0), np.cov(host.T), len(host), method="eigh").astype(np.float32)


def ratios(rows: pd.DataFrame, pairs: Pairs) -> pd.DataFrame:
    """At m = n/8, head by head: the cost of one set of points over that of another.

    The columns are (pair, measure): "radius" is the cost of k-center, "mean" the distance to the nearest center.
    """
    here = rows[(rows["source"] == "real") & (rows["m"] == rows["n"] // PART)]
    table: dict[tuple[str, str], pd.Series] = {}
    for measure in ("radius", "mean"):
        cost = here.pivot(index="replicate", columns=["what", "variant"], values=measure)
        table |= {(name, measure): cost[one] / cost[other] for name, (one, other) in pairs.items()}
    return pd.DataFrame(table)


def keys_over_values(rows: pd.DataFrame) -> pd.DataFrame:
    """The `ratios` of PAIRS: median, 10 % and 90 % over the heads, and the share of the heads below 1."""
    table = ratios(rows, PAIRS)
    quantiles = table.quantile([0.5, 0.1, 0.9]).T
    quantiles.columns = pd.Index(["median", "10 %", "90 %"])
    return quantiles.assign(**{"share below 1": (table < 1).mean()})


# ----------------------------------------------------------------------------------------------- clusters over delta, n
def over_delta(run: Run) -> pd.DataFrame:
    """`counts` of every input."""
    return counts(run, _points(run, "delta"), run.given("radii", run.pick(smoke=6, standard=12, full=12)))


def counts(run: Run, points: Points, radii: int) -> pd.DataFrame:
    """SubGen's clusters for `radii` values of delta: how many there are, and how wide.

    Returns
    -------
    DataFrame
        input, source, n, replicate (or head), what, delta, relative (delta over the largest distance), clusters, share
        (clusters / n), widest (largest diameter of a cluster, over delta; nan if all clusters are single points).
    """
    columns = ["input", "source", "n", "replicate", "what", "delta", "relative", "clusters", "share", "widest"]
    return run.table(_counted, [(*one, radii) for one in _one_by_one(points)], columns)


def _counted(run: Run, label: str, source: str, replicate: int, name: str, x: Array, radii: int) -> list[Any]:
    """The rows of `counts` of one set of points."""
    n, rows, largest = len(x), [], largest_distance(namespace(x), x)
    for relative in np.geomspace(CLOSEST, WIDEST, radii):
        delta = relative * largest
        count, widest = clustered(namespace(x), x, delta)
        rows.append((label, source, n, replicate, name, delta, relative, count, count / n, widest / delta))
    return rows


def head_table(run: Run) -> pd.DataFrame:
    """`needs` of every layer and head of the real input, with the columns layer and head before."""
    xp, x, points = run.xp, real(), stacks(run.xp)
    places = pd.DataFrame(list(np.ndindex(*x.k.shape[:2])), columns=["layer", "head"])
    return places.join(needs(xp, points["queries"], points["keys"], x.scale))


def needs(xp: Any, q: Array, k: Array, scale: float, m: int | None = None) -> pd.DataFrame:
    """What Theorem 1 needs of heads, q (heads, n_q, d) and k (heads, n, d), at m clusters: n/8 by default.

    `delta` is the covering radius of m greedy centers. The centers and the point farthest from them are m + 1 points,
    any two of them at least delta apart; every partition into m parts puts two of them into one part. So no partition
    has smaller diameters, and delta is the least for which the theorem's assumption can hold.

    Returns
    -------
    DataFrame
        n, m, delta, r (largest query norm times the scale), delta_r, ratio (`delta r / log n`), factor
        (`e^(2 delta r)`, samples per cluster but for `eps^-2 log n` and the constant).
    """
    n = k.shape[1]
    m = m or n // PART
    delta = np.array([np.pad(radii, (0, m - len(radii)))[-1] for _, radii in each_greedy_k_center(xp, k, m)])
    r = longest_queries(xp, q, scale)
    values = {"delta": delta, "r": r, "delta_r": delta * r, "ratio": delta * r / np.log(n)}
    return pd.DataFrame({"n": n, "m": m, **values, "factor": np.exp(2 * delta * r)})


def grown(xp: Any, q: Array, k: Array, scale: float, delta: float) -> tuple[int, float]:
    """SubGen's clusters of one head's keys at `delta`, and `delta r / log n` at m = n/8 clusters, where delta is
    theirs."""
    clusters = OnlineClusters(delta, k[:0])
    clusters.absorb(xp, k)
    needed = greedy_radii(xp, k, len(k) // PART)[-1]
    return len(clusters.centers), float(needed * longest_queries(xp, q[None], scale)[0] / np.log(len(k)))


def over_n(run: Run) -> pd.DataFrame:
    """Clusters at a fixed delta, and `delta r / log n` at m = n/8 clusters, over n.

    Synthetic inputs are drawn anew for each n; of real heads it is the first n tokens. The fixed delta is that of the
    stream's parts; where there are none, the greedy radius for n/8 centers at the largest n.

    Parameters of the run: lengths (n), d, replicates.

    Returns
    -------
    DataFrame
        input, source, replicate (or head), n, delta, clusters, ratio, parts (that the stream has; nan if unknown).
    """
    xp, x_real = run.xp, real()
    rows: list[tuple[Any, ...]] = []
    lengths = run.given("lengths", tuple(128 * 4**i for i in range(run.pick(smoke=3, standard=4, full=5))))

    for what in SYNTHETIC:
        for replicate in range(run.given("replicates", run.pick(smoke=3, standard=10, full=10))):
            delta = None
            for n in sorted(lengths, reverse=True):
                x = what.draw(n, run.given("d", D), run.rng("over n", what.label, replicate, n), xp)
                if delta is None:
                    delta = x.params.get("delta") or greedy_radii(xp, x.k, n // PART)[-1]
                known = what.workload == "clusterable"
                parts = round(x.params["clusters"] * n ** x.params["exponent"]) if known else np.nan
                own = grown(xp, x.q, x.k, x.scale, delta)
                rows.append((what.label, what.source, replicate, n, delta, *own, parts))
    points = stacks(xp)
    longest = points["keys"].shape[1]
    for head in range(len(points["keys"]))[heads_measured(run)]:
        q, k = points["queries"][head], points["keys"][head]
        delta = greedy_radii(xp, k, longest // PART)[-1]
        for n in (longest // 8, longest // 4, longest // 2, longest):
            own = grown(xp, q[:n], k[:n], x_real.scale, delta)
            rows.append((REAL.label, REAL.source, head, n, delta, *own, np.nan))
    columns = ["input", "source", "replicate", "n", "delta", "clusters", "ratio", "parts"]
    return pd.DataFrame(rows, columns=columns)


def online(run: Run) -> pd.DataFrame:
    """Radius of at most m clusters, found online by doubling delta, over that of m offline greedy centers.

    delta starts between 2^-11 and 2^-10 of the largest distance, log-uniform, so that no input profits from where the
    powers of two lie.

    Returns
    -------
    DataFrame
        input, source, n, replicate (or head), m, share (m / n), held (clusters at the end), promised (the cache's
        `radius`, over the greedy radius), reached (largest distance of a key to its nearest center, over it).
    """
    parts = run.given("parts", run.pick(smoke=(32, PART), standard=(64, 32, 16, PART, 4), full=(64, 32, 16, PART, 4)))
    cells = [(*one, parts) for one in _one_by_one(_points(run, "online")) if one[3] == "keys"]
    columns = ["input", "source", "n", "replicate", "m", "share", "held", "promised", "reached"]
    return run.table(_doubled, cells, columns)


def _doubled(run: Run, label: str, source: str, replicate: int, _: str, x: Array, parts: Sequence[int]) -> list[Any]:
    """The rows of `online` of one set of keys."""
    xp, n, rows = run.xp, len(x), []
    radii, largest = greedy_radii(xp, x, n // min(parts)), largest_distance(xp, x)
    rng = run.rng("start", label, replicate)
    for part in parts:
        m, start = n // part, largest * 2 ** -rng.uniform(10, 11)
        cache = SubGenCache(start, 1, 1, max_clusters=m, rng=rng).update(x, x[:, :1])
        squares = nearest(xp, x, cache.centers)[1]
        own = cache.radius / radii[m - 1], float(np.sqrt(squares.max())) / radii[m - 1]
        rows.append((label, source, n, replicate, m, m / n, len(cache.counts), *own))
    return rows


# -------------------------------------------------------------------------------------------------------------- figures
_TWO: Mapping[str, Any] = {"hue": "line", "columns": 2, "logx": True, "height": 2.4}
"""What the figures with two panels share."""


def _named(rows: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, dict[str, Any]]]:
    """The rows with the line and the panel that each belongs to, and the looks of the lines: alike in all figures."""
    real_rows = rows["source"] == "real"
    what = rows["what"] if "what" in rows else pd.Series("keys", rows.index)
    rows = rows.assign(
        line=what.where(real_rows, "keys, " + rows["input"]), panel=rows["input"].where(real_rows, "synthetic")
    ).sort_values("source", kind="stable")  # real heads at the left
    looks = series("keys", "values", _BEFORE, *(x for x in rows["line"].unique() if x.startswith("keys, ")))
    for name in ("keys", "values"):
        looks[name] |= {"label": f"{name}, real heads", "linewidth": 1.8}
    return rows, looks


@paper_style()
def draw_costs(rows: pd.DataFrame) -> Figure:
    """The costs over m/n: left keys and values of the real heads, with their Gaussian twins; right synthetic keys."""
    rows, looks = _named(rows)
    twins = rows[rows["variant"] == NULL]

    def beside(ax: Axes, panel: pd.DataFrame) -> None:
        for name, part in twins[twins["panel"] == panel["panel"].iloc[0]].groupby("line", sort=False):
            dotted = {**looks[str(name)], "linestyle": ":", "linewidth": 1.2, "marker": "", "label": NULL}
            lines(ax, part, "share", "radius", dotted, interval=0)
        ax.axvline(1 / PART, color="black", linewidth=0.6, linestyle="-.", label=f"$m = n/{PART}$")

    captured = rows[rows["variant"] == CAPTURED]
    looks = {name: {**look, "markevery": 2} for name, look in looks.items()}
    labels: dict[str, Any] = {"xlabel": "centers per point $m/n$", "ylabel": "covering radius / largest distance"}
    return facets(captured, x="share", y="radius", facet="panel", looks=looks, **_TWO, **labels, each=beside)


@paper_style()
def draw_over_delta(rows: pd.DataFrame) -> Figure:
    """Clusters per point (top) and their largest diameter (bottom) over delta, and the bound 2 delta."""
    rows, looks = _named(rows)
    names = {"share": "clusters per point $m/n$", "widest": r"widest cluster / $\delta$"}
    long = rows.melt(["panel", "source", "line", "relative"], list(names), "quantity", "value").dropna()

    def scaled(ax: Axes, panel: pd.DataFrame) -> None:
        if panel["quantity"].iloc[0] == "share":
            ax.set_yscale("log")
        else:
            theory_line(ax, panel["relative"].unique(), 2, r"bound: $2\delta$")
            ax.set_ylim(0, 2.2)

    options: dict[str, Any] = {**_TWO, "facet": "panel", "row": "quantity", "height": 1.9}
    labels: dict[str, Any] = {"xlabel": r"$\delta$ / largest distance", "ylabel": names}
    return facets(long, x="relative", y="value", looks=looks, **options, **labels, each=scaled)


@paper_style()
def draw_over_n(rows: pd.DataFrame) -> Figure:
    """Left: clusters at a fixed delta, and the parts that the streams have; right: `delta r / log n` at m = n/8."""
    known = rows.dropna(subset="parts").groupby(["input", "n"])["parts"].first()
    rows, looks = _named(rows)
    names = {"clusters": r"clusters at a fixed $\delta$", "ratio": rf"$\delta r\,/\,\log n$ at $m = n/{PART}$"}
    long = rows.melt(["source", "line", "n"], list(names), "quantity", "value")

    def parts(ax: Axes, panel: pd.DataFrame) -> None:
        if panel["quantity"].iloc[0] == "clusters":
            for _, line in known.groupby("input"):
                theory_line(ax, line.index.get_level_values("n"), line, "parts that the stream has")
            start = panel.loc[panel["n"] == panel["n"].min(), "value"].median()
            ends = np.array([panel["n"].min(), panel["n"].max()])
            theory_line(ax, ends, start * ends / ends[0], "$n^1$", linestyle=":")

    labels: dict[str, Any] = {"xlabel": "tokens $n$", "ylabel": names}
    return facets(long, x="n", y="value", facet="quantity", looks=looks, **_TWO, **labels, logy=True, each=parts)


@paper_style()
def draw_heads(heads: pd.DataFrame) -> Figure:
    """Maps of what `needs` gives, layer by layer and head by head."""
    maps = {
        "delta": rf"$\delta$, covering radius at $m = n/{PART}$",
        "r": "$r$, longest query times scale",
        "ratio": r"$\delta r\,/\,\log n$",
        "factor": r"$e^{2\delta r}$",
    }
    bars = {"delta": r"$\delta$", "r": "$r$", "ratio": r"$\delta r / \log n$", "factor": "factor"}
    return head_maps(heads, maps, groups={label: (name,) for name, label in bars.items()})


@paper_style()
def draw_online(rows: pd.DataFrame) -> Figure:
    """Radii of `online` over the greedy one: left what the cache promises, right what it reaches."""
    rows, looks = _named(rows)
    names = {"promised": "promised (the cache's radius)", "reached": "reached"}
    long = rows.rename(columns=names).melt(["line", "share"], list(names.values()), "quantity", "value")

    def bounds(ax: Axes, _: pd.DataFrame) -> None:
        theory_line(ax, long["share"].unique(), PROMISE, f"at most {PROMISE:g} times the least possible radius")
        theory_line(ax, long["share"].unique(), 1, "greedy, offline", linestyle=":")

    options: dict[str, Any] = {**_TWO, "facet": "quantity", "bars": True, "logy": True, "ylim": (0.45, 10)}
    xlabel, ylabel = "clusters allowed per token $m/n$", "radius / radius of greedy k-center"
    return facets(long, x="share", y="value", looks=looks, each=bounds, xlabel=xlabel, ylabel=ylabel, **options)
