"""Error of every key-value cache against the bytes that it holds, on streams that favour one method or another.

All caches see the same tokens in the same order; queries come between them, and are asked of the one cache that learns
from them. Errors are measured afterwards, on other queries.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from ...core.backends import asnumpy
from ...methods.caches.exact import ExactCache, ZeroCache
from ...methods.caches.heavy_hitter import HeavyHitterCache
from ...methods.polynomial.approximants import MAX_RADIUS
from ...methods.polynomial.polynomial import PolynomialState
from ..run import Run
from ..statistics import mean_and_reach, proportion
from ..workloads.inputs import GAUSSIAN, GAUSSIAN_MEAN, HEAVY_VALUES, REAL, Input
from ..workloads.instance import Instance
from .registry import CHUNK, CLUSTER_SAMPLES, HINDSIGHT, Stream, competing, directions, drawn, feed, heavy

SHARES = (1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2)
RETRIEVAL_SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2)
INFORMED, OFFLINE = "heavy hitters, asked before", "subgen, delta told"
CLUSTERS = Input("32 clusters", "clusterable")
CLUSTERS_MEAN = Input("32 clusters, values + 2", "clusterable", value_mean=2.0)
ROOT = Input("sqrt(n) clusters, values + 2", "clusterable", {"clusters": 1.0, "exponent": 0.5}, value_mean=2.0)
ALL_APART = Input("n clusters, values + 2", "clusterable", {"clusters": 1.0, "exponent": 1.0}, value_mean=2.0)
DRIFTING = Input("drifting, values + 2", "drifting", value_mean=2.0)
NEEDLES = Input("needles", "needles")
BY_NORM = Input("|v| rising, values + 2", "clusterable", {"order": "norm", "mean": 2.0})
BY_CLUSTER = Input("clusters in turn, values + 2", "clusterable", {"order": "cluster"}, value_mean=2.0)
INPUTS = (
    *(CLUSTERS, CLUSTERS_MEAN, ROOT, ALL_APART, DRIFTING, BY_NORM, BY_CLUSTER),
    *(NEEDLES, HEAVY_VALUES, GAUSSIAN, GAUSSIAN_MEAN, REAL),
)


def unbudgeted(stream: Stream, most: int | None = None) -> Iterator[tuple[str, Any, int]]:
    """Yardsticks and the streaming state: method, answers to the held-out queries, bytes held.

    The state has the highest degree that is below `most` bytes (the exact cache's, if not given), and is told the
    largest logit. None where the smallest is larger, a logit is beyond `MAX_RADIUS`, or its polynomial's normaliser is
    not positive.
    """
    x = stream.x
    for name, cache in (("exact", ExactCache()), ("zero", ZeroCache())):
        held = stream.feed(cache, CHUNK)
        yield name, held.attend(stream.late, scale=x.scale), held.nbytes
    d, d_v = x.k.shape[1], x.v.shape[1]
    chunks = ((x.scale * q[i : i + CHUNK]) @ x.k.T for q in (x.q, stream.late) for i in range(0, len(q), CHUNK))
    radius = max(float(max(logits.max(), -logits.min())) for logits in chunks)
    degrees = [g for g in (1, 2, 3) if math.comb(d + g, g) * (d_v + 2) * 8 < (most or stream.cache_bytes)]
    if degrees and radius <= MAX_RADIUS:
        state = PolynomialState(d, d_v, degree=max(degrees), scale=x.scale, basis="minimax", radius=radius)
        stream.feed(state, CHUNK)
        try:
            yield "streaming state", state.attend(stream.late), state.nbytes
        except ValueError:  # the normaliser is not positive
            return


def over_bytes(run: Run, *, inputs: tuple[Input, ...] = INPUTS) -> pd.DataFrame:
    """Errors of every method on every input over its bytes.

    Returns
    -------
    DataFrame
        input, source, n, replicate (fresh stream and draws; for "real" another head), method, share (of the exact
        cache's bytes that it may hold; nan without a budget), nbytes (held), held (over `n (d + d_v)` numbers), error
        (in the theorem's norm, mean over queries), relative (Frobenius). The method HINDSIGHT is, per input and share,
        that of SETTINGS with the least median relative error; SubGen itself cannot know which that is.
    """
    n = run.pick(smoke=1024, standard=4096, full=65536)
    replicates = run.pick(smoke=3, standard=8, full=12)
    heads = run.pick(smoke=5, standard=36, full=72)
    shares = run.pick(smoke=(1 / 16, 1 / 4), standard=SHARES, full=SHARES)
    rows: list[tuple[Any, ...]] = []
    for what in inputs:
        for replicate in range(heads if what is REAL else replicates):
            stream, rng = drawn(what, n, replicate, run)
            base = (what.label, what.source, len(stream.x.k), replicate)
            for method, out, nbytes in unbudgeted(stream):
                rows.append((*base, method, np.nan, nbytes, nbytes / stream.cache_bytes, *stream.errors(out)))
            for share in shares:
                budget = int(share * stream.cache_bytes)
                for method, cache in competing(budget, stream.x, rng).items():
                    out = feed(cache, stream, budget).attend(stream.late, scale=stream.x.scale)
                    held = cache.nbytes / stream.cache_bytes
                    rows.append((*base, method, share, cache.nbytes, held, *stream.errors(out)))
    columns = ["input", "source", "n", "replicate", "method", "share", "nbytes", "held", "error", "relative"]
    return best_setting(pd.DataFrame(rows, columns=columns))


def best_setting(rows: pd.DataFrame) -> pd.DataFrame:
    """Of the methods that begin with HINDSIGHT the best one of each input and share, under that name."""
    tried = rows["method"].str.startswith(HINDSIGHT)
    by = ["input", "share"]
    medians = rows[tried].groupby([*by, "method"], sort=False)["relative"].median().reset_index()
    best = medians.loc[medians.groupby(by, sort=False)["relative"].idxmin(), [*by, "method"]]
    kept = rows[tried].merge(best, on=[*by, "method"]).assign(method=HINDSIGHT)
    return pd.concat([rows[~tried], kept], ignore_index=True)


def winners(rows: pd.DataFrame) -> pd.DataFrame:
    """For each input and share: the method of least geometric mean relative error, and the others beside it.

    Returns
    -------
    DataFrame
        Index input, share. winner; error (its geometric mean); runner-up; clear (whether the 99 percent t-interval of
        the mean difference of their logarithms, over paired replicates, excludes 0); beats zero; subgen, HINDSIGHT,
        uniform, zero, exact (geometric means); subgen / uniform (ratio with its 99 percent limits, as text).
    """
    found = []
    fixed = rows[rows["share"].isna()].groupby(["input", "method"], sort=False)["relative"].agg(_geometric).unstack()
    for (name, share), part in rows.dropna(subset=["share"]).groupby(["input", "share"], sort=False):
        logs = np.log(part.pivot(index="replicate", columns="method", values="relative"))
        order = logs.mean().sort_values().index
        middle, reach = mean_and_reach((logs[order[1]] - logs[order[0]]).to_numpy())
        ratio, width = mean_and_reach((logs["subgen"] - logs["uniform"]).to_numpy())
        span = f"{np.exp(ratio):.2f} [{np.exp(ratio - width):.2f}, {np.exp(ratio + width):.2f}]"
        means, yardstick = np.exp(logs.mean()), fixed.loc[str(name)].astype(float)
        found.append(
            {
                "input": name,
                "share": share,
                "winner": order[0],
                "error": means[order[0]],
                "runner-up": order[1],
                "clear": bool(middle > reach),
                "beats zero": bool(means[order[0]] < yardstick["zero"]),
                **{method: means[method] for method in ("subgen", HINDSIGHT, "uniform")},
                **{method: yardstick[method] for method in ("zero", "exact")},
                "subgen / uniform": span,
            }
        )
    return pd.DataFrame(found).set_index(["input", "share"])


def against_uniform(rows: pd.DataFrame) -> dict[str, Any]:
    """SubGen beside uniform sampling, by medians over replicates.

    Returns
    -------
    dict
        Share of inputs and budgets at which SubGen's relative error is above: `behind`; `behind_hindsight`, with
        the settings of HINDSIGHT; `behind_per_byte`, with errors times the root of the bytes held, as errors of samples
        fall. `used`: least and largest ratio of the bytes held. `ratios`: error over error, median over budgets, by
        input.
    """
    cells = rows.groupby(["input", "method", "share"], sort=False)[["relative", "held"]].median().unstack("method")
    error, held = cells["relative"], cells["held"]
    used = held["subgen"] / held["uniform"]
    return {
        "behind": float((error["subgen"] > error["uniform"]).mean()),
        "behind_hindsight": float((error[HINDSIGHT] > error["uniform"]).mean()),
        "behind_per_byte": float((error["subgen"] * used**0.5 > error["uniform"]).mean()),
        "used": (float(used.min()), float(used.max())),
        "ratios": (error["subgen"] / error["uniform"]).groupby("input", sort=False).median(),
    }


def _geometric(x: pd.Series) -> float:
    return float(np.exp(np.log(x).mean()))


# ------------------------------------------------------------------------------------------------------------ retrieval
def retrieval(run: Run) -> pd.DataFrame:
    """Whether each method finds the needle that is asked for at the end: 4 of them, one asked for per replicate.

    Returns
    -------
    DataFrame
        n, replicate (fresh stream and draws), method, share (nan without a budget), found (bool). "heavy hitters, asked
        before" gets queries for the needles all along; "subgen, delta told" has the delta that fills its bytes.
    """
    xp = run.xp
    n, d = run.pick(smoke=512, standard=1024, full=9216), retrieval_width(run)
    replicates = run.pick(smoke=25, standard=200, full=200)
    shares = run.pick(smoke=(1 / 8, 1 / 4), standard=RETRIEVAL_SHARES, full=RETRIEVAL_SHARES)
    rows: list[tuple[Any, ...]] = []
    for replicate in range(replicates):
        rng = run.rng("retrieval", n, replicate)
        x = NEEDLES.draw(n, d, rng)
        at = int(rng.integers(n))
        wanted = needle(x, at)
        early = directions(rng, x)
        stream, informed = (Stream.of(x, rng, xp, early=q) for q in (early, x.q))
        query = stream.x.q[at]
        for name, yardstick in (("exact", ExactCache()), ("zero", ZeroCache())):
            out = stream.feed(yardstick, CHUNK).attend(query, scale=x.scale)
            rows.append((n, replicate, name, np.nan, hit(out, wanted)))
        for share in shares:
            budget = int(share * stream.cache_bytes)
            for method, cache in competing(budget, stream.x, rng).items():
                name = OFFLINE if method == f"{HINDSIGHT} {CLUSTER_SAMPLES}" else method
                if not name.startswith(HINDSIGHT):
                    out = feed(cache, stream, budget).attend(query, scale=x.scale)
                    rows.append((n, replicate, name, share, hit(out, wanted)))
            out = feed(HeavyHitterCache(*heavy(budget, stream.x)), informed, budget).attend(query, scale=x.scale)
            rows.append((n, replicate, INFORMED, share, hit(out, wanted)))
    return pd.DataFrame(rows, columns=["n", "replicate", "method", "share", "found"])


def retrieval_width(run: Run) -> int:
    """Width of keys and values in `retrieval`: an answer at random names the needle once in so many times."""
    return run.pick(smoke=16, standard=32, full=64)


def needle(x: Instance, query: int) -> int:
    """The number of the needle that a query of the workload "needles" looks for."""
    at = np.flatnonzero(np.count_nonzero(x.v, axis=1) == 1)
    return int(x.v[at[(x.k[at] @ x.q[query]).argmax()]].argmax())


def hit(out: Any, wanted: int) -> bool:
    """Whether an output row names the needle: its largest entry, the only one of its size."""
    values = asnumpy(out)
    return bool((values >= values[wanted]).sum() == 1)


def accuracies(rows: pd.DataFrame) -> pd.DataFrame:
    """Share of replicates in which the needle was found, with Clopper-Pearson limits: method, share, rate, low, high,
    trials."""
    groups = rows.groupby(["method", "share"], sort=False, dropna=False)["found"]
    found = [(*key, *proportion(int(part.sum()), len(part)), len(part)) for key, part in groups]
    return pd.DataFrame(found, columns=["method", "share", "rate", "low", "high", "trials"])
