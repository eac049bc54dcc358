"""The caches that are compared at equal bytes, and the streams that all of them read.

A new cache is one row of `REGISTRY`: its name in tables, its label and colour in figures, and a function that makes one
of at most so many bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ...core.backends import asnumpy, cut, namespace, to_device
from ...core.exact import attention
from ...methods.balancekv.balancekv import BalanceKVCache
from ...methods.balancekv.buckets import BucketedBalanceKVCache
from ...methods.caches.base import KVCache
from ...methods.caches.heavy_hitter import HeavyHitterCache
from ...methods.caches.k_center import KCenterCache
from ...methods.caches.reservoir import ReservoirCache, Weights
from ...methods.caches.sink import SINKS, SinkCache
from ...methods.subgen.laws import Law
from ...methods.subgen.subgen import SubGenCache
from ...plots.style import register, variant
from ...primitives.clustering import OnlineClusters
from ..run import Run
from ..workloads import real
from ..workloads.inputs import REAL, Input
from ..workloads.instance import Instance

D = 64
"""Width of the keys and values of synthetic streams."""
CHUNK = 1024
"""Tokens per update, where it changes nothing but the time."""
QUERIES = 128
"""Number of queries per stream that are held out: errors are those of their answers."""
QUERY_NORM = 5.0
CLUSTER_SAMPLES = 4
"""SubGen's samples per cluster."""


