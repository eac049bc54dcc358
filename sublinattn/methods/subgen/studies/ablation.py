"""SubGen with each of its parts replaced: other samples of the keys than its clusters, other slots. Notebook 16.

Also how its error depends on s, t, delta and the recent window. Numerator and normaliser are estimated from rows with
weights, `sum_j w_j exp(scale <q, k_j>) (v_j, 1)`: the same sum for every way of choosing rows. SubGen's own rows are
read from a SubGenCache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ....core.backends import asnumpy, namespace, to_device
from ....core.exact import partial_attention
from ....lab.comparison.error_over_bytes import BY_CLUSTER, CLUSTERS_MEAN, NEEDLES, STREAMS
from ....lab.comparison.registry import (
    CHUNK,
    CLUSTER_SAMPLES,
    Stream,
    competing,
    drawn,
    feed,
    filling_delta,
    first_delta,
    subgen_hindsight,
    subgen_within,
)
from ....lab.run import Run
from ....lab.statistics import growth_exponents
from ....lab.workloads.inputs import GAUSSIAN_MEAN, HEAVY_VALUES, REAL, Input, each_draw
from ....plots.layout import ticks
from ....plots.panels import facets, finish, grid, lines, theory_line
from ....plots.style import METHODS, paper_style, series
from ....primitives.clustering import nearest
from ....primitives.kcenter import greedy_k_center
from ..subgen import SubGenCache

DELTA = 1.0
INPUTS = (CLUSTERS_MEAN, NEEDLES, HEAVY_VALUES, GAUSSIAN_MEAN, REAL)
NORMALISERS = ("clusters, delta doubled", "clusters, delta told", "k-center", "uniform", "exact")
NUMERATORS = ("value-norm", "uniform", "exact")
SHARED = "shared with the numerator"
DELTAS = tuple(2.0**i for i in range(-4, 3))
WINDOWS = (0.0, 0.125, 0.25, 0.5, 0.75)
SAMPLES = (1, 2, 4, 8, 16)
SETTINGS_INPUTS = (CLUSTERS_MEAN, BY_CLUSTER, HEAVY_VALUES, REAL)
FEW = Input("8 clusters, values + 2", "clusterable", {"clusters": 8, "delta": DELTA}, value_mean=2.0)


@dataclass(frozen=True)
class Rows:
    """Keys (m, d) on the device of the stream, a weight for each, and values (m, d_v) or none."""

    k: Any
    w: np.ndarray
    v: Any = None

    def sums(self, stream: Stream, columns: Any) -> tuple[np.ndarray, np.ndarray]:
        """`(m, o)` in float64: `exp(m) o` is the weighted sum of `columns` (rows, c) for each held-out query."""
        xp = namespace(self.k)
        weighted = to_device(self.w, xp)[:, None] * columns
        q, k = (a.astype(np.float64) for a in (stream.late, self.k))
        p = partial_attention(q, k, weighted.astype(np.float64), scale=stream.x.scale, check_finite=False)
        return asnumpy(p.m), asnumpy(p.o)


def answer(stream: Stream, numerator: Rows, normaliser: Rows) -> np.ndarray:
    """`z / tau` for the held-out queries."""
    xp = namespace(stream.x.k)
    above, z = numerator.sums(stream, numerator.v)
    below, tau = normaliser.sums(stream, xp.ones((len(normaliser.k), 1)))
    return np.exp(above - below)[:, None] * z / tau


def subgen_rows(cache: SubGenCache, slots: int | None = None, samples: int | None = None) -> tuple[Rows, Rows]:
    """Numerator and normaliser of a cache without a window, or of its first slots and samples alone."""
    head = cache.heads[0]
    v = head.slot_values[:slots]
    squares = (asnumpy(v).astype(np.float64) ** 2).sum(axis=1)
    keys = head.sampled.rows[:, :samples]
    m, t, d = keys.shape
    counts = np.repeat(head.samples.counts / t, t)
    return Rows(head.slot_keys[:slots], head.slots.mu / (len(squares) * squares), v), Rows(
        keys.reshape(m * t, d), counts
    )


def whole(stream: Stream) -> Rows:
    """All tokens: the exact sums."""
    return Rows(stream.x.k, np.ones(len(stream.x.k)), stream.x.v)


def uniform_rows(stream: Stream, size: int, rng: np.random.Generator) -> Rows:
    """`size` tokens, each uniform and independent of the others, as slots are."""
    n = len(stream.x.k)
    at = to_device(rng.integers(n, size=size), namespace(stream.x.k))
    return Rows(stream.x.k[at], np.full(size, n / size), stream.x.v[at])


def center_rows(stream: Stream, size: int) -> Rows:
    """`size` centers of a greedy k-center over the whole stream, weighted by the number of keys nearest to each."""
    k, xp = stream.x.k, namespace(stream.x.k)
    at, _ = greedy_k_center(xp, k, size)
    centers = k[to_device(at, xp)]
    labels, _ = nearest(xp, k, centers)
    return Rows(centers, np.bincount(labels, minlength=len(at)).astype(float))


# --------------------------------------------------------------------------------------------------------- measurements
def parts(run: Run) -> pd.DataFrame:
    """Errors of each normaliser with each numerator, all of the same size: n/8 slots, n/8 keys for the normaliser.

    Parameters of the run: n, d, inputs, replicates.

    Returns
    -------
    DataFrame
        input, source, n, replicate, normaliser, numerator, error (the theorem's norm), relative. The normaliser SHARED:
        one sample for both, of as many bytes in all (3n/16 tokens where d = d_v), whose errors cancel in the ratio.
        "zero" for both: the answer 0.
    """
    n = run.given("n", run.pick(smoke=1024, standard=8192, full=65536))
    replicates, heads = run.pick(smoke=(3, 6), standard=(12, 72), full=(12, 72))
    cells = each_draw(run, n, INPUTS, replicates=replicates, heads=heads, known=STREAMS)
    columns = ["input", "source", "n", "replicate", "normaliser", "numerator", "error", "relative"]
    return run.table(_pairs, cells, columns)


def _pairs(run: Run, n: int, what: Input, replicate: int) -> list[tuple[Any, ...]]:
    """The rows of `parts` of one stream."""
    stream, rng = drawn(what, n, replicate, run)
    x, size = stream.x, len(stream.x.k) // 8
    base = (what.label, what.source, len(x.k), replicate)
    clusters = size // (1 + CLUSTER_SAMPLES)  # a center and its samples are rows
    doubled = SubGenCache(first_delta(x), CLUSTER_SAMPLES, size, max_clusters=clusters, rng=rng)
    filling = SubGenCache(filling_delta(x, clusters), CLUSTER_SAMPLES, 3 * size // 2, rng=rng)
    (slots, samples), (more, fitted) = (subgen_rows(stream.feed(cache, CHUNK)) for cache in (doubled, filling))
    one, other = (uniform_rows(stream, size, rng) for _ in range(2))
    below = (samples, fitted, center_rows(stream, size), one, whole(stream))
    above = (slots, other, whole(stream))
    pairs = {
        (normaliser, numerator): answer(stream, z, tau)
        for normaliser, tau in zip(NORMALISERS, below, strict=True)
        for numerator, z in zip(NUMERATORS, above, strict=True)
    }
    for numerator, both in (("value-norm", more), ("uniform", uniform_rows(stream, len(more.k), rng))):
        pairs[SHARED, numerator] = answer(stream, both, both)
    pairs["zero", "zero"] = np.zeros_like(stream.exact)
    return [(*base, *names, *stream.errors(out)) for names, out in pairs.items()]


def curves(run: Run) -> pd.DataFrame:
    """Error over s at the largest t, and over t at the largest s, where the keys have 8 clusters of a known delta.

    Parameters of the run: n, d, replicates.

    Returns
    -------
    DataFrame
        varies ("s", "t"), n, replicate, x (the s or the t), what ("answer", or the "part" that varies, with the other
        one exact), error (theorem's norm, root mean square over queries), law (root of the part's expected mean square:
        exact for s; for t the bound from `sinh(delta r)^2 / t`).
    """
    n = run.given("n", run.pick(smoke=2048, standard=16384, full=131072))
    replicates = run.given("replicates", run.pick(smoke=6, standard=20, full=20))
    largest = run.pick(smoke=256, standard=1024, full=1024)
    sizes = [2**i for i in range(1, largest.bit_length())]
    columns = ["varies", "n", "replicate", "x", "what", "error", "law"]
    return run.table(_curve, [(n, i, sizes) for i in range(replicates)], columns)


def _curve(run: Run, n: int, replicate: int, sizes: Sequence[int]) -> list[tuple[Any, ...]]:
    """The rows of `curves` of one stream."""
    rows: list[tuple[Any, ...]] = []
    stream, rng = drawn(FEW, n, replicate, run)
    cache = stream.feed(SubGenCache(DELTA, sizes[-1], sizes[-1], rng=rng), CHUNK)
    every, exact = subgen_rows(cache), whole(stream)
    size = np.linalg.norm(stream.exact, axis=1) / stream.unit
    v = asnumpy(stream.x.v).astype(np.float64)
    srank = (np.linalg.norm(v) / np.linalg.norm(v, 2)) ** 2
    r = stream.x.scale * float(np.linalg.norm(asnumpy(stream.late).astype(np.float64), axis=1).max())
    for x in sizes:
        slots, samples = subgen_rows(cache, slots=x)[0], subgen_rows(cache, samples=x)[1]
        laws = {"s": (srank - size**2) / x, "t": size**2 * np.sinh(DELTA * r) ** 2 / x}
        pairs = {"s": (slots, every[1]), "t": (every[0], samples)}
        alone = {"s": (slots, exact), "t": (exact, samples)}
        for varies, law in laws.items():
            for what, pair in (("answer", pairs[varies]), ("part", alone[varies])):
                gap = np.linalg.norm(answer(stream, *pair) - stream.exact, axis=1) / stream.unit
                error, expected = np.sqrt((gap**2).mean()), np.sqrt(law.mean())
                rows.append((varies, n, replicate, x, what, float(error), float(expected)))
    return rows


def settings(run: Run) -> pd.DataFrame:
    """Relative error over delta, over the recent window and over t, the last two at equal bytes.

    Parameters of the run: n, d, inputs, deltas, windows, samples (t), replicates.

    Returns
    -------
    DataFrame
        input, source, n, replicate, varies ("delta", "window", "t"), x (delta over the first key's norm; share of the
        bytes; samples per cluster), relative, clusters (over n), held (bytes over the exact cache's), uniform (relative
        error of uniform sampling in a quarter of the exact cache's bytes, which is the budget of "window" and "t").
    """
    n = run.given("n", run.pick(smoke=1024, standard=4096, full=32768))
    replicates, heads = run.pick(smoke=(2, 3), standard=(8, 36), full=(8, 72))
    cells = each_draw(run, n, SETTINGS_INPUTS, replicates=replicates, heads=heads, known=STREAMS)
    columns = ["input", "source", "n", "replicate", "varies", "x", "relative", "clusters", "held", "uniform"]
    return run.table(_tried, cells, columns)


def _tried(run: Run, n: int, what: Input, replicate: int) -> list[tuple[Any, ...]]:
    """The rows of `settings` of one stream."""
    rows: list[tuple[Any, ...]] = []
    stream, rng = drawn(what, n, replicate, run)
    x, size = stream.x, len(stream.x.k)
    base = (what.label, what.source, size, replicate)
    budget = stream.cache_bytes // 4
    tried: list[tuple[str, float, SubGenCache]] = [
        ("delta", f, SubGenCache(64 * f * first_delta(x), CLUSTER_SAMPLES, size // 8, rng=rng))
        for f in run.given("deltas", DELTAS)
    ]
    windows = run.given("windows", WINDOWS)
    tried += [("window", share, subgen_within(budget, x, rng, window=share)) for share in windows]
    tried += [("t", t, subgen_hindsight(budget, x, rng, samples=t)) for t in run.given("samples", SAMPLES)]
    uniform = competing(budget, x, rng, hindsight=True)["uniform"]
    _, yardstick = stream.errors(feed("uniform", uniform, stream, budget).attend(stream.late, scale=x.scale))
    for varies, value, cache in tried:
        stream.feed(cache, CHUNK)
        _, relative = stream.errors(cache.attend(stream.late, scale=x.scale))
        held = cache.nbytes / stream.cache_bytes
        rows.append((*base, varies, value, relative, len(cache.counts) / size, held, yardstick))
    return rows


def slopes(rows: pd.DataFrame) -> pd.DataFrame:
    """`growth_exponents` of the varying part's error in s and in t, from `curves`; the index is what varies."""
    parts = rows[rows["what"] == "part"].rename(columns={"varies": "input", "x": "n", "n": "tokens"})
    return growth_exponents(parts, "error").set_index("input")


# -------------------------------------------------------------------------------------------------------------- figures
@paper_style()
def draw_parts(rows: pd.DataFrame) -> Figure:
    """A panel per input: relative error of every normaliser with every numerator, medians and full ranges.

    Errors below 1/10000 (both exact) are drawn at the left edge.
    """
    zero = rows[rows["normaliser"] == "zero"]
    labels = {"value-norm": "value-norm slots", "uniform": "uniform slots", "exact": "exact numerator"}
    looks = {name: {**METHODS[name], "label": label} for name, label in labels.items()}

    def beside(ax: Axes, panel: pd.DataFrame) -> None:
        same = zero[zero["input"] == panel["input"].iloc[0]]
        ax.axvline(same["relative"].median(), **{**METHODS["zero"], "marker": ""})
        ax.set_xlim(0.7e-4, 2 * float(rows["relative"].quantile(0.995)))

    parts = rows[rows["normaliser"] != "zero"].assign(relative=rows["relative"].clip(lower=1e-4))
    options: dict[str, Any] = {"hue": "numerator", "facet": "input", "looks": looks, "interval": 100, "logx": True}
    label = r"relative error $\|\mathrm{out}-\mathrm{Attn}\|_F\;/\;\|\mathrm{Attn}\|_F$"
    return facets(parts, x="relative", y="normaliser", xlabel=label, each=beside, height=1.7, **options)


@paper_style()
def draw_curves(rows: pd.DataFrame) -> Figure:
    """Error over s (left) and over t (right), from `curves`: the answer's, the varying part's, and the theory's."""
    names = {"s": "numerator: $s$ varies", "t": "normaliser: $t$ varies"}
    looks = series("varying part alone", "answer")
    looks = {"part": {**looks["varying part alone"], "markersize": 5}, "answer": looks["answer"]}

    def laws(ax: Axes, panel: pd.DataFrame) -> None:
        law = panel.groupby("x")["law"].median()
        if panel["varies"].iloc[0] == "s":
            theory_line(ax, law.index, law, r"law of the numerator, $\propto s^{-1/2}$")
        else:
            theory_line(ax, law.index, law, r"bound on the normaliser, $\propto t^{-1/2}$", linestyle="-.")

    options: dict[str, Any] = {"hue": "what", "facet": "varies", "columns": 2, "looks": looks, "interval": 100}
    labels: dict[str, Any] = {"ylabel": r"error $/\;(\|\mathrm{softmax}(Kq)\|_2\,\|V\|)$", "titles": names.__getitem__}
    label = "slots $s$, samples per cluster $t$"
    return facets(
        rows, x="x", y="error", xlabel=label, logx=True, logy=True, height=2.3, each=laws, **options, **labels
    )


@paper_style()
def draw_settings(rows: pd.DataFrame) -> Figure:
    """From `settings`: clusters and error over delta, and error over the window's share and over t at equal bytes."""
    panels = (
        ("delta", "clusters", r"$\delta$ / norm of the first key", "clusters / $n$"),
        ("delta", "relative", r"$\delta$ / norm of the first key", "relative error"),
        ("window", "relative", "fraction of the bytes for the recent window", "relative error"),
        ("t", "relative", "samples per cluster $t$, at equal bytes", "relative error"),
    )
    looks = series(*rows["input"].unique())
    fig, axes = grid(4, 2, height=2.0)
    for ax, (varies, value, xlabel, ylabel) in zip(axes, panels, strict=True):
        for name, part in rows[rows["varies"] == varies].groupby("input", sort=False):
            lines(ax, part, "x", value, looks[name], interval=100)
            if value == "relative" and varies != "delta":  # the bytes are others there
                look = {"color": looks[name]["color"], "linestyle": ":", "linewidth": 0.9}
                label = "uniform sampling, same bytes" if name == rows["input"].iloc[0] else "_"
                ax.axhline(part["uniform"].median(), **look, label=label)
        if value == "relative":
            ax.axhline(1.0, **{**METHODS["zero"], "marker": ""})
        ax.set(yscale="log", xlabel=xlabel, ylabel=ylabel, xscale="linear" if varies == "window" else "log")
        if varies != "window":
            ticks(ax.xaxis, rows.loc[rows["varies"] == varies, "x"].unique())
    finish(fig)
    return fig
