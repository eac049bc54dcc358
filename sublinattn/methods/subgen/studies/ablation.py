"""What each part of SubGen is worth: clusters against other samples of the keys, slots against other samples of the
values, and how the error depends on s, t, delta and the recent window.

Estimates of the numerator and of the normaliser from rows held with weights: `sum_j w_j exp(s <q, k_j>) (v_j, 1)`, the
same sum for every way of choosing rows. SubGen's own rows are taken out of a SubGenCache.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ....core.backends import asnumpy, namespace, to_device
from ....core.exact import partial_attention
from ....lab.comparison.error_over_bytes import BY_CLUSTER, CLUSTERS_MEAN, NEEDLES
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
from ....lab.statistics import mean_and_reach
from ....lab.workloads.inputs import GAUSSIAN_MEAN, HEAVY_VALUES, REAL, Input
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
    """Keys (m, d), values (m, d_v) or none, and a weight each, on the device of the stream."""

    k: Any
    w: np.ndarray
    v: Any = None

    def sums(self, stream: Stream, columns: Any) -> tuple[np.ndarray, np.ndarray]:
        """`(m, o)` in float64: `exp(m) o` is the weighted sum of `columns` (rows held, c) for each held-out query."""
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
    """Numerator and normaliser as a cache without a window holds them, or its first slots and samples alone."""
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
    """`size` centres of a greedy k-center over the whole stream, each for all keys that are nearest to it."""
    k, xp = stream.x.k, namespace(stream.x.k)
    at, _ = greedy_k_center(xp, k, size)
    centres = k[to_device(at, xp)]
    labels, _ = nearest(xp, k, centres)
    return Rows(centres, np.bincount(labels, minlength=len(at)).astype(float))


# --------------------------------------------------------------------------------------------------------- measurements
def parts(run: Run) -> pd.DataFrame:
    """Each normaliser with each numerator, all of as many rows: n/8 slots, and n/8 keys for the normaliser.

    Returns
    -------
    DataFrame
        input, source, n, replicate, normaliser, numerator, error (the theorem's norm), relative. The normaliser SHARED:
        one sample for both, of as many bytes in all (3n/16 tokens where d = d_v), whose errors cancel in the ratio.
        "zero" for both: answering zero.
    """
    n = run.pick(smoke=1024, standard=8192, full=65536)
    replicates = run.pick(smoke=3, standard=12, full=12)
    heads = run.pick(smoke=6, standard=72, full=72)
    rows: list[tuple[Any, ...]] = []
    for what in INPUTS:
        for replicate in range(heads if what is REAL else replicates):
            stream, rng = drawn(what, n, replicate, run)
            x, held = stream.x, len(stream.x.k) // 8
            base = (what.label, what.source, len(x.k), replicate)
            most = held // (1 + CLUSTER_SAMPLES)  # a centre and its samples are as many rows
            doubled = SubGenCache(first_delta(x), CLUSTER_SAMPLES, held, max_clusters=most, rng=rng)
            told = SubGenCache(filling_delta(x, most), CLUSTER_SAMPLES, 3 * held // 2, rng=rng)
            (slots, clusters), (more, fitted) = (subgen_rows(stream.feed(cache, CHUNK)) for cache in (doubled, told))
            one, other = (uniform_rows(stream, held, rng) for _ in range(2))
            below = (clusters, fitted, center_rows(stream, held), one, whole(stream))
            above = (slots, other, whole(stream))
            pairs = {
                (normaliser, numerator): answer(stream, z, tau)
                for normaliser, tau in zip(NORMALISERS, below, strict=True)
                for numerator, z in zip(NUMERATORS, above, strict=True)
            }
            for numerator, both in (("value-norm", more), ("uniform", uniform_rows(stream, len(more.k), rng))):
                pairs[SHARED, numerator] = answer(stream, both, both)
            pairs["zero", "zero"] = np.zeros_like(stream.exact)
            rows += [(*base, *names, *stream.errors(out)) for names, out in pairs.items()]
    columns = ["input", "source", "n", "replicate", "normaliser", "numerator", "error", "relative"]
    return pd.DataFrame(rows, columns=columns)


def curves(run: Run) -> pd.DataFrame:
    """Error over s at the most samples, and over t at the most slots, where the keys have 8 clusters of a known delta.

    Returns
    -------
    DataFrame
        varies ("s", "t"), n, replicate, x (the s or the t), what ("answer", or the "part" that varies, with the other
        one exact), error (theorem's norm, root mean square over queries), law (root of the part's expected mean square:
        exact for s; for t the bound from `sinh(delta r)^2 / t`).
    """
    n = run.pick(smoke=2048, standard=16384, full=131072)
    replicates = run.pick(smoke=6, standard=20, full=20)
    most = run.pick(smoke=256, standard=1024, full=1024)
    grid = [2**i for i in range(1, most.bit_length())]
    rows: list[tuple[Any, ...]] = []
    for replicate in range(replicates):
        stream, rng = drawn(FEW, n, replicate, run)
        cache = stream.feed(SubGenCache(DELTA, most, most, rng=rng), CHUNK)
        every, exact = subgen_rows(cache), whole(stream)
        size = np.linalg.norm(stream.exact, axis=1) / stream.unit
        v = asnumpy(stream.x.v).astype(np.float64)
        srank = (np.linalg.norm(v) / np.linalg.norm(v, 2)) ** 2
        r = stream.x.scale * float(np.linalg.norm(asnumpy(stream.late).astype(np.float64), axis=1).max())
        for x in grid:
            slots, samples = subgen_rows(cache, slots=x)[0], subgen_rows(cache, samples=x)[1]
            laws = {"s": (srank - size**2) / x, "t": size**2 * np.sinh(DELTA * r) ** 2 / x}
            pairs = {"s": (slots, every[1]), "t": (every[0], samples)}
            alone = {"s": (slots, exact), "t": (exact, samples)}
            for varies, law in laws.items():
                for what, pair in (("answer", pairs[varies]), ("part", alone[varies])):
                    gap = np.linalg.norm(answer(stream, *pair) - stream.exact, axis=1) / stream.unit
                    found = np.sqrt((gap**2).mean()), np.sqrt(law.mean())
                    rows.append((varies, n, replicate, x, what, *map(float, found)))
    return pd.DataFrame(rows, columns=["varies", "n", "replicate", "x", "what", "error", "law"])


def settings(run: Run) -> pd.DataFrame:
    """Relative error over delta, over the recent window and over t, the last two at equal bytes.

    Returns
    -------
    DataFrame
        input, source, n, replicate, varies ("delta", "window", "t"), x (delta over the first key's norm; share of the
        bytes; samples per cluster), relative, clusters (over n), held (bytes over the exact cache's), uniform (relative
        error of uniform sampling in a quarter of the exact cache's bytes, which is the budget of "window" and "t").
    """
    n = run.pick(smoke=1024, standard=4096, full=32768)
    replicates = run.pick(smoke=2, standard=8, full=8)
    heads = run.pick(smoke=3, standard=36, full=72)
    rows: list[tuple[Any, ...]] = []
    for what in SETTINGS_INPUTS:
        for replicate in range(heads if what is REAL else replicates):
            stream, rng = drawn(what, n, replicate, run)
            x, size = stream.x, len(stream.x.k)
            base = (what.label, what.source, size, replicate)
            budget = stream.cache_bytes // 4
            tried: list[tuple[str, float, SubGenCache]] = [
                ("delta", f, SubGenCache(64 * f * first_delta(x), CLUSTER_SAMPLES, size // 8, rng=rng)) for f in DELTAS
            ]
            tried += [("window", share, subgen_within(budget, x, rng, window=share)) for share in WINDOWS]
            tried += [("t", t, subgen_hindsight(budget, x, rng, samples=t)) for t in SAMPLES]
            uniform = competing(budget, x, rng, hindsight=True)["uniform"]
            _, yardstick = stream.errors(feed("uniform", uniform, stream, budget).attend(stream.late, scale=x.scale))
            for varies, value, cache in tried:
                stream.feed(cache, CHUNK)
                _, relative = stream.errors(cache.attend(stream.late, scale=x.scale))
                held = cache.nbytes / stream.cache_bytes
                rows.append((*base, varies, value, relative, len(cache.counts) / size, held, yardstick))
    columns = ["input", "source", "n", "replicate", "varies", "x", "relative", "clusters", "held", "uniform"]
    return pd.DataFrame(rows, columns=columns)


def slopes(rows: pd.DataFrame) -> pd.DataFrame:
    """Exponent of the varying part's error in s and in t, from the least-squares slopes of the replicates of `curves`.

    Returns
    -------
    DataFrame
        Index varies. slope (mean over replicates), low, high (99 percent t-limits).
    """
    found = {}
    for varies, part in rows[rows["what"] == "part"].groupby("varies", sort=False):
        fits = [np.polyfit(np.log(one["x"]), np.log(one["error"]), 1)[0] for _, one in part.groupby("replicate")]
        middle, reach = mean_and_reach(np.array(fits))
        found[varies] = (middle, middle - reach, middle + reach)
    return pd.DataFrame.from_dict(found, orient="index", columns=["slope", "low", "high"]).rename_axis("varies")