# ------------------------------------------------------------------------------------------------------------- a stream
@dataclass(frozen=True)
class Stream:
    """Tokens in their order, queries that come between them, and held-out queries with their exact answers.

    Attributes
    ----------
    x : Instance
    early : array (n, d)
        Queries that come between the tokens: row i after token i.
    asked : ndarray of bool (n,)
        Which rows of `early` are asked: not those held out.
    late : array (QUERIES, d)
        The held-out queries.
    exact : ndarray (QUERIES, d_v)
        Their exact attention in float64.
    unit : ndarray (QUERIES,)
        `||softmax(K q)||_2 ||V||` for each of them: the theorem's norm.
    """

    x: Instance
    early: Any
    asked: np.ndarray
    late: Any
    exact: np.ndarray
    unit: np.ndarray

    @classmethod
    def of(cls, x: Instance, rng: np.random.Generator, xp: Any, *, early: np.ndarray | None = None) -> Stream:
        """Hold QUERIES random queries of `x` out; `early` (n, d) replaces the others."""
        n = len(x.q)
        held_out = np.sort(rng.permutation(n)[: min(QUERIES, n // 2)])
        asked = np.ones(n, bool)
        asked[held_out] = early is not None
        x = x.to(xp)
        late = x.q[to_device(held_out, xp)]
        return cls.over(x, early=x.q if early is None else to_device(early, xp), asked=asked, late=late)

    @classmethod
    def over(cls, x: Instance, *, early: Any, asked: np.ndarray, late: Any) -> Stream:
        """Compute the exact answers to `late`, and their unit."""
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
        for part in cut(len(self.x.k), rows):
            cache.update(self.x.k[part], self.x.v[part], check_finite=False)
            if ask and self.asked[part].any():
                queries = self.early[part][to_device(np.flatnonzero(self.asked[part]), namespace(self.early))]
                cache.attend(queries, scale=self.x.scale, check_finite=False)
        return cache

    def errors(self, out: Any) -> tuple[float, float]:
        """Mean over queries of `||out - Attn||_2 / (||softmax(Kq)||_2 ||V||)`, and `||out - Attn||_F / ||Attn||_F`.

        An answer of 0 where that is right has error 0, also if all values are 0. One that overflowed has error inf.
        """
        gap = asnumpy(out).astype(np.float64) - self.exact
        if not np.isfinite(gap).all():
            return np.inf, np.inf
        in_unit = _over(np.linalg.norm(gap, axis=1), self.unit)
        return float(in_unit.mean()), float(_over(np.linalg.norm(gap), np.linalg.norm(self.exact)))


def _over(gap: Any, size: Any) -> Any:
    """`gap / size`, where nothing over nothing is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(gap == 0, 0.0, gap / size)


def drawn(what: Input, n: int, replicate: int, run: Run) -> tuple[Stream, np.random.Generator]:
    """A fresh stream of an input, and its generator for further draws. For "real" another head for every replicate.

    No query before the end looks for a needle: the earlier ones have random directions and norm QUERY_NORM.
    """
    xp, rng = run.xp, run.rng("caches", what.label, n, replicate)
    if what != REAL:
        x, early = what.draw(n, run.given("d", D), rng), None
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


# ------------------------------------------------------------------------------------------------- from bytes to caches
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
    """SubGen in `nbytes`: the fraction `window` for the last tokens, `slots` of the rest for slots, then clusters.

    delta doubles from a 64th of the first key's norm until the clusters fit. ValueError if not even one does.
    """
    d, d_v = x.k.shape[1], x.v.shape[1]
    row = row_bytes(x)
    recent = int(window * nbytes) // row
    size = max(1, int(slots * (nbytes - recent * row)) // (row + 8))
    sizes = {"cluster_samples": samples, "value_samples": size, "recent": recent}
    return SubGenCache.within(nbytes, d, d_v, delta=first_delta(x), **sizes, dtype=x.k.dtype, rng=rng)


def subgen_hindsight(
    nbytes: int, x: Instance, rng: np.random.Generator, *, samples: int = CLUSTER_SAMPLES, slots: float = 0.5
) -> SubGenCache:
    """`subgen_within` without a window, but with the delta that fills its bytes from the beginning."""
    doubling = subgen_within(nbytes, x, rng, samples=samples, slots=slots)
    return SubGenCache(filling_delta(x, doubling.max_clusters or 1), samples, doubling.value_samples, rng=rng)


def self_normalised(nbytes: int, x: Instance, rng: np.random.Generator, *, law: Law) -> SubGenCache:
    """SubGen without clusters: slots alone, for both sums. 8 bytes per slot, and where it has a weight 8 more."""
    weighted = law in ("centred", "distance")
    fixed, each = (8 * x.v.shape[1], row_bytes(x) + 16) if weighted else (0, row_bytes(x) + 8)
    return SubGenCache(value_samples=(nbytes - fixed) // each, normaliser="slots", law=law, rng=rng)


def first_delta(x: Instance) -> float:
    """A 64th of the norm of the first key that is not 0, as keys of padding are; if all are, any delta will do."""
    norms = np.linalg.norm(asnumpy(x.k).astype(np.float64), axis=1)
    return float(norms[np.flatnonzero(norms)[0]] if norms.any() else 1.0) / 64


def filling_delta(x: Instance, maximum: int) -> float:
    """The delta at which the whole stream has at most `maximum` clusters.

    Of 16 powers between a 64th of the first key's norm and four times that norm it is the least, found by bisection.
    """
    grid = np.geomspace(1, 256, 16) * first_delta(x)
    xp, low, high = namespace(x.k), 0, len(grid) - 1
    while low < high:
        middle = (low + high) // 2
        fits = len(OnlineClusters(float(grid[middle]), x.k[:0]).absorb(xp, x.k, maximum=maximum)) == len(x.k)
        low, high = (low, middle) if fits else (middle + 1, high)
    return float(grid[low])


def heavy_hitters(nbytes: int, x: Instance, _: np.random.Generator) -> HeavyHitterCache:
    """Heavy hitters: 8 bytes of score per token, and half of the tokens the last ones."""
    tokens = nbytes // (row_bytes(x) + 8)
    return HeavyHitterCache(tokens, tokens // 2)


def _sinks(nbytes: int, x: Instance, _: np.random.Generator) -> SinkCache:
    return SinkCache(nbytes // row_bytes(x) - SINKS, SINKS)


def _reservoir(nbytes: int, x: Instance, rng: np.random.Generator, *, weights: Weights) -> ReservoirCache:
    return ReservoirCache(nbytes // (row_bytes(x) + 8), weights, rng=rng)  # 8 bytes of priority per token


def _k_center(nbytes: int, x: Instance, _: np.random.Generator) -> KCenterCache:
    tokens = nbytes // row_bytes(x)
    return KCenterCache(tokens, tokens // 2)


def _balanced(nbytes: int, x: Instance, rng: np.random.Generator, *, pairs: bool = False) -> BalanceKVCache:
    d, d_v = x.k.shape[1], x.v.shape[1]
    return BalanceKVCache.within(nbytes, d, d_v, dtype=x.k.dtype, pairs=pairs, scale=x.scale, rng=rng)


def bucketed(nbytes: int, x: Instance, rng: np.random.Generator) -> BucketedBalanceKVCache:
    """BalanceKV with buckets in `nbytes`: room for as many classes as levels, `log2(t)`.

    What is erased is then shorter than 1/t of the longest value, and 1/t is the order of the halves' own error. A class
    takes its room only when values of its norm come: the cache may hold far less than its bytes.
    """
    d, d_v, seed = x.k.shape[1], x.v.shape[1], int(rng.integers(2**63))

    def of(buckets: int) -> BucketedBalanceKVCache:
        options: dict[str, Any] = {"buckets": buckets, "scale": x.scale, "rng": seed}
        return BucketedBalanceKVCache.within(nbytes, d, d_v, dtype=x.k.dtype, **options)

    cache = of(1)
    with suppress(ValueError):  # too few bytes for one class more
        while (more := of(cache.buckets + 1)).buckets <= (more.levels or 0):
            cache = more
    return cache


Within = Callable[[int, Instance, np.random.Generator], KVCache]
"""Makes an empty cache of at most so many bytes."""


def apart(within: Within) -> Within:
    """With a generator of its own: the contenders that draw from the common one have the draws they had before."""
    return lambda nbytes, x, rng: within(nbytes, x, rng.spawn(1)[0])


# --------------------------------------------------------------------------------------------------------- the registry
@dataclass(frozen=True)
class Contender:
    """A cache of the comparison.

    Attributes
    ----------
    within : function of (nbytes, Instance, Generator)
        Makes an empty cache that will store at most `nbytes`; ValueError if there is none. Of the instance it reads no
        more than shapes and the first token, unless the contender is one in `hindsight`.
    label : str
        In figures; none for a method that `plots.style` has registered, and for settings that are not drawn.
    of : str, optional
        The method whose other settings these are: drawn in its colour.
    look : str
        A key of `plots.style.LOOKS`, or with `of` the line style.
    hindsight : bool
        Whether its settings are chosen with the whole stream known: `HINDSIGHT` is the best of these.
    rows : function of (cache, n)
        Tokens per update. For most caches the state is the same to the bit whatever the chunks.
    asks : bool
        Whether the cache learns from the queries between the tokens.
    guarantee, claim : str
        What is proved of it, and the id of the claim that says so; empty where there is none.
    """

    within: Within
    label: str = ""
    look: str = ""
    of: str = ""
    hindsight: bool = False
    rows: Callable[[Any, int], int] = lambda cache, n: CHUNK
    asks: bool = False
    guarantee: str = ""
    claim: str = ""


HINDSIGHT, TOLD, WINDOW = "subgen, hindsight", "subgen, delta told", "subgen, window"
REGISTRY: dict[str, Contender] = {
    "subgen, t = 1": Contender(partial(subgen_hindsight, samples=1, slots=0.875), of="subgen", hindsight=True),
    TOLD: Contender(subgen_hindsight, r"SubGen, given $\delta$", "--", of="subgen", hindsight=True),
    "subgen, t = 16": Contender(partial(subgen_hindsight, samples=16), of="subgen", hindsight=True),
    "subgen": Contender(subgen_within, "SubGen", "magenta", guarantee="SG24, Theorem 1", claim="sg24.theorem"),
    WINDOW: Contender(partial(subgen_within, window=0.5), "SubGen, half a window", ":", of="subgen"),
    "sinks": Contender(_sinks, "sinks and window", "green"),
    # A chunk of a quarter of the budget: every token stays for the queries of one chunk at least.
    "heavy hitters": Contender(
        heavy_hitters, "heavy hitters (H2O)", "olive", rows=lambda cache, n: max(1, cache.recent // 2), asks=True
    ),
    "uniform": Contender(
        partial(_reservoir, weights="uniform"), guarantee="every set of tokens alike", claim="vit85.subsets"
    ),
    "value-norm": Contender(
        partial(_reservoir, weights="value-norm"), "value-norm reservoir", "cyan",
        guarantee="slots by squared value norm", claim="sg24.slot-law",
    ),
    # Offline, as the experiments of [SG24] were: it gets all tokens at once.
    "k-center": Contender(
        _k_center, "offline k-center", "indigo", rows=lambda cache, n: n,
        guarantee="keys within twice the least radius", claim="gon85.radius",
    ),
    # Of the self-normalised ones, that with the paper's law is "value-norm", and the uniform law is "uniform" with
    # replacement.
    "self-normalised": Contender(
        partial(self_normalised, law="distance"), "SubGen, self-normalised", "teal",
        guarantee="slots by distance from the mean value", claim="sg24.law-slots",
    ),
    "self-normalised, centred": Contender(
        partial(self_normalised, law="centred"), "SubGen, self-normalised, centred", "--",
        of="self-normalised", guarantee="slots by squared distance from it", claim="sg24.law-slots",
    ),
    "balancekv": Contender(
        _balanced, "BalanceKV", "rose", guarantee="an error like 1/t in batches of t", claim="bkv25.batch"
    ),
    "balancekv, pairs": Contender(
        partial(_balanced, pairs=True), "BalanceKV of pairs", ":",
        of="balancekv", guarantee="unbiased sums", claim="bkv25.pairs-unbiased",
    ),
    "value-norm, once": Contender(
        apart(partial(_reservoir, weights="priority")), "value-norm, without replacement", "--",
        of="value-norm", guarantee="ahead of as many slots where few values are long", claim="dlt07.slots",
    ),
    "balancekv, buckets": Contender(
        apart(bucketed), "BalanceKV with buckets", "--",
        of="balancekv", guarantee="BKV25, Theorem 3.1 (its rate: of pairs)", claim="bkv25.buckets-batch",
    ),
}  # fmt: skip
"""The caches by name. Their random ones take their seeds from one generator in this order, but for those `apart`."""

for _name, _row in sorted(REGISTRY.items(), key=lambda row: bool(row[1].of)):  # a method before its variants
    if _row.label and _row.of:
        variant(_name, _row.label, of=_row.of, linestyle=_row.look)
    elif _row.label:
        register(_name, _row.label, _row.look)
register("streaming state", "streaming state", "maroon")
variant(HINDSIGHT, "SubGen, best settings in hindsight", of="subgen", linestyle="--")


def competing(nbytes: int, x: Instance, rng: np.random.Generator, *, hindsight: bool = False) -> dict[str, KVCache]:
    """An empty cache of every contender that can store at most `nbytes`, by name.

    Without `hindsight`, `x` may have no more than its first token.
    """
    caches: dict[str, KVCache] = {}
    for name, contender in REGISTRY.items():
        if not contender.hindsight:
            caches[name] = contender.within(nbytes, x, rng)
        elif hindsight:
            with suppress(ValueError):  # too many samples for a single cluster
                caches[name] = contender.within(nbytes, x, rng)
    return caches


def feed(name: str, cache: KVCache, stream: Stream, nbytes: int) -> KVCache:
    """The contender's cache after the stream; ValueError if it stores more than `nbytes`."""
    contender = REGISTRY[name]
    stream.feed(cache, contender.rows(cache, len(stream.x.k)), ask=contender.asks)
    if cache.nbytes > nbytes:
        raise ValueError(f"{type(cache).__name__} must hold at most {nbytes} bytes, it holds {cache.nbytes}")
    return cache
