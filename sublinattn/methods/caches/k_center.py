"""The cache that stores the tokens whose keys are the centers of a greedy k-center, and the last ones.

Source: greedy k-center [GON85] on the keys is what the experiments of Zandieh, Han, Mirrokni, Karbasi, arXiv 2402.06082
[SG24] ran in place of their streaming algorithm.

Cost: a chunk of c tokens costs `O((m + c) m d)`, m the budget.

Differs from the paper: there a prompt is clustered once. Here tokens may go on coming.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...core import backends
from ...core.backends import Array
from ...primitives.kcenter import each_greedy_k_center
from .base import KVCache, budget_and_recent, joined, picked, softmax_over


class KCenterCache(KVCache):
    """Tokens whose keys are the centers of a greedy k-center, and the last ones: what the experiments of [SG24] ran.

    An `update` with the whole prompt stores `budget - recent` centers [GON85] of the keys before the last `recent`. A
    later one clusters what is stored together with what leaves the window, so that the state depends on the chunks.

    Parameters
    ----------
    budget : int
        Tokens stored.
    recent : int
        Last tokens that are stored whatever their keys, at most `budget`.

    Notes
    -----
    Exact up to `budget` tokens. After one update every key is within twice the least possible radius of a center, or in
    the window. Where keys repeat, so that there are fewer centers, the newest other tokens fill the budget. It has no
    `merge`: centers of two halves are not those of the whole.

    Examples
    --------
    >>> import numpy as np
    >>> from sublinattn import KCenterCache
    >>> q, k, v = np.random.default_rng(0).standard_normal((3, 100, 8))
    >>> cache = KCenterCache(budget=32, recent=8).update(k, v)  # the whole prompt at once
    >>> cache.attend(q[:2]).shape
    (2, 8)
    """

    PARAMETERS = ("budget", "recent")

    def __init__(self, budget: int, recent: int) -> None:
        super().__init__()
        self.budget, self.recent = budget_and_recent(budget, recent)
        self._squared = ("k",)

    def _absorb(self, xp: Any, k: Array, v: Array) -> None:
        self._stored = joined(xp, self._stored, keys=k, values=v)  # in the order in which they came
        count = self._stored["keys"].shape[1]
        if count > self.budget:
            outside = self._stored["keys"][:, : count - self.recent]
            chosen = self._chosen(xp, outside)
            last = np.broadcast_to(np.arange(count - self.recent, count), (len(chosen), self.recent))
            self._stored = picked(xp, self._stored, backends.to_device(np.concatenate([chosen, last], axis=1), xp))

    def _chosen(self, xp: Any, k: Array) -> np.ndarray:
        """Which of the keys (B, n, d) outside the window are stored, in order."""
        wanted, (b, n, _) = self.budget - self.recent, k.shape
        chosen = np.zeros((b, wanted), np.int64)
        if wanted:
            for its, (centers, _) in zip(chosen, each_greedy_k_center(xp, backends.widened(k), wanted), strict=True):
                others = np.setdiff1d(np.arange(n), centers)
                its[:] = np.sort(np.concatenate([centers, others[len(others) - (wanted - len(centers)) :]]))
        return chosen

    def _attend(self, xp: Any, q: Array, scale: float) -> Array:
        return softmax_over(xp, self._stored, self._stored["keys"].shape[1], q, scale).output()
