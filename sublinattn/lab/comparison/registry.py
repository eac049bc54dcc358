"""Streams for the key-value caches, and what each cache may be so as to hold no more than given bytes."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...core.backends import asnumpy, namespace, to_device
from ...core.exact import attention
from ...methods.caches.base import KVCache
from ...methods.caches.heavy_hitter import HeavyHitterCache
from ...methods.caches.k_center import KCenterCache
from ...methods.caches.reservoir import ReservoirCache
from ...methods.caches.sink import SINKS, SinkCache
from ...methods.subgen.subgen import SubGenCache
from ...primitives.clustering import OnlineClusters
from ..run import Run
from ..workloads import real
from ..workloads.inputs import REAL, Input
from ..workloads.instance import Instance

D = 64
CHUNK = 1024
"""Tokens per update, where it changes nothing but the time."""
QUERIES = 128
"""Held out, per stream."""
QUERY_NORM = 5.0
CLUSTER_SAMPLES = 4
WINDOW, HINDSIGHT = "subgen, window", "subgen, hindsight"
SETTINGS = ((1, 0.875), (4, 0.5), (16, 0.5))
"""Samples per cluster and the slots' share of the bytes that `HINDSIGHT` is the best of."""


# ------------------------------------------------------------------------------------------------------------- a stream
@dataclass(frozen=True)
class Stream:
    """Tokens in their order, with a query after each or none, and held-out queries with their exact answers."""

    x: Instance
    early: Any
    """Queries (n, d): row i may be asked once token i has come."""
    asked: np.ndarray
    """Which rows of `early` are asked (bool): not those held out."""
    late: Any
    exact: np.ndarray
    """Attention of the held-out queries in float64, (QUERIES, d_v)."""
    unit: np.ndarray
    """`||softmax(K q)||_2 ||V||` for each of them: the theorem's norm."""

    @classmethod
    def of(cls, x: Instance, rng: np.random.Generator, xp: Any, *, early: np.ndarray | None = None) -> Stream:
        """Hold QUERIES random queries out; `early` (n, d) replaces the others."""
        n = len(x.q)
        held = np.sort(rng.permutation(n)[: min(QUERIES, n // 2)])
        asked = np.ones(n, bool)
        asked[held] = early is not None
        x = x.to(xp)
        late = x.q[to_device(held, xp)]
        return cls.over(x, early=x.q if early is None else to_device(early, xp), asked=asked, late=late)

    @classmethod
    def over(cls, x: Instance, *, early: Any, asked: np.ndarray, late: Any) -> Stream:
        """With the exact answers to `late`."""
        xp = namespace(x.k)
        q, k, v = (a.astype(np.float64) for a in (late, x.k, x.v))
        exact, lse = (asnumpy(a) for a in attention(q, k, v, scale=x.scale, return_lse=True))
        twice = asnumpy(attention(q, k, v, scale=2 * x.scale, return_lse=True)[1])
        v_norm = np.sqrt(np.linalg.eigvalsh(asnumpy(xp.matmul(v.T, v)))[-1])
        return cls(x, early, asked, late, exact, np.exp(twice / 2 - lse) * v_norm)

    @property
    def cache_bytes(self) -> int:
        """Bytes of all keys and values."""
        return int(self.x.k.nbytes + self.x.v.nbytes)

    def feed(self, cache: Any, rows: int, *, ask: bool = False) -> Any:
        """The cache after all tokens, in chunks of `rows`; the queries of a chunk come after its tokens."""
        for at in range(0, len(self.x.k), rows):
            part = slice(at, at + rows)
            cache.update(self.x.k[part], self.x.v[part], check_finite=False)
            if ask and self.asked[part].any():
                queries = self.early[part][to_device(np.flatnonzero(self.asked[part]), namespace(self.early))]
                cache.attend(queries, scale=self.x.scale, check_finite=False)
        return cache

    def errors(self, out: Any) -> tuple[float, float]:
        """Mean over queries of `||out - Attn||_2 / (||softmax(Kq)||_2 ||V||)`, and `||out - Attn||_F / ||Attn||_F`."""
        gap = asnumpy(out).astype(np.float64) - self.exact
        in_unit = np.linalg.norm(gap, axis=1) / self.unit
        return float(in_unit.mean()), float(np.linalg.norm(gap) / np.linalg.norm(self.exact))


def drawn(what: Input, n: int, replicate: int, run: Run) -> tuple[Stream, np.random.Generator]:
    """A fresh stream of an input and what is left of its draws. For "real" another head for every replicate.

    Nobody asks for a needle before the end: the queries before it have random directions and norm QUERY_NORM.
    """
    xp, rng = run.xp, run.rng("caches", what.label, n, replicate)
    if what is not REAL:
        x, early = what.draw(n, D, rng), None
        if what.workload == "needles":
            early = directions(rng, x)
        return Stream.of(x, rng, xp, early=early), rng
    stack = real()
    layers, heads = stack.q.shape[:2]
    number = int(run.rng("heads").permutation(layers * heads)[replicate])
    one = stack.head(number // heads, number % heads)
    q, k, v = (a.astype(np.float32) for a in (one.q, one.k, one.v))
    x = Instance(q, k, v, scale=one.scale, source=one.source)
    return Stream.of(x, rng, xp), rng


def directions(rng: np.random.Generator, x: Instance) -> np.ndarray:
    """As many queries as `x` has, of random directions and norm QUERY_NORM."""
    q = rng.standard_normal(x.q.shape)
    return (q * (QUERY_NORM / np.linalg.norm(q, axis=1, keepdims=True))).astype(x.q.dtype)


# ----------------------------------------------------------------------------------------------------- bytes to budgets
def row_bytes(x: Instance) -> int:
    """Bytes of a token's key and value."""
    return int((x.k.shape[1] + x.v.shape[1]) * x.k.dtype.itemsize)


def subgen_within(
    nbytes: int,
    x: Instance,
    rng: np.random.Generator,
    *,
    window: float = 0.0,
    samples: int = CLUSTER_SAMPLES,
    slots: float = 0.5,
) -> SubGenCache:
    """SubGen in `nbytes`: share `window` for the last tokens, share `slots` of the rest for slots, then clusters.

    delta doubles from a 64th of the first key's norm until the clusters fit. ValueError if not even one does.
    """
    d, d_v = x.k.shape[1], x.v.shape[1]
    row = row_bytes(x)
    recent = int(window * nbytes) // row
    size = max(1, int(slots * (nbytes - recent * row)) // (row + 8))
    return SubGenCache.within(
        nbytes, d, d_v, delta=first_delta(x), cluster_samples=samples, value_samples=size, recent=recent,
        dtype=x.k.dtype, rng=rng,
    )  # fmt: skip


def subgen_told(
    nbytes: int, x: Instance, rng: np.random.Generator, *, samples: int = CLUSTER_SAMPLES, slots: float = 0.5
) -> SubGenCache:
    """`subgen_within` without a window, told by `filling_delta` the delta that fills its bytes."""
    found = subgen_within(nbytes, x, rng, samples=samples, slots=slots)
    return SubGenCache(filling_delta(x, found.max_clusters or 1), samples, found.value_samples, rng=rng)


def first_delta(x: Instance) -> float:
    """A 64th of the first key's norm."""
    return float(np.linalg.norm(asnumpy(x.k[0]).astype(np.float64))) / 64


def filling_delta(x: Instance, most: int) -> float:
    """The delta at which the whole stream has at most so many clusters: of 16 powers between a 64th of the first key's
    norm and four times that norm the least one, found by bisection."""
    grid = np.geomspace(1, 256, 16) * first_delta(x)
    xp, low, high = namespace(x.k), 0, len(grid) - 1
    while low < high:
        middle = (low + high) // 2
        fits = len(OnlineClusters(float(grid[middle]), x.k[:0]).absorb(xp, x.k, maximum=most)) == len(x.k)
        low, high = (low, middle) if fits else (middle + 1, high)
    return float(grid[low])


def competing(nbytes: int, x: Instance, rng: np.random.Generator) -> dict[str, KVCache]:
    """An empty cache of every method that may hold `nbytes`, those with settings in hindsight among them."""
    offline: dict[str, KVCache] = {}
    for samples, slots in SETTINGS:
        with suppress(ValueError):  # too many samples for a single cluster
            offline[f"{HINDSIGHT} {samples}"] = subgen_told(nbytes, x, rng, samples=samples, slots=slots)
    return {**offline, **competing_online(nbytes, x, rng)}


def competing_online(nbytes: int, x: Instance, rng: np.random.Generator) -> dict[str, KVCache]:
    """An empty cache of every method that is told nothing of the stream but its first token: `x` may have just that.

    Half of the tokens are the last ones where there is a window, all but SINKS of them in `SinkCache`.
    """
    row = row_bytes(x)
    tokens, marked = nbytes // row, nbytes // (row + 8)  # reservoirs hold 8 bytes more per token
    return {
        "subgen": subgen_within(nbytes, x, rng),
        WINDOW: subgen_within(nbytes, x, rng, window=0.5),
        "sinks": SinkCache(tokens - SINKS, SINKS),
        "heavy hitters": HeavyHitterCache(*heavy(nbytes, x)),
        "uniform": ReservoirCache(marked, rng=rng),
        "value-norm": ReservoirCache(marked, "value-norm", rng=rng),
        "k-center": KCenterCache(tokens, tokens // 2),
    }


def heavy(nbytes: int, x: Instance) -> tuple[int, int]:
    """Budget and window of heavy hitters: 8 bytes of score per token, half of them the last ones."""
    tokens = nbytes // (row_bytes(x) + 8)
    return tokens, tokens // 2


def feed(cache: KVCache, stream: Stream, nbytes: int) -> KVCache:
    """The cache after the stream; ValueError if it holds more than `nbytes`.

    The k-center is offline, as the experiments of [SG24] were: it gets all tokens at once. Heavy hitters get chunks of
    a quarter of their budget, so that every token stays for a chunk's queries at least. All others are the same to the
    bit for any chunks, and whether queries come or not.
    """
    match cache:
        case KCenterCache():
            stream.feed(cache, len(stream.x.k))
        case HeavyHitterCache():
            stream.feed(cache, max(1, cache.recent // 2), ask=True)
        case _:
            stream.feed(cache, CHUNK)
    if cache.nbytes > nbytes:
        raise ValueError(f"{type(cache).__name__} must hold at most {nbytes} bytes, it holds {cache.nbytes}")
    return cache
