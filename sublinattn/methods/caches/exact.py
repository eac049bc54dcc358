"""The two ends of every comparison: the cache of all tokens, and the one that answers 0."""

from __future__ import annotations

from typing import Any

from ...core.backends import Array
from ...primitives.growing import with_room
from .base import MergingCache, softmax_over


class ExactCache(MergingCache):
    """Stores all tokens: exact attention, the yardstick of memory and time.

    A token costs O(d + d_v), amortised; there is room for at most an eighth more tokens than have come. Merged, it is
    the cache of both streams.

    Examples
    --------
    >>> import numpy as np
    >>> from sublinattn import ExactCache, attention
    >>> q, k, v = np.random.default_rng(0).standard_normal((3, 100, 8))
    >>> cache = ExactCache().update(k[:60], v[:60]).update(k[60:], v[60:])
    >>> np.allclose(cache.attend(q), attention(q, k, v))
    True
    """

    def _absorb(self, xp: Any, k: Array, v: Array) -> None:
        seen, total = self.tokens_seen, self.tokens_seen + k.shape[1]
        for name, x in (("keys", k), ("values", v)):
            self._stored[name] = with_room(xp, self._stored.get(name), seen, total, x)
            self._stored[name][:, seen:total] = x

    def _attend(self, xp: Any, q: Array, scale: float) -> Array:
        return softmax_over(xp, self._stored, self.tokens_seen, q, scale).output()

    def _take(self, xp: Any, other: ExactCache, theirs: dict[str, Array]) -> None:
        self._absorb(xp, *(theirs[name][:, : other.tokens_seen] for name in ("keys", "values")))


class ZeroCache(MergingCache):
    """Stores nothing and answers 0: an error means little without the one that this has.

    Examples
    --------
    >>> import numpy as np
    >>> from sublinattn import ZeroCache
    >>> q, k, v = np.random.default_rng(0).standard_normal((3, 100, 8))
    >>> cache = ZeroCache().update(k, v)
    >>> bool(cache.attend(q).any()), cache.nbytes
    (False, 0)
    """

    def _absorb(self, xp: Any, k: Array, v: Array) -> None:
        pass

    def _attend(self, xp: Any, q: Array, scale: float) -> Array:
        return xp.zeros((*q.shape[:2], self._width["v"]), dtype=q.dtype)

    def _take(self, xp: Any, other: ZeroCache, theirs: dict[str, Array]) -> None:
        pass
