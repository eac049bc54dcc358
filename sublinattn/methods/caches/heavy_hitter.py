"""The cache that stores the tokens which queries have attended to most (heavy hitters), and the last ones.

Source: Zhang et al., *H2O: Heavy-Hitter Oracle for Efficient Generative Inference of Large Language Models*, arXiv
2306.14048 [H2O23], Algorithm 1.

Cost: 8 bytes per token beside its key and value; a chunk of c tokens costs `O((m + c) (d + d_v + log(m + c)))`, m the
budget.

Differs from the paper: there a token is evicted after the newest one has been attended to; here `update` evicts, so
that no more than the budget is ever stored. There a prompt is attended to before anything is evicted; here too only if
the prompt comes in chunks with queries between them, at the size of the budget.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...core import backends, checks
from ...core.attend import serves
from ...core.backends import Array
from ...core.magnitudes import fit_logits, moderate
from .base import KVCache, budget_and_recent, joined, over_slots, picked, softmax_over


class HeavyHitterCache(KVCache):
    """The tokens with the largest accumulated softmax weight, and the last ones [H2O23].

    `attend` changes the state: it adds each query's softmax weights to the scores of the stored tokens. `update` then
    decides by these scores: over budget, the tokens with the lowest go, the oldest of equal ones first, but none of the
    last `recent`. A token begins with score 0, so without queries this is a sliding window of `budget` tokens.

    Parameters
    ----------
    budget : int
        Tokens stored.
    recent : int
        Last tokens that are stored whatever their scores, at most `budget`; half of it in [H2O23].

    Notes
    -----
    Exact up to `budget` tokens. Cutting the tokens between two queries into chunks changes nothing, to the bit; cutting
    queries into chunks changes the scores' rounding (float64). It has no `merge`: scores of tokens that met different
    queries do not compare.

    Examples
    --------
    >>> import numpy as np
    >>> from sublinattn import HeavyHitterCache
    >>> q, k, v = np.random.default_rng(0).standard_normal((3, 100, 8))
    >>> cache = HeavyHitterCache(budget=32, recent=16)
    >>> for token in range(100):  # as in decoding: each query counts for what is kept
    ...     answer = cache.update(k[token], v[token]).attend(q[token])
    >>> cache.nbytes, answer.shape
    (4352, (8,))
    """

    PARAMETERS = ("budget", "recent")

    def __init__(self, budget: int, recent: int) -> None:
        super().__init__()
        self.budget, self.recent = budget_and_recent(budget, recent)

    def _absorb(self, xp: Any, k: Array, v: Array) -> None:
        scores = xp.zeros(k.shape[:2], dtype=np.float64)
        self._stored = joined(xp, self._stored, keys=k, values=v, scores=scores)  # in the order in which they came
        count = self._stored["keys"].shape[1]
        if count > self.budget:
            # [H2O23, Algorithm 1] evicts one token at a time, the one of least score outside the window: in the end
            # those of largest score are left, which one sort finds.
            ranks = self._stored["scores"].copy()
            ranks[:, count - self.recent :] = np.inf
            order = xp.argsort(ranks, axis=1, kind="stable")
            self._stored = picked(xp, self._stored, xp.sort(order[:, count - self.budget :], axis=1))

    def _attend(self, xp: Any, q: Array, scale: float) -> Array:
        k, v, scores = (self._stored[name] for name in ("keys", "values", "scores"))
        if serves(xp, q, k, v):
            p = softmax_over(xp, self._stored, k.shape[1], q, scale)
            # Keys ask, queries answer at weight 1 / exp(lse): the sum over all of them is that of a key's weights.
            of_keys = over_slots(xp, k, q, q, scale=scale, log_weights=-p.lse())
            scores += xp.exp(of_keys.m.astype(np.float64)) * of_keys.l
            return p.output()
        if not moderate(scale):
            q, k, scale = fit_logits(xp, q, k, scale, *checks.largest_norms(xp, False, q=q, k=k))
        out, added = xp.empty((*q.shape[:2], v.shape[2]), dtype=q.dtype), xp.zeros_like(scores)
        step = backends.feature_rows(xp, scores.size, q.dtype)
        for rows in backends.cut(q.shape[1], step):
            with np.errstate(over="ignore", invalid="ignore"):  # NaN is refused below, before it is in the scores
                logits = xp.matmul(scale * q[:, rows], k.swapaxes(1, 2))
                weights = xp.exp(logits - logits.max(axis=2)[..., None])
                weights /= weights.sum(axis=2)[..., None]
                out[:, rows] = xp.matmul(weights, v)
            added += weights.sum(axis=1, dtype=np.float64)
        checks.representable(xp, added, q, k, name="the scores")
        scores += added
        return out
