"""What a decoder's layers attend with: exact, another method layer by layer, or key-value caches.

An `Attend` takes the layer's number and q (b, heads, n, d), k, v (b, kv_heads, n, d), and returns outputs shaped like
q. Head h reads keys of head `h // (heads / kv_heads)`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..core import backends
from ..core.backends import Array
from ..core.exact import attention
from ..methods.caches.base import KVCache
from ..methods.caches.caches import HeavyHitterCache

Attend = Callable[[int, Array, Array, Array], Array]
Method = Callable[[Array, Array, Array], Array]
"""Causal attention of q, k, v of one shape (b, heads, n, d), such as `functools.partial(attention, causal=True)`."""


def per_query_head(xp: Any, q: Array, x: Array) -> Array:
    """Keys or values (b, kv_heads, n, d), once for each head of q."""
    group = q.shape[1] // x.shape[1]
    return x if group == 1 else xp.repeat(x, group, axis=1)


def causal(layer: int, q: Array, k: Array, v: Array) -> Array:
    """Exact causal attention over the tokens given."""
    xp = backends.namespace(q)
    return attention(q, per_query_head(xp, q, k), per_query_head(xp, q, v), causal=True, check_finite=False)


def replacing(methods: Mapping[int, Method]) -> Attend:
    """Exact causal attention but in the layers that `methods` names."""

    def attend(layer: int, q: Array, k: Array, v: Array) -> Array:
        if layer not in methods:
            return causal(layer, q, k, v)
        xp = backends.namespace(q)
        return methods[layer](q, per_query_head(xp, q, k), per_query_head(xp, q, v))

    return attend


class CachedAttention:
    """Attention of a text that goes on, with one cache per layer.

    The first call is the prompt: it is attended to exactly, and the caches absorb its keys and values. Later calls are
    decoding: token by token, the cache takes the key and value and answers the query, so that the cache alone decides
    what is seen of the past. `HeavyHitterCache` chooses by what queries look at, so it is shown the prompt's queries,
    at most `SCORED` tokens at a time; the scores count what a query would give to later tokens of its chunk, too.

    Parameters
    ----------
    caches : sequence of cache
        Empty ones, one per layer.
    """

    SCORED = 32

    def __init__(self, caches: Sequence[KVCache]) -> None:
        self.caches = caches

    @property
    def nbytes(self) -> int:
        """Bytes that all caches hold."""
        return sum(cache.nbytes for cache in self.caches)

    def __call__(self, layer: int, q: Array, k: Array, v: Array) -> Array:
        cache, n = self.caches[layer], q.shape[2]
        if cache.tokens_seen:
            steps = [self._step(cache, *(x[:, :, i : i + 1] for x in (q, k, v))) for i in range(n)]
            return backends.namespace(q).concatenate(steps, axis=2)
        self.absorb(layer, q, k, v)
        return causal(layer, q, k, v)

    def absorb(self, layer: int, q: Array, k: Array, v: Array) -> None:
        """Show a prompt to the layer's cache; nothing is answered."""
        cache = self.caches[layer]
        if not isinstance(cache, HeavyHitterCache):
            cache.update(k, v, check_finite=False)
            return
        step = min(self.SCORED, max(1, cache.recent // 2))  # every token stays for a chunk's queries at least
        for rows in (slice(i, i + step) for i in range(0, q.shape[2], step)):
            cache.update(k[:, :, rows], v[:, :, rows], check_finite=False)
            cache.attend(grouped(q[:, :, rows], k.shape[1]), check_finite=False)

    def _step(self, cache: KVCache, q: Array, k: Array, v: Array) -> Array:
        cache.update(k, v, check_finite=False)
        return cache.attend(grouped(q, k.shape[1]), check_finite=False).reshape(q.shape)


def grouped(q: Array, kv_heads: int) -> Array:
    """Queries (b, heads, n, d) as rows of the heads of keys that they read: (b, kv_heads, group * n, d)."""
    b, heads, n, d = q.shape
    return q.reshape(b, kv_heads, heads // kv_heads * n, d)
