"""The key-value caches that SubGen is compared with: one protocol, each with its budget in bytes actually held.

`update(k, v)` takes one token or a chunk, `attend(q)` answers queries from what is held, `nbytes` says what that
costs; `save`, `load` and, where it has an exact meaning, `merge`. All answers are softmax over the tokens held, so that
logits up to 1e4 are safe; keys and values are held in the working dtype (float32 for half precision).

Sources and costs, for n tokens of which m are held (memory is `m (d + d_v)` numbers, a query `O(m (d + d_v))`):

- `ExactCache`: all tokens, m = n. The yardstick of memory and time.
- `SinkCache`: the first few and the last; Xiao, Tian, Chen, Han, Lewis, *Efficient Streaming Language Models with
  Attention Sinks*, arXiv 2309.17453 [SINK24]. A token costs `O(d + d_v)`.
- `HeavyHitterCache`: the tokens that queries have looked at most, and the last; Zhang et al., *H2O: Heavy-Hitter Oracle
  for Efficient Generative Inference of Large Language Models*, arXiv 2306.14048 [H2O23], Algorithm 1. 8 bytes per token
  more; a chunk of c tokens costs `O((m + c) (d + d_v + log(m + c)))`.
- `ReservoirCache`: a random sample, uniform or by value norm.
- `KCenterCache`: greedy k-center [GON85] on the keys, and the last tokens: what the experiments of arXiv 2402.06082
  [SG24] ran in place of the streaming algorithm. A chunk of c tokens costs `O((m + c) m d)`.
- `ZeroCache`: answers 0. An error means little without the one that it has.

Differs from the papers in:

1. [SINK24] gives a token its place within the cache as position. Here keys come as they are, rotated or not.
2. [H2O23] evicts after the newest token has been attended to; here `update` evicts, so that no more than the budget is
   ever held. Its prompt is attended to before anything is evicted: here too only if the prompt comes in chunks with
   queries between them, at the size of the budget.
3. [SG24] clusters a prompt once. Here tokens may go on coming.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...core import backends, checks
from ...core.backends import Array
from ...core.checks import check_squares
from ...primitives.growing import with_room
from ...primitives.kcenter import greedy_k_center
from .base import KVCache
from .parts import MergingCache, budget_and_recent, joined, picked, softmax_over
from .reservoir import ReservoirCache

__all__ = ["ExactCache", "HeavyHitterCache", "KCenterCache", "ReservoirCache", "SinkCache", "ZeroCache"]


class ExactCache(MergingCache):
    """All tokens: exact attention.

    Attributes
    ----------
    tokens_seen, nbytes : int
        Of room for at most an eighth more tokens than there are.

    Notes
    -----
    A token costs O(d + d_v), amortised. Merged, it is the cache of both streams.
    """

    def _about(self) -> dict[str, Any]:
        return {}

    def _absorb(self, xp: Any, k: Array, v: Array) -> None:
        seen, total = self.tokens_seen, self.tokens_seen + k.shape[1]
        for name, x in (("keys", k), ("values", v)):
            self._held[name] = with_room(xp, self._held.get(name), seen, total, x)
            self._held[name][:, seen:total] = x

    def _attend(self, xp: Any, q: Array, scale: float) -> Array:
        return softmax_over(self._held, self.tokens_seen, q, scale)

    def _take(self, xp: Any, other: ExactCache, theirs: dict[str, Array]) -> None:
        self._absorb(xp, *(theirs[name][:, : other.tokens_seen] for name in ("keys", "values")))


class SinkCache(KVCache):
    """The first tokens and the last ones [SINK24].

    Parameters
    ----------
    window : int
        Last tokens held, beside the sinks.
    sinks : int
        First tokens held.

    Attributes
    ----------
    tokens_seen, nbytes : int

    Raises
    ------
    TypeError, ValueError
        Impossible parameters.

    Notes
    -----
    Exact up to `sinks + window` tokens. It has no `merge`: the first tokens of a stream that goes on with this one are
    not the sinks of the whole, and that they were held, others not, has no meaning there.
    """

    def __init__(self, window: int, sinks: int = 4) -> None:
        super().__init__()
        self.window = checks.integer("window", window, minimum=1)
        self.sinks = checks.integer("sinks", sinks, minimum=0)

    def _about(self) -> dict[str, Any]:
        return {"window": self.window, "sinks": self.sinks}

    def _absorb(self, xp: Any, k: Array, v: Array) -> None:
        seen, total, most = self.tokens_seen, self.tokens_seen + k.shape[1], self.sinks + self.window
        token = np.arange(seen, total)
        token = token[(token < self.sinks) | (token >= total - self.window)]
        slot = np.where(token < self.sinks, token, self.sinks + (token - self.sinks) % self.window)  # a ring
        rows, slot = (backends.to_device(x, xp) for x in (token - seen, slot))
        for name, x in (("keys", k), ("values", v)):
            held = self._held.get(name)
            self._held[name] = with_room(xp, held, min(seen, most), min(total, most), x, most)
            self._held[name][:, slot] = x[:, rows]

    def _attend(self, xp: Any, q: Array, scale: float) -> Array:
        return softmax_over(self._held, min(self.tokens_seen, self.sinks + self.window), q, scale)


class HeavyHitterCache(KVCache):
    """The tokens with the largest accumulated softmax weight, and the last ones [H2O23].

    `attend` changes the state: it adds each query's softmax weights to the scores of the tokens held. `update` then
    decides by these scores: over budget, the tokens with the lowest go, the oldest of equal ones first, but none of the
    last `recent`. A token begins with score 0, so without queries this is a sliding window of `budget` tokens.

    Parameters
    ----------
    budget : int
        Tokens held.
    recent : int
        Last tokens that are held whatever their scores, at most `budget`; half of it in [H2O23].

    Attributes
    ----------
    tokens_seen, nbytes : int

    Raises
    ------
    TypeError, ValueError
        Impossible parameters.

    Notes
    -----
    Exact up to `budget` tokens. Cutting the tokens between two queries into chunks changes nothing, to the bit; cutting
    queries into chunks changes the scores' rounding (float64). It has no `merge`: scores of tokens that met different
    queries do not compare.
    """

    def __init__(self, budget: int, recent: int) -> None:
        super().__init__()
        self.budget, self.recent = budget_and_recent(budget, recent)

    def _about(self) -> dict[str, Any]:
        return {"budget": self.budget, "recent": self.recent}

    def _absorb(self, xp: Any, k: Array, v: Array) -> None:
        scores = xp.zeros(k.shape[:2], dtype=np.float64)
        self._held = joined(xp, self._held, keys=k, values=v, scores=scores)  # in the order in which they came
        count = self._held["keys"].shape[1]
        if count > self.budget:
            # One by one, each eviction takes the least of those out of the window: in the end the largest are left.
            ranks = self._held["scores"].copy()
            ranks[:, count - self.recent :] = np.inf
            order = xp.argsort(ranks, axis=1, kind="stable")
            self._held = picked(xp, self._held, xp.sort(order[:, count - self.budget :], axis=1))

    def _attend(self, xp: Any, q: Array, scale: float) -> Array:
        k, v, scores = (self._held[name] for name in ("keys", "values", "scores"))
        out = xp.empty((*q.shape[:2], v.shape[2]), dtype=q.dtype)
        step = backends.feature_rows(xp, scores.size, q.dtype)
        for rows in (slice(i, i + step) for i in range(0, q.shape[1], step)):
            logits = xp.matmul(scale * q[:, rows], k.swapaxes(1, 2))
            weights = xp.exp(logits - logits.max(axis=2)[..., None])
            weights /= weights.sum(axis=2)[..., None]
            scores += weights.sum(axis=1, dtype=np.float64)
            out[:, rows] = xp.matmul(weights, v)
        return out


class KCenterCache(KVCache):
    """Tokens whose keys are the centres of a greedy k-center, and the last ones: what the experiments of [SG24] ran.

    Offline: one `update` with the whole prompt is theirs, `budget - recent` centres [GON85] of the keys before the last
    `recent`. A later one clusters what is held together with what leaves the window, so that the state depends on how
    the stream is cut into chunks.

    Parameters
    ----------
    budget : int
        Tokens held.
    recent : int
        Last tokens that are held whatever their keys, at most `budget`.

    Attributes
    ----------
    tokens_seen, nbytes : int

    Raises
    ------
    TypeError, ValueError
        Impossible parameters.

    Notes
    -----
    Exact up to `budget` tokens. After one update every key is within twice the least possible radius of a centre, or in
    the window. Where keys repeat, so that there are fewer centres, the newest other tokens fill the budget. It has no
    `merge`: centres of two halves are not those of the whole.
    """

    def __init__(self, budget: int, recent: int) -> None:
        super().__init__()
        self.budget, self.recent = budget_and_recent(budget, recent)

    def _about(self) -> dict[str, Any]:
        return {"budget": self.budget, "recent": self.recent}

    def _check_rows(self, xp: Any, check_finite: bool, k: Array, v: Array) -> None:
        norm, _ = checks.largest_norms(xp, check_finite, k=k, v=v)
        check_squares("k", k, norm)

    def _absorb(self, xp: Any, k: Array, v: Array) -> None:
        self._held = joined(xp, self._held, keys=k, values=v)  # in the order in which they came
        count = self._held["keys"].shape[1]
        if count > self.budget:
            outside = self._held["keys"][:, : count - self.recent]
            kept = np.stack([self._kept(xp, outside[head]) for head in range(len(k))])
            last = np.broadcast_to(np.arange(count - self.recent, count), (len(kept), self.recent))
            self._held = picked(xp, self._held, backends.to_device(np.concatenate([kept, last], axis=1), xp))

    def _kept(self, xp: Any, k: Array) -> np.ndarray:
        """Which of the keys (n, d) outside the window are held, in order."""
        wanted = self.budget - self.recent
        if not wanted:
            return np.zeros(0, np.int64)
        centres, _ = greedy_k_center(xp, k, wanted)
        others = np.setdiff1d(np.arange(len(k)), centres)
        return np.sort(np.concatenate([centres, others[len(others) - (wanted - len(centres)) :]]))

    def _attend(self, xp: Any, q: Array, scale: float) -> Array:
        return softmax_over(self._held, self._held["keys"].shape[1], q, scale)


class ZeroCache(MergingCache):
    """Holds nothing and answers 0: what an error is to be compared with.

    Attributes
    ----------
    tokens_seen, nbytes : int
    """

    def _about(self) -> dict[str, Any]:
        return {}

    def _absorb(self, xp: Any, k: Array, v: Array) -> None:
        pass

    def _attend(self, xp: Any, q: Array, scale: float) -> Array:
        return xp.zeros((*q.shape[:2], self._width["v"]), dtype=q.dtype)

    def _take(self, xp: Any, other: ZeroCache, theirs: dict[str, Array]) -> None:
        pass


SINKS = 4
