"""The cache that stores the first tokens of a stream (attention sinks) and the last ones.

Source: Xiao, Tian, Chen, Han, Lewis, *Efficient Streaming Language Models with Attention Sinks*, arXiv 2309.17453
[SINK24].

Cost: a new token costs `O(d + d_v)`.

Differs from the paper: there a token's position is its place within the cache. Here keys come as they are, rotated by
their position or not.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...core import backends, checks
from ...core.backends import Array
from ...primitives.growing import with_room
from .base import KVCache, softmax_over

SINKS = 4
"""First tokens that are stored by default, as in [SINK24]."""


class SinkCache(KVCache):
    """The first tokens and the last ones [SINK24].

    Parameters
    ----------
    window : int
        Last tokens stored, beside the sinks.
    sinks : int
        First tokens stored.

    Notes
    -----
    Exact up to `sinks + window` tokens. It has no `merge`: the first tokens of a stream that goes on with this one are
    not the sinks of the whole stream.

    Examples
    --------
    >>> import numpy as np
    >>> from sublinattn import SinkCache, attention
    >>> q, k, v = np.random.default_rng(0).standard_normal((3, 100, 8))
    >>> cache = SinkCache(window=28, sinks=4).update(k, v)
    >>> kept = [*range(4), *range(72, 100)]
    >>> np.allclose(cache.attend(q), attention(q, k[kept], v[kept]))
    True
    """

    PARAMETERS = ("window", "sinks")

    def __init__(self, window: int, sinks: int = SINKS) -> None:
        super().__init__()
        self.window = checks.integer("window", window, minimum=1)
        self.sinks = checks.integer("sinks", sinks, minimum=0)

    def _absorb(self, xp: Any, k: Array, v: Array) -> None:
        seen, total, budget = self.tokens_seen, self.tokens_seen + k.shape[1], self.sinks + self.window
        token = np.arange(seen, total)
        token = token[(token < self.sinks) | (token >= total - self.window)]
        # Behind the sinks the slots are a ring: a token takes the slot of the one `window` tokens before it.
        slot = np.where(token < self.sinks, token, self.sinks + (token - self.sinks) % self.window)
        rows, slot = (backends.to_device(x, xp) for x in (token - seen, slot))
        for name, x in (("keys", k), ("values", v)):
            stored = self._stored.get(name)
            self._stored[name] = with_room(xp, stored, min(seen, budget), min(total, budget), x, budget)
            self._stored[name][:, slot] = x[:, rows]

    def _attend(self, xp: Any, q: Array, scale: float) -> Array:
        return softmax_over(xp, self._stored, min(self.tokens_seen, self.sinks + self.window), q, scale).output()
