"""SubGen's memory, time per token and time per query over n, beside the exact cache's."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import pandas as pd

from ....core.timing import timed
from ....lab.run import Run
from ....lab.workloads import make
from ...caches.base import KVCache
from ...caches.exact import ExactCache
from ..subgen import SubGenCache

D, CHUNK, QUERIES = 16, 4096, 8
TIMED = 2048
"""Tokens that come after the n, and whose time is taken."""
STREAMS: Mapping[str, Mapping[str, Any]] = {
    "64 clusters": {"clusters": 64},
    "sqrt(n) clusters": {"clusters": 2.0, "exponent": 0.5},
    "n clusters": {"clusters": 1.0, "exponent": 1.0},
}
"""2 sqrt(n) of them, as in the claims, so that there are some at small n too."""
THEORY: Mapping[str, float] = {"64 clusters": 0.0, "sqrt(n) clusters": 0.5, "n clusters": 1.0, "exact": 1.0}
"""Exponent of the memory and of the time of a query; of the time of a token too, but for the exact cache's, 0."""


def over_n(run: Run) -> pd.DataFrame:
    """Bytes held after n tokens, microseconds for each of the 2048 after them, and milliseconds per query, over n.

    Returns
    -------
    DataFrame
        quantity ("bytes", "token", "query"), method (a key of `STREAMS`, or "exact"), n, clusters, replicate, value.
        A query's time is that of one, the fastest of QUERIES; d = d_v = 16, t = 4, s = 64.
    """
    xp = run.xp
    longest = run.pick(smoke=16, standard=18, full=20)
    most_clusters = run.pick(smoke=12, standard=15, full=16)  # a cluster per key: time grows like n^2
    replicates = run.pick(smoke=3, standard=5, full=5)
    rows: list[tuple[str, str, int, int, int, float]] = []
    for name, knobs in STREAMS.items():
        for power in range(
            10, (most_clusters if name == "n clusters" else longest) + 1, 2 if run.effort == "smoke" else 1
        ):
            n = 2**power
            for r in range(replicates):
                rng = run.rng(name, n, r)
                x = make("clusterable", n + TIMED, D, rng=rng, **knobs).to(xp)
                contenders: dict[str, KVCache] = {name: SubGenCache(1.0, 4, 64, rng=rng)}
                if name == "64 clusters":
                    contenders["exact"] = ExactCache()
                for method, cache in contenders.items():
                    for at in range(0, n, CHUNK):
                        cache.update(x.k[at : min(at + CHUNK, n)], x.v[at : min(at + CHUNK, n)])
                    held, clusters = cache.nbytes, len(cache.counts) if isinstance(cache, SubGenCache) else n
                    per_query = min(timed(xp, partial(cache.attend, x.q[i : i + 1]))[1] for i in range(QUERIES))
                    per_token = timed(xp, partial(cache.update, x.k[n:], x.v[n:]))[1] / TIMED
                    found = {"bytes": float(held), "token": 1e6 * per_token, "query": 1e3 * per_query}
                    rows += [(what, method, n, clusters, r, value) for what, value in found.items()]
    return pd.DataFrame(rows, columns=["quantity", "method", "n", "clusters", "replicate", "value"])


def by_rows(run: Run) -> pd.DataFrame:
    """Tokens per second over the rows of a chunk, 64 clusters.

    Returns
    -------
    DataFrame
        rows, replicate, tokens_per_second.
    """
    xp = run.xp
    n = run.pick(smoke=2**14, standard=2**17, full=2**20)
    x = make("clusterable", n, D, rng=run.rng("by rows"), clusters=64).to(xp)
    found = []
    for rows in (1, 8, 64, 512, 4096):
        tokens = min(n, 512 * rows)
        for r in range(run.pick(smoke=3, standard=5, full=5)):
            cache = SubGenCache(1.0, 4, 64, rng=run.rng("by rows", rows, r)).update(x.k[:512], x.v[:512])
            seconds = sum(
                timed(xp, partial(cache.update, x.k[at : at + rows], x.v[at : at + rows]))[1]
                for at in range(0, tokens, rows)
            )
            found.append((rows, r, tokens / seconds))
    return pd.DataFrame(found, columns=["rows", "replicate", "tokens_per_second"])
