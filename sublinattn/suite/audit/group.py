"""The key heads of a model that an audit measures together, each with the query heads that read it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ...core.backends import Array, asnumpy, to_device
from ...core.exact import Partial, attention, partial_attention
from ...lab.workloads.instance import Captured, Instance
from ...lm.mixed_caches import Kept

QUERIES = 256
"""Number of last queries that are held out: at most this many, and at most a quarter of the text."""


@dataclass(frozen=True)
class Group:
    """Arrays of B key heads, each with the G query heads that read it, on the device.

    Attributes
    ----------
    places : sequence of (layer, key head)
    q : array (B, G, n, d)
    k, v : array (B, n, d), (B, n, d_v)
    scale : float
    queries : int
        The last queries, which are held out: no cache sees their tokens.
    """

    places: Sequence[tuple[int, int]]
    q: Array
    k: Array
    v: Array
    scale: float
    queries: int
    xp: Any

    @classmethod
    def load(cls, captured: Captured, places: Sequence[tuple[int, int]], queries: int, xp: Any) -> Group:
        """Read them from the file; ValueError for NaN and Inf."""
        size = captured.heads // captured.kv_heads
        q, k, v = captured.key_heads(places)
        for name, x in (("q", q), ("k", k), ("v", v)):
            if not np.isfinite(x).all():
                raise ValueError(f"{name} must be finite, got NaN or Inf")
        q, k, v = (to_device(x, xp) for x in (q, k, v))
        return cls(places, q.reshape(len(places), size, *q.shape[-2:]), k, v, captured.scale, queries, xp)

    @property
    def tokens(self) -> int:
        """Tokens of the prompt: those before the queries that are held out."""
        return int(self.k.shape[1]) - self.queries

    @property
    def shape(self) -> tuple[int, int]:
        """B and G."""
        return int(self.q.shape[0]), int(self.q.shape[1])

    @property
    def cache_bytes(self) -> int:
        """Bytes of an exact cache of one key head for the prompt."""
        return int(self.tokens * (self.k.shape[2] + self.v.shape[2]) * self.k.dtype.itemsize)

    @property
    def first(self) -> Instance:
        """The prompt of one key head, from which caches take widths, and SubGen its first delta: of the shortest first
        key, since delta only grows."""
        keys = asnumpy(self.k[:, 0])
        norms = np.linalg.norm(keys, axis=1)
        at = int(np.where(norms > 0, norms, np.inf).argmin())
        q, k, v = (asnumpy(x[at, : self.tokens]) for x in (self.q[:, 0], self.k, self.v))
        return Instance(q, k, v, scale=self.scale)

    @cached_property
    def prompt(self) -> tuple[Array, Array, Array]:
        """Queries (B, G, n', d), keys and values (B, n', ...) of the prompt."""
        n = self.tokens
        return self.q[:, :, :n], self.k[:, :n], self.v[:, :n]

    @cached_property
    def late(self) -> Array:
        """The held-out queries of all query heads of a key head, one after the other: (B, G * queries, d)."""
        b, g = self.shape
        return self.xp.ascontiguousarray(self.q[:, :, self.tokens :]).reshape(b, g * self.queries, -1)

    @cached_property
    def exact(self) -> tuple[Array, Array]:
        """Exact answers to `late` in float64, and the unit `||softmax(K q)||_2 ||V||` of each."""
        xp = self.xp
        q, k, v = (x.astype(np.float64) for x in (self.late, *self.prompt[1:]))
        out, lse = attention(q, k, v, scale=self.scale, return_lse=True)
        twice = attention(q, k, v, scale=2 * self.scale, return_lse=True)[1]
        largest = np.sqrt(np.linalg.eigvalsh(asnumpy(xp.matmul(v.swapaxes(1, 2), v)))[:, -1])
        return out, xp.exp(twice / 2 - lse) * to_device(largest, xp)[:, None]

    @cached_property
    def window(self) -> tuple[Partial, Array]:
        """Partials of the held-out queries over their own tokens, causal, and their exact answers from all tokens in
        float64, (B, G, queries, ...)."""
        xp, n = self.xp, self.tokens
        q, k, v = self.q[:, :, n:], *(xp.repeat(x[:, None, n:], self.shape[1], axis=1) for x in (self.k, self.v))
        own = partial_attention(q, k, v, causal=True, scale=self.scale, check_finite=False)
        whole = Partial(*(x.astype(np.float64) for x in (own.m, own.l, own.o)))
        q, k, v = (x.astype(np.float64) for x in (self.late, *self.prompt[1:]))
        past = partial_attention(q, k, v, scale=self.scale, check_finite=False)
        return own, whole.merge(self._by_query_head(past)).output()

    def decoded(self, kept: Kept) -> np.ndarray:
        """Relative error of every query head (B, G) when its queries see of the prompt what was kept, and of their own
        tokens all: as in decoding after the prompt."""
        own, truth = self.window
        whole = Partial(own.m.copy(), own.l.copy(), own.o.copy())
        past = kept.partial(range(len(self.places)), self.late, self.scale)
        gaps = whole.merge(self._by_query_head(past)).output() - truth
        gap, size = (asnumpy((x**2).sum(axis=(2, 3))) for x in (gaps, truth))
        with np.errstate(divide="ignore", invalid="ignore"):
            found = np.where(gap == 0, 0.0, np.sqrt(gap / size))
        return np.where(np.isfinite(found), found, np.inf)

    def _by_query_head(self, p: Partial) -> Partial:
        shape = (*self.shape, self.queries)
        return Partial(p.m.reshape(shape), p.l.reshape(shape), p.o.reshape(*shape, -1))

    def per_query_head(self, x: Array) -> Array:
        """Keys or values (B, n, ...) repeated for the query heads that read them: (B * G, n, ...)."""
        return self.xp.repeat(x, self.shape[1], axis=0)

    def errors(self, out: Array) -> tuple[np.ndarray, np.ndarray]:
        """Of answers (B, G * queries, d_v) to `late`, per query head (B, G): the mean error in the theorem's unit, and
        the relative one in the Frobenius norm. 0 where the answer is right, also if it is 0; inf where it overflowed;
        NaN where it is NaN.
        """
        (exact, unit), shape = self.exact, (*self.shape, self.queries)
        gaps = ((out.astype(np.float64) - exact) ** 2).sum(axis=-1).reshape(shape)
        sizes = (exact**2).sum(axis=-1).reshape(shape)
        gap, size, unit = (asnumpy(x) for x in (gaps, sizes, unit.reshape(shape)))
        with np.errstate(divide="ignore", invalid="ignore"):
            mean = np.where(gap == 0, 0.0, np.sqrt(gap) / unit).mean(axis=-1)
            total = gap.sum(axis=-1)
            relative = np.where(total == 0, 0.0, np.sqrt(total / size.sum(axis=-1)))
        broken = np.isinf(total)
        return np.where(broken, np.inf, mean), np.where(broken, np.inf, relative)
