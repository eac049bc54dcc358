"""Small streams of tokens, the caches at small budgets, and what they hold: for the tests of `caches`."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import references

from sublinattn.core import backends
from sublinattn.methods.balancekv.balancekv import BalanceKVCache
from sublinattn.methods.balancekv.buckets import BucketedBalanceKVCache
from sublinattn.methods.caches.exact import ExactCache, ZeroCache
from sublinattn.methods.caches.heavy_hitter import HeavyHitterCache
from sublinattn.methods.caches.k_center import KCenterCache
from sublinattn.methods.caches.reservoir import ReservoirCache
from sublinattn.methods.caches.sink import SinkCache

D, D_V = 4, 3
BUDGET = 9

CACHES: dict[str, Callable[..., Any]] = {
    "exact": lambda budget=BUDGET, rng=0: ExactCache(),
    "sink": lambda budget=BUDGET, rng=0: SinkCache(budget - 2, 2),
    "heavy": lambda budget=BUDGET, rng=0: HeavyHitterCache(budget, budget // 3),
    "uniform": lambda budget=BUDGET, rng=0: ReservoirCache(budget, rng=rng),
    "value-norm": lambda budget=BUDGET, rng=0: ReservoirCache(budget, "value-norm", rng=rng),
    "priority": lambda budget=BUDGET, rng=0: ReservoirCache(budget, "priority", rng=rng),
    "k-center": lambda budget=BUDGET, rng=0: KCenterCache(budget, budget // 3),
    "balance": lambda budget=BUDGET, rng=0: BalanceKVCache(budget + budget % 2, rng=rng),
    "buckets": lambda budget=BUDGET, rng=0: BucketedBalanceKVCache(budget + budget % 2, rng=rng),
    "zero": lambda budget=BUDGET, rng=0: ZeroCache(),
}
"""Each at about `budget` tokens; the exact cache and zero have none."""


def stream(xp: Any, seed: int, n: int, *, n_q: int = 5, **options: Any) -> list[Any]:
    """Queries, keys and values; the values' norms differ widely."""
    q, k, v = references.qkv(seed, n_q, n, d=D, d_v=D_V, **options)
    v *= np.exp(np.random.default_rng(seed).standard_normal((*v.shape[:-1], 1))).astype(v.dtype)
    return [xp.asarray(x) for x in (q, k, v)]


def spans(cuts: list[int], n: int) -> Iterator[tuple[int, int]]:
    """Begin and end of the chunks that begin at 0 and at the cuts."""
    return itertools.pairwise([0, *cuts, n])


def feed(cache: Any, k: Any, v: Any, cuts: list[int]) -> Any:
    """All tokens, in chunks that begin at 0 and at the cuts."""
    for begin, end in spans(cuts, k.shape[-2]):
        cache.update(k[..., begin:end, :], v[..., begin:end, :])
    return cache


def tokens(cache: Any, k: Any, head: int = 0) -> list[int]:
    """Which tokens of the stream the slots of a head hold, in the order of the slots; empty ones are left out."""
    k = backends.asnumpy(k).reshape(-1, *k.shape[-2:])[head]
    slots = backends.asnumpy(cache.contents()["keys"])[head]
    return [int(np.flatnonzero((k == row).all(axis=1))[0]) for row in slots if row.any()]


def over(q: Any, k: Any, v: Any, kept: list[int], scale: float | None = None) -> np.ndarray:
    """Softmax attention of one problem over some of its tokens, by plain loops."""
    q, k, v = (backends.asnumpy(x) for x in (q, k, v))
    return references.attention(q, k[kept], v[kept], scale=scale)[0]


# --------------------------------------------------------------------------------------- what each should hold, plainly
def heavy_hitters(events: list[tuple[str, int]], q: Any, k: Any, budget: int, recent: int) -> tuple[dict, list]:
    """Scores of the tokens held after all events ("token" or "query", its number), and those held at each query."""
    scores: dict[int, float] = {}
    seen = []
    for kind, number in events:
        if kind == "token":
            scores[number] = 0.0
            if len(scores) > budget:
                protected = sorted(scores)[len(scores) - recent :]
                others = [token for token in sorted(scores) if token not in protected]
                del scores[min(others, key=lambda token: scores[token])]
        else:
            held = sorted(scores)
            seen.append(held)
            weights, _ = references.softmax_matrix(q[number][None], k[held], scale=1 / np.sqrt(k.shape[1]))
            for token, weight in zip(held, weights[0], strict=True):
                scores[token] += weight
    return scores, seen
