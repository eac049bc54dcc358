"""SubGen's memory, time per token and time per query over n, beside the exact cache's. Notebook 15."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ....core.quiet import quiet
from ....core.threads import cut
from ....core.timing import timed
from ....lab.run import Run
from ....lab.workloads import make
from ....plots.panels import facets, theory_line
from ....plots.style import COLUMN, METHODS, paper_style, series
from ...caches.base import KVCache
from ...caches.exact import ExactCache
from ..subgen import SubGenCache

D, SAMPLES, SLOTS = 16, 4, 64
"""d = d_v, samples per cluster t, slots s."""
CHUNK, QUERIES = 4096, 8
TIMED = 2048
"""Number of tokens after the first n whose time is taken."""
STREAMS: Mapping[str, Mapping[str, Any]] = {
    "64 clusters": {"clusters": 64},
    "sqrt(n) clusters": {"clusters": 2.0, "exponent": 0.5},
    "n clusters": {"clusters": 1.0, "exponent": 1.0},
}
"""Where there are of the order of sqrt(n) clusters, it is 2 sqrt(n), as in the claims."""
THEORY: Mapping[str, float] = {"64 clusters": 0.0, "sqrt(n) clusters": 0.5, "n clusters": 1.0, "exact": 1.0}
"""Exponent of the memory and of the time of a query; of the time of a token too, but for the exact cache's, 0."""


@quiet()
def over_n(run: Run) -> pd.DataFrame:
    """Bytes stored after n tokens, microseconds per token for the TIMED after them, and milliseconds per query, over n.

    Parameters of the run: n, d (also d_v), samples (t), slots (s), replicates.

    Returns
    -------
    DataFrame
        quantity ("bytes", "token", "query"), method (a key of `STREAMS`, or "exact"), n, clusters, replicate, value.
        A query's time is that of one, the fastest of QUERIES.
    """
    xp, powers = run.xp, range(10, run.pick(smoke=16, standard=18, full=20) + 1, run.pick(smoke=2, standard=1, full=1))
    lengths = run.given("n", tuple(2**power for power in powers))
    most_clusters = run.pick(smoke=2**12, standard=2**15, full=2**16)  # with one per key time grows like n^2
    replicates = run.given("replicates", run.pick(smoke=3, standard=5, full=5))
    d, samples, slots = run.given("d", D), run.given("samples", SAMPLES), run.given("slots", SLOTS)
    rows: list[tuple[str, str, int, int, int, float]] = []
    for name, knobs in STREAMS.items():
        for n in lengths:
            if name == "n clusters" and n > max(most_clusters, min(lengths)):
                continue
            for r in range(replicates):
                rng = run.rng(name, n, r)
                x = make("clusterable", n + TIMED, d, rng=rng, **knobs).to(xp)
                contenders: dict[str, KVCache] = {name: SubGenCache(1.0, samples, slots, rng=rng)}
                if name == "64 clusters":
                    contenders["exact"] = ExactCache()
                for method, cache in contenders.items():
                    for part in cut(n, CHUNK):
                        cache.update(x.k[part], x.v[part])
                    stored, clusters = cache.nbytes, len(cache.counts) if isinstance(cache, SubGenCache) else n
                    per_query = min(timed(xp, partial(cache.attend, x.q[i : i + 1]))[1] for i in range(QUERIES))
                    per_token = timed(xp, partial(cache.update, x.k[n:], x.v[n:]))[1] / TIMED
                    values = {"bytes": float(stored), "token": 1e6 * per_token, "query": 1e3 * per_query}
                    rows += [(what, method, n, clusters, r, value) for what, value in values.items()]
    return pd.DataFrame(rows, columns=["quantity", "method", "n", "clusters", "replicate", "value"])


@quiet()
def by_rows(run: Run) -> pd.DataFrame:
    """Tokens per second over the rows of a chunk, 64 clusters.

    Parameters of the run: n (the largest of them), d (also d_v), samples (t), slots (s), replicates.

    Returns
    -------
    DataFrame
        rows, replicate, tokens_per_second.
    """
    xp = run.xp
    n = max(run.given("n", (run.pick(smoke=2**14, standard=2**17, full=2**20),)))
    samples, slots = run.given("samples", SAMPLES), run.given("slots", SLOTS)
    x = make("clusterable", n, run.given("d", D), rng=run.rng("by rows"), clusters=64).to(xp)
    table = []
    for rows in (1, 8, 64, 512, 4096):
        tokens = min(n, 512 * rows)
        for r in range(run.given("replicates", run.pick(smoke=3, standard=5, full=5))):
            cache = SubGenCache(1.0, samples, slots, rng=run.rng("by rows", rows, r)).update(x.k[:512], x.v[:512])
            seconds = sum(
                timed(xp, partial(cache.update, x.k[at : at + rows], x.v[at : at + rows]))[1]
                for at in range(0, tokens, rows)
            )
            table.append((rows, r, tokens / seconds))
    return pd.DataFrame(table, columns=["rows", "replicate", "tokens_per_second"])


# -------------------------------------------------------------------------------------------------------------- figures
@paper_style()
def draw_over_n(rows: pd.DataFrame) -> Figure:
    """Bytes, time per token and time per query of `over_n`; under each line's end the theory's slope."""
    panels = {"bytes": "bytes stored (MiB)", "token": "one token (µs)", "query": "one query (ms)"}
    labels = ("SubGen, 64 clusters", r"SubGen, $2\sqrt{n}$ clusters", "SubGen, $n$ clusters")
    looks = dict(zip(STREAMS, series(*labels).values(), strict=True))
    looks["exact"] = {**METHODS["exact"], "label": "exact cache"}
    rows = rows.assign(value=rows["value"] * np.where(rows["quantity"] == "bytes", 2.0**-20, 1.0))

    def slopes(ax: Axes, panel: pd.DataFrame) -> None:
        for name, line in panel.groupby("method", sort=False):
            exponent = THEORY[str(name)]
            if panel["quantity"].iloc[0] == "token" and name == "exact":
                exponent = 0.0
            last = line["n"].max()
            n = np.array([max(last / 4, line["n"].min()), last], float)
            end = 0.7 * float(line.loc[line["n"] == last, "value"].median())
            theory_line(ax, n, end * (n / last) ** exponent, "theory's slope", linewidth=0.8)
            if (name, exponent) != ("exact", 1.0):
                label = {0.0: "$1$", 0.5: r"$\sqrt{n}$", 1.0: "$n$"}[exponent]
                ax.annotate(label, (n[-1], end), (2, -6), textcoords="offset points", size=6, annotation_clip=False)

    options: dict[str, Any] = {"facet": "quantity", "looks": looks, "interval": 100, "logx": True, "logy": True}
    fig = facets(
        rows, x="n", y="value", hue="method", xlabel="tokens $n$", ylabel=panels, height=2.2, each=slopes, **options
    )
    for ax in fig.axes:  # where all times are alike, the theory's slopes would leave the panel
        low, high = ax.get_ylim()
        widened = max(1.0, np.sqrt(100 * low / high))
        ax.set_ylim(low / widened, high * widened)
    return fig


@paper_style()
def draw_chunks(rows: pd.DataFrame) -> Figure:
    """Tokens per second over the tokens of an update, from `by_rows`: median and range."""
    labels: dict[str, Any] = {"xlabel": "tokens per update", "ylabel": "tokens per second"}
    looks = {None: METHODS["subgen"]}
    options: dict[str, Any] = {"interval": 100, "logx": True, "logy": True, "legend": False, "width": COLUMN}
    return facets(rows, x="rows", y="tokens_per_second", looks=looks, height=2.0, **labels, **options)
