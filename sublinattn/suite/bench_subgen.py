"""Speed and memory of SubGen's cache: tokens taken in, one query answered, bytes held over n; float32, on the CPU."""

from __future__ import annotations

import functools
from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd

from ..core import backends
from ..core.timing import timed
from ..lab.workloads import make
from ..lab.workloads.instance import Instance
from ..methods.caches.exact import ExactCache
from ..methods.subgen.subgen import SubGenCache

N, D, CLUSTERS, CHUNK = 2**20, 64, 1000, 4096
DELTA = 1.0
ROWS = 2048
"""Tokens that are absorbed one by one."""


@functools.cache
def tokens() -> Instance:
    """Keys in 1000 clusters of diameter delta, Gaussian values."""
    return make("clusterable", N, D, rng=0, clusters=CLUSTERS, delta=DELTA)


def _cache() -> SubGenCache:
    return SubGenCache(DELTA, 8, 256, rng=0)


def _fed(n: int = N) -> SubGenCache:
    x, cache = tokens(), _cache()
    for at in range(0, n, CHUNK):
        cache.update(x.k[at : at + CHUNK], x.v[at : at + CHUNK])
    return cache


def products_alone() -> None:
    """The distances of all tokens to all centres, as products and minima, on arrays that stay in cache."""
    rows = 2**18 // CLUSTERS

    def make_worker() -> Callable[[int], None]:
        x, centres = (np.full((c, D), 0.5, np.float32) for c in (rows, CLUSTERS))
        out = np.empty((rows, CLUSTERS), np.float32)

        def worker(tile: int) -> None:
            np.matmul(x, centres.T, out=out).argmin(axis=1)

        return worker

    backends.for_tiles(np, range(-(-N // rows)), make_worker)


def ingest(*, rounds: int = 3) -> pd.DataFrame:
    """Tokens per second in chunks and row by row (at 1000 live clusters), and what the products alone would allow.

    Returns
    -------
    DataFrame
        what, tokens, seconds (median), fastest, tokens_per_second (of the fastest), over_rows (ratio to row by row).
    """
    x, begun = tokens(), _fed(2**17)

    def by_rows() -> None:
        for i in range(2**17, 2**17 + ROWS):
            begun.update(x.k[i], x.v[i])

    calls: dict[str, tuple[int, Callable[[], object]]] = {
        "products and minima alone": (N, products_alone),
        f"SubGen, chunks of {CHUNK}": (N, _fed),
        "SubGen, row by row": (ROWS, by_rows),
    }
    found: dict[str, list[float]] = {what: [] for what in calls}
    for _ in range(rounds):
        for what, (_, call) in calls.items():
            found[what].append(timed(np, call)[1])
    rows = [(what, calls[what][0], np.median(s), min(s), calls[what][0] / min(s)) for what, s in found.items()]
    frame = pd.DataFrame(rows, columns=["what", "tokens", "seconds", "fastest", "tokens_per_second"])
    return frame.assign(over_rows=frame["tokens_per_second"] / frame["tokens_per_second"].iloc[-1])


def query(*, rounds: int = 9) -> pd.DataFrame:
    """Milliseconds of one query over 2^20 tokens: SubGen, the exact cache, and softmax in three lines of NumPy.

    Returns
    -------
    DataFrame
        what, milliseconds (median), fastest, nbytes held, over_subgen (ratio of medians).
    """
    x, cache, exact = tokens(), _fed(), ExactCache().update(tokens().k, tokens().v)
    q = x.q[:1]

    def plain() -> np.ndarray:
        logits = x.scale * (x.k @ q[0])
        weights = np.exp(logits - logits.max())
        return weights @ x.v / weights.sum()

    calls: dict[str, tuple[int, Callable[[], object]]] = {
        "SubGen": (cache.nbytes, partial(cache.attend, q)),
        "exact cache": (exact.nbytes, partial(exact.attend, q)),
        "NumPy, all BLAS threads": (x.k.nbytes + x.v.nbytes, plain),
    }
    found: dict[str, list[float]] = {what: [] for what in calls}
    for _ in range(rounds):
        for what, (_, call) in calls.items():
            found[what].append(1e3 * timed(np, call)[1])
    rows = [(what, np.median(ms), min(ms), calls[what][0]) for what, ms in found.items()]
    frame = pd.DataFrame(rows, columns=["what", "milliseconds", "fastest", "nbytes"])
    return frame.assign(over_subgen=frame["milliseconds"] / frame["milliseconds"].iloc[0])


def held() -> pd.DataFrame:
    """Bytes held over n while the clusters stay as many: n, nbytes, clusters, share_of_exact (of the exact cache)."""
    cache, rows = _cache(), []
    x = tokens()
    for at in range(0, N, CHUNK):
        cache.update(x.k[at : at + CHUNK], x.v[at : at + CHUNK])
        n = cache.tokens_seen
        if n >= 2**16 and n & (n - 1) == 0:
            rows.append((n, cache.nbytes, len(cache.counts), cache.nbytes / (n * 2 * D * 4)))
    return pd.DataFrame(rows, columns=["n", "nbytes", "clusters", "share_of_exact"])
