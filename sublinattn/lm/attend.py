"""Attention for the layers of a decoder: exact, replaced in some layers by another method, or over key-value caches.

An `Attend` takes the layer's number and q (b, heads, n, d), k, v (b, kv_heads, n, d), and returns outputs shaped like
q. Query head h reads the keys and values of head `h // (heads / kv_heads)`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from ..core import backends
from ..core.backends import Array
from ..core.exact import attention
from ..methods.caches.base import KVCache
from ..methods.caches.heavy_hitter import HeavyHitterCache

Attend = Callable[[int, Array, Array, Array], Array]
Method = Callable[[Array, Array, Array], Array]
"""Causal attention of q, k, v of one shape (b, heads, n, d), such as `functools.partial(attention, causal=True)`."""


def per_query_head(xp: Any, q: Array, x: Array) -> Array:
    """Keys or values (b, kv_heads, n, d) repeated for the heads of q: (b, heads, n, d)."""
    group = q.shape[1] // x.shape[1]
    return x if group == 1 else xp.repeat(x, group, axis=1)


def replacing(methods: Mapping[int, Method]) -> Attend:
    """Attend by `methods[layer]`, and by exact causal attention in the layers that `methods` does not name.

    A method gets keys and values repeated for each query head, which it may treat differently; exact attention reads
    them where they are.

    Examples
    --------
    >>> from functools import partial
    >>> from sublinattn import hyper_attention
    >>> from sublinattn.lab.models import open_model
    >>> from sublinattn.lm.attend import replacing
    >>> model = open_model()
    >>> method = partial(hyper_attention, causal=True, block_size=32, sample_size=32, min_exact=64, rng=0)
    >>> losses = model.decoder.losses(model.beginning(512), attend=replacing({3: method}))
    >>> losses.shape
    (511,)
    """
    exact = partial(attention, causal=True, grouped=True, check_finite=False)

    def attend(layer: int, q: Array, k: Array, v: Array) -> Array:
        if layer not in methods:
            return exact(q, k, v)
        xp = backends.namespace(q)
        return methods[layer](q, per_query_head(xp, q, k), per_query_head(xp, q, v))

    return attend


causal: Attend = replacing({})
"""Exact causal attention in every layer."""


class CachedAttention:
    """Decoding with one key-value cache per layer.

    The first call is the prompt: its attention is exact, and the caches absorb its keys and values. Later calls decode
    token by token: the cache absorbs the token's key and value and then answers its query, which sees of the past only
    what the cache stores. `HeavyHitterCache` selects tokens by the attention that queries give them; it therefore gets
    the prompt's queries as well, at most `SCORED` tokens at a time. Within such a chunk, its scores also count the
    attention that a query would give to later tokens.

    Parameters
    ----------
    caches : sequence of cache
        Empty caches, one per layer.

    Raises
    ------
    ValueError
        The same cache for several layers.

    Examples
    --------
    >>> from sublinattn import SinkCache
    >>> from sublinattn.lab.models import open_model
    >>> from sublinattn.lm.attend import CachedAttention
    >>> model = open_model()
    >>> tokens = model.beginning(80)
    >>> attend = CachedAttention([SinkCache(28) for _ in range(model.decoder.config.layers)])
    >>> logits = model.decoder.logits(tokens[:64], attend=attend)  # the prompt
    >>> logits = model.decoder.logits(tokens[64:], attend=attend, start=64)  # token by token, from the caches
    >>> logits.shape
    (16, 256)
    """

    SCORED = 32

    def __init__(self, caches: Sequence[KVCache]) -> None:
        if len({id(cache) for cache in caches}) < len(caches):
            raise ValueError("caches must be one for each layer, got the same cache for several")
        self.caches = caches

    @property
    def nbytes(self) -> int:
        """Bytes of all caches."""
        return sum(cache.nbytes for cache in self.caches)

    def __call__(self, layer: int, q: Array, k: Array, v: Array) -> Array:
        cache = self.caches[layer]
        if not cache.tokens_seen:
            self.absorb(layer, q, k, v)
            return causal(layer, q, k, v)
        steps = []
        for i in (slice(i, i + 1) for i in range(q.shape[2])):
            cache.update(k[:, :, i], v[:, :, i], check_finite=False)
            steps.append(cache.attend(grouped(q[:, :, i], k.shape[1]), check_finite=False).reshape(q[:, :, i].shape))
        return backends.namespace(q).concatenate(steps, axis=2)

    def absorb(self, layer: int, q: Array, k: Array, v: Array) -> None:
        """Absorb a prompt into the layer's cache without answering its queries."""
        cache = self.caches[layer]
        if not isinstance(cache, HeavyHitterCache):
            cache.update(k, v, check_finite=False)
            return
        step = min(self.SCORED, max(1, cache.recent // 2))  # no token is dropped before a chunk's queries saw it
        for rows in backends.cut(q.shape[2], step):
            cache.update(k[:, :, rows], v[:, :, rows], check_finite=False)
            cache.attend(grouped(q[:, :, rows], k.shape[1]), check_finite=False)


def grouped(q: Array, kv_heads: int) -> Array:
    """Queries (b, heads, n, d) by the head of keys that they read: (b, kv_heads, heads / kv_heads * n, d)."""
    b, heads, n, d = q.shape
    return q.reshape(b, kv_heads, heads // kv_heads * n, d)
