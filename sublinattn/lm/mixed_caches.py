"""Decoding after a prompt that caches have compressed, of different kinds for the key heads of one layer.

A window of tokens is answered at once: each query sees of the prompt what the cache of its key head keeps, and of the
window, exactly, the tokens up to its own. The two partial results merge by their normalisers [RS21]. Token by token the
caches would go on evicting; here they are what the prompt left.

`AfterPrompt` reads a window beside caches that are filled already; `PromptCached` fills them, and decodes on and on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..core import backends, checks
from ..core.backends import Array
from ..core.exact import Partial, partial_attention
from ..methods.balancekv.buckets import BucketedBalanceKVCache
from ..methods.caches.base import KVCache, softmax_weighted
from ..methods.caches.exact import ExactCache, ZeroCache
from ..methods.caches.reservoir import ReservoirCache
from ..methods.subgen.subgen import SubGenCache
from .attend import CachedAttention, grouped


class Kept:
    """What a cache with a leading axis of key heads kept of its prompt, to be merged with what comes after.

    Parameters
    ----------
    cache : cache
        After the prompt, with one leading axis. Any that stores keys and values; a sample's tokens count as often as
        makes the sums unbiased, those of BalanceKV by their level. SubGen answers by its two sums; BalanceKV's buckets
        have a normaliser of their own, which weighs their answer.

    Raises
    ------
    TypeError
        A cache whose answers cannot be merged.
    """

    def __init__(self, cache: KVCache) -> None:
        self.cache, self._log_weights, stored = cache, None, cache.contents()
        self._dtypes = [x.dtype for name, x in stored.items() if name.endswith("keys")]
        if isinstance(cache, (SubGenCache, BucketedBalanceKVCache, ZeroCache)):
            if isinstance(cache, SubGenCache) and cache.recent:
                raise TypeError("a SubGenCache with a recent window cannot be merged with later tokens")
            return
        if not {"keys", "values"} <= set(stored):
            raise TypeError(f"{type(cache).__name__} keeps no keys and values to be merged with later tokens")
        self._keys, self._values = stored["keys"], stored["values"]
        if isinstance(cache, ReservoirCache):
            self._log_weights = cache.log_counts()
        elif "log_weights" in stored:  # halves of halves, among them empty slots of weight 0
            self._log_weights = stored["log_weights"]

    def partial(self, rows: Sequence[int], q: Array, scale: float) -> Partial:
        """Softmax sums of queries (rows, c, d) of the key heads `rows` over what these kept, in its dtype."""
        xp = backends.namespace(q)
        q = q.astype(self._dtypes[0], copy=False) if self._dtypes else backends.widened(q)
        if isinstance(self.cache, ZeroCache):
            return Partial.empty(xp, q.shape[:2], q.shape[2], q.dtype)
        if isinstance(self.cache, (SubGenCache, BucketedBalanceKVCache)):
            return self.cache.partial(xp, rows, q, scale)
        index = backends.to_device(np.asarray(rows), xp)
        k, v = self._keys[index], self._values[index]
        if self._log_weights is None:
            return partial_attention(q, k, v, scale=scale, check_finite=False)
        return softmax_weighted(xp, q, k, v, self._log_weights[index], scale)


@dataclass(frozen=True)
class Share:
    """Key heads of one layer whose caches are of one kind: their numbers in the layer, and their rows in `kept`."""

    heads: Sequence[int]
    kept: Kept
    rows: Sequence[int]


class AfterPrompt:
    """An `Attend` for the tokens after a prompt: layer i sees of it what `layers[i]` keeps. Causal among themselves.

    Parameters
    ----------
    layers : sequence of sequences of Share
        Per layer, every key head in one of them.
    """

    def __init__(self, layers: Sequence[Sequence[Share]]) -> None:
        self.layers = layers

    def __call__(self, layer: int, q: Array, k: Array, v: Array) -> Array:
        xp, (_, heads, t, d), kv_heads = backends.namespace(q), q.shape, k.shape[1]
        by_key_head, scale = (kv_heads, heads // kv_heads, t), d**-0.5
        grouped = q.reshape(*by_key_head, d)
        own = partial_attention(q[0], k[0], v[0], causal=True, scale=scale, grouped=True, check_finite=False)
        whole = Partial(own.m.reshape(by_key_head), own.l.reshape(by_key_head), own.o.reshape(*by_key_head, -1))
        for share in self.layers[layer]:
            at = backends.to_device(np.asarray(share.heads), xp)
            past = share.kept.partial(share.rows, grouped[at].reshape(len(share.heads), -1, d), scale)
            mine = Partial(whole.m[at], whole.l[at], whole.o[at])
            shape = mine.m.shape
            mine.merge(Partial(past.m.reshape(shape), past.l.reshape(shape), past.o.reshape(*shape, -1)))
            whole.m[at], whole.l[at], whole.o[at] = mine.m, mine.l, mine.o
        return whole.output().reshape(q.shape)


class PromptCached(CachedAttention):
    """Decoding with one key-value cache per layer, which absorbs the prompt alone: later tokens are kept exactly.

    Of the prompt a query sees what the cache kept, of later tokens all. TypeError after the prompt if a cache's answers
    cannot be merged with theirs.
    """

    def __init__(self, caches: Sequence[KVCache]) -> None:
        super().__init__(caches)
        self._kept: dict[int, Kept] = {}
        self._later = [ExactCache() for _ in caches]

    @property
    def nbytes(self) -> int:
        """Bytes of all caches, and of the later tokens."""
        return super().nbytes + sum(later.nbytes for later in self._later)

    def __call__(self, layer: int, q: Array, k: Array, v: Array) -> Array:
        if layer not in self._kept:
            out = super().__call__(layer, q, k, v)
            self._kept[layer] = Kept(self.caches[layer])
            return out
        later, steps, scale = self._later[layer], [], q.shape[-1] ** -0.5
        for i in (slice(i, i + 1) for i in range(q.shape[2])):
            later.update(k[:, :, i], v[:, :, i], check_finite=False)
            rows = grouped(q[:, :, i], k.shape[1])
            rows = rows.reshape(-1, *rows.shape[2:])  # of the heads of all texts
            stored = later.contents()
            wide = rows.astype(stored["keys"].dtype, copy=False)
            p = partial_attention(wide, stored["keys"], stored["values"], scale=scale, check_finite=False)
            p.merge(self._kept[layer].partial(range(len(rows)), rows, scale))
            steps.append(p.output().astype(q.dtype).reshape(q[:, :, i].shape))
        xp = backends.namespace(q)
        out = xp.concatenate(steps, axis=2)
        checks.representable(xp, out, q, k, v, name="an answer after the prompt")
        return out
