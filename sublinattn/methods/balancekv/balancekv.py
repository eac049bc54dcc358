"""BalanceKV: a key-value cache that halves batches of tokens by softmax balancing, merges halves, and halves again.

Source: [BKV25] Kochetkova, Sheth, Han, Zandieh, Kapralov, *Streaming Attention Approximation via Discrepancy Theory*,
arXiv 2502.07861, NeurIPS 2025: merge and reduce, Theorem 3.4. The main text was read, the appendices, with the
pseudocode of merge and reduce, were not. Here one merge and reduce serves both sums; `buckets` has Algorithm 1, which
runs one for each class of value norms and one for the normaliser.

Level 0 is the last `t` tokens at most, as they came. When it is full, `walk.halve` keeps t/2 of them, which count
twice, at level 1; two halves on one level make a batch, of which again half goes to the next level, where it counts
twice as much. So level l holds at most one half, of weight `2^l`, and all of n tokens are in `log2(n/t)` levels of t/2
slots.

Cost: `t + (t/2) (log2(n/t) + 1)` slots of `d + d_v + 1` numbers at most. A token costs `O(t (d + d_v))` operations on
each of two levels in the mean, and t steps of a walk every t tokens; a query `O(d + d_v)` for each slot.

Guarantee: Theorem 3.4, an error of `eps n exp(-s r^2) max|v|` in each sum for `t` of the order of `sqrt(d_v) exp(2 s
r^2) / eps`, up to logarithms, if no query or key is longer than r.

Differs from the paper in what `walk` says, and in:

1. Level 0 is halved when the next token comes, not when it is full: up to t tokens the cache is exact.
2. The number of levels grows with the stream, where the paper is told n. By choice it is bounded by `levels`, and
   memory then does not grow at all: each time that the stream needs a level more, level 0 takes half as many tokens,
   one drawn from each group of `2^b`, which counts `2^b` times, and all levels are one lower (the sampler of [KLL16],
   a sketch for quantiles). With `2^levels` at least t, the sampling adds no more to the error than the balance has.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np

from ...core import backends, checks
from ...core.backends import Array
from ...core.threads import for_tiles
from ...primitives.reservoir import seed_from, uniforms
from ..caches.base import MergingCache, softmax_weighted
from .walk import half_width, halve

FAILURE = 0.01
"""Probability with which the walk of a halving, with the default half-width, needs to be clipped."""
_SAMPLER = 2**40  # in place of a level, in the draws of level 0's tokens
Halves = dict[str, Array]
"""Some halves, or batches: "keys" and "values" (B, number, slots, width), and "filled" (B, number, slots)."""


class BalanceKVCache(MergingCache):
    """Halves of halves of the tokens, balanced for the softmax sums of all queries [BKV25].

    Parameters
    ----------
    batch : int
        `t`: tokens that are halved at once, even. The error falls like `1/t`, the memory is about
        `(t/2) (log2(n/t) + 3)` slots.
    pairs : bool
        Keep one of each two neighbours, so that halves are exact and the sums unbiased, instead of the smaller of two
        parts, as the paper does, which leaves some slots empty.
    centred : bool
        Balance keys less the mean of their batch: softmax does not change, the radius r of the guarantee does.
    c : float, optional
        Half-width of the walk; by default the least that bounds the probability of clipping by 0.01 in each halving,
        `log(200 batch) + 1/2`. The paper's is `30 log(n / delta)`.
    scale : float, optional
        Factor of the logits for which the halves are balanced, `1/sqrt(d)` by default. Queries may have another,
        without a guarantee.
    levels : int, optional
        At most so many levels above the batch: `batch + levels batch / 2` slots, however long the stream. By default
        as many as it needs.
    rng : Generator, int or None
        Source of the draws. Caches that are to be merged need different ones.

    Notes
    -----
    Exact up to `batch` tokens. The state is a function of the seed, the head and the tokens: the same for any chunks,
    on the CPU to the bit. Merged caches hold both caches' halves, level by level, of which again two make a batch;
    caches with bounded levels do not merge.

    Examples
    --------
    >>> import numpy as np
    >>> from sublinattn import BalanceKVCache
    >>> q, k, v = np.random.default_rng(0).standard_normal((3, 4096, 8))
    >>> cache = BalanceKVCache(batch=64, rng=0)
    >>> for start in range(0, 4096, 1024):
    ...     cache = cache.update(k[start : start + 1024], v[start : start + 1024])
    >>> cache.attend(q[:2]).shape, cache.tokens_seen
    ((2, 8), 4096)
    >>> cache.nbytes < (k.nbytes + v.nbytes) / 8
    True
    """

    BOTH_SUMS: ClassVar[bool] = True
    """Whether one walk serves numerator and normaliser."""
    PARAMETERS: ClassVar[tuple[str, ...]] = ("batch", "pairs", "centred", "c", "scale", "levels")

    def __init__(
        self,
        batch: int,
        *,
        pairs: bool = False,
        centred: bool = False,
        c: float | None = None,
        scale: float | None = None,
        levels: int | None = None,
        rng: np.random.Generator | int | None = None,
    ) -> None:
        super().__init__()
        self.batch = checks.integer("batch", batch, minimum=2)
        if self.batch % 2:
            raise ValueError(f"batch must be even, got {batch}")
        checks.flags(pairs=pairs, centred=centred)
        self.pairs, self.centred = bool(pairs), bool(centred)
        self.c = half_width(self.batch, FAILURE) if c is None else checks.real("c", c)
        if not 0 < self.c < math.inf:
            raise ValueError(f"c must be above 0 and finite, got {c}")
        self.scale = None if scale is None else abs(checks.resolve_scale(scale, 1))
        self.levels = None if levels is None else checks.integer("levels", levels, minimum=1, maximum=62)
        self._squared = ("k", "v")
        self._seeds = [seed_from(rng)]
        self._base = 0  # level 0 takes one of `2^base` tokens
        self._position = 0  # tokens since the base is what it is
        self._recent = 0  # slots of level 0 that are in use: the last may wait for its token
        self._occupied: list[bool] = []  # levels 1, 2, ...: whether a half is there
        self._halvings: list[int] = []  # levels 0, 1, ...: how often a batch was halved

    @classmethod
    def within(cls, nbytes: int, d: int, d_v: int, *, dtype: Any = np.float32, **parameters: Any) -> Self:
        """The cache of the largest batch t that never holds more than `nbytes` of each problem, with `log2(t)` levels.

        Parameters
        ----------
        nbytes, d, d_v : int
            The budget; the widths of keys and values.
        dtype : "float32" or "float64"
            Of the stored rows.
        **parameters
            Those of the class, but for `batch` and `levels`.

        Raises
        ------
        TypeError, ValueError
            Impossible parameters; a budget of fewer than 3 slots.
        """
        sizes = {"nbytes": nbytes, "d": d, "d_v": d_v}
        nbytes, d, d_v = (checks.integer(name, x, minimum=1) for name, x in sizes.items())
        slots = nbytes // (cls._slot_numbers(d, d_v, parameters) * np.dtype(dtype).itemsize)
        batch = next((t for t in range(slots // 2 * 2, 0, -2) if _slots(t, _levels(t)) <= slots), None)
        if batch is None:
            raise ValueError(f"nbytes must be at least that of 3 slots, got {nbytes}, which is that of {slots}")
        return cls(batch, levels=_levels(batch), **parameters)

    @classmethod
    def _slot_numbers(cls, d: int, d_v: int, parameters: Mapping[str, Any]) -> int:
        """Numbers that a slot takes, of a cache with these parameters."""
        return d + d_v + 1

    # ----------------------------------------------------------------------------------------------------------- tokens
    def _absorb(self, xp: Any, k: Array, v: Array) -> None:
        self._grow(xp, len(k), self.batch)
        while k.shape[1]:
            taken = self._take_in(xp, {"keys": k, "values": v})
            k, v = k[:, taken:], v[:, taken:]

    def _take_in(self, xp: Any, rows: Halves) -> int:
        """Take the first of the rows into level 0, all unless the base rises on the way; returns how many."""
        t, step, count = self.batch, 2**self._base, rows["keys"].shape[1]
        begin = -self._position % step  # where the first new group of `step` tokens begins
        groups = max(0, -(-(count - begin) // step))
        batches = (self._recent + groups - 1) // t  # halved when a group begins for which there is no slot
        if self.levels is not None:
            left = 2**self.levels - sum(2**i for i, there in enumerate(self._occupied) if there)
            if batches >= left:  # the base rises where a group begins
                batches, groups = left, left * t - self._recent
                count = begin + groups * step
        numbers = np.arange(self._position // step, -(-(self._position + count) // step))  # of the groups
        drawn = uniforms(self._seeds[0], _SAMPLER, self._base, numbers) if step > 1 else 0 * numbers
        place = numbers * step + (drawn * step).astype(np.int64) - self._position
        here = (place >= 0) & (place < count)  # neither before these rows nor after them
        waiting = bool(begin and count and here[0])  # for its token: the group that began before
        if here.any() or batches:
            index = slice(count) if step == 1 else backends.to_device(place[here], xp)
            rows = {name: x[:, index] for name, x in rows.items()}
            self._store(xp, rows, self._recent - waiting, batches)
        self._recent += groups - batches * t
        self._position += count
        if batches and self.levels is not None and batches == left:
            self._position = 0
        return count

    def _store(self, xp: Any, rows: Halves, slot: int, batches: int) -> None:
        """Write rows into level 0 from a slot on, through so many batches that are halved."""
        t, b, full = self.batch, len(rows["keys"]), None
        if batches:
            before = {name: self._stored[name][:, :slot] for name in rows}
            rows = {name: xp.concatenate([before[name], x], axis=1) for name, x in rows.items()}
            full = {name: x[:, : batches * t].reshape(b, batches, t, -1) for name, x in rows.items()}
            full["filled"] = xp.ones((b, batches, t), bool)
            rows, slot = {name: x[:, batches * t :] for name, x in rows.items()}, 0
            self._clear(0, t)
        here = slice(slot, slot + rows["keys"].shape[1])
        for name, x in rows.items():
            self._stored[name][:, here] = x
        self._stored["log_weights"][:, here] = self._base * math.log(2)
        if full:
            self._settle(xp, full, {})

    def _settle(self, xp: Any, full: Halves | None, more: dict[int, Halves]) -> None:
        """Halve the batches `full` of level 0, and on each level two halves if they are there; `more` are another's."""
        level = 0
        while full or any(other > level for other in more):
            arriving = [self._halved(xp, level, full)] if full else []
            level += 1
            if level in more:
                arriving.append(more[level])
            if self.levels is not None and level > self.levels:  # the only half: all levels are one lower from now on
                level, self._base = self.levels, self._base + 1
            full = self._placed(xp, level, arriving) if arriving else None

    def _placed(self, xp: Any, level: int, arriving: list[Halves]) -> Halves | None:
        """Store an odd half on its level; the others, two by two, are batches to be halved."""
        self._grow(xp, len(arriving[0]["keys"]), _slots(self.batch, level))
        self._occupied += [False] * (level - len(self._occupied))
        if self._occupied[level - 1]:
            arriving = [self._half(self._stored, level), *arriving]
        halves = {name: xp.concatenate([x[name] for x in arriving], axis=1) for name in arriving[0]}
        b, count, h = halves["filled"].shape
        odd, here = count % 2, self._where(level)
        if odd:
            for name in ("keys", "values"):
                self._stored[name][:, here] = halves[name][:, -1]
            log_weight = (self._base + level) * math.log(2)
            self._stored["log_weights"][:, here] = xp.where(halves["filled"][:, -1], log_weight, -np.inf)
        else:
            self._clear(here.start, here.stop)
        self._occupied[level - 1] = bool(odd)
        if count < 2:
            return None
        return {name: x[:, : count - odd].reshape(b, count // 2, 2 * h, *x.shape[3:]) for name, x in halves.items()}

    def _halved(self, xp: Any, level: int, full: Halves) -> Halves:
        """The halves that are kept of batches on a level."""
        b, count, t = full["filled"].shape
        self._halvings += [0] * (level + 1 - len(self._halvings))
        steps = np.arange(t // 2 if self.pairs else t)
        number = self._halvings[level] + np.arange(count)
        self._halvings[level] += count
        drawn = uniforms(self._seeds[0], level, np.arange(b)[:, None, None], number[:, None], steps)
        uniform = backends.to_device(drawn.reshape(b * count, -1).astype(self._dtype), xp)
        flat = {name: x.reshape(b * count, t, *x.shape[3:]) for name, x in full.items()}
        keys, values = (backends.widened(flat[name]) for name in ("keys", "values"))
        kept, filled = (xp.empty((b * count, t // 2), kind) for kind in (np.int64, bool))

        def worker(at: slice) -> None:
            kept[at], filled[at] = self._choose(xp, keys[at], values[at], flat["filled"][at], uniform[at])

        group = max(1, (2**23 if xp is np else backends.STRIP_BYTES) // (2 * t * t * keys.itemsize))  # of two matrices
        for_tiles(xp, [slice(i, i + group) for i in range(0, b * count, group)], worker)
        halves = {}
        for name in ("keys", "values"):  # empty slots hold zeros
            rows = xp.where(filled[..., None], xp.take_along_axis(flat[name], kept[..., None], axis=1), 0)
            halves[name] = rows.reshape(b, count, t // 2, -1)
        return {**halves, "filled": filled.reshape(b, count, t // 2)}

    def _choose(self, xp: Any, k: Array, v: Array, filled: Array, uniform: Array) -> tuple[Array, Array]:
        """`walk.halve` with this cache's parameters."""
        scale = 1 / math.sqrt(k.shape[-1]) if self.scale is None else self.scale
        options: dict[str, Any] = {"scale": scale, "c": self.c, "pairs": self.pairs, "centred": self.centred}
        return halve(xp, k, v, filled, uniform, normaliser=self.BOTH_SUMS, **options)

    # ------------------------------------------------------------------------------------------------------------ slots
    def _where(self, level: int) -> slice:
        """The slots of a level from 1 on: behind the batch of level 0."""
        h = self.batch // 2
        return slice(self.batch + (level - 1) * h, self.batch + level * h)

    def _half(self, stored: dict[str, Array], level: int) -> Halves:
        """The half that is stored on a level, here or in another cache."""
        half = {name: x[:, None, self._where(level)] for name, x in stored.items()}
        return {"keys": half["keys"], "values": half["values"], "filled": half["log_weights"] > -np.inf}

    def _grow(self, xp: Any, b: int, slots: int) -> None:
        """Make room for so many slots."""
        new = slots - (self._stored["keys"].shape[1] if self._stored else 0)
        if new <= 0:
            return
        width = self._width["k"] + self._width["v"] + 1
        checks.fits_memory("batch", self.batch, b * slots * width * np.dtype(self._dtype).itemsize)
        empty = {
            "keys": xp.zeros((b, new, self._width["k"]), self._row_dtype),
            "values": xp.zeros((b, new, self._width["v"]), self._row_dtype),
            "log_weights": xp.full((b, new), -np.inf, self._dtype),
        }
        old = self._stored
        self._stored = {name: xp.concatenate([old[name], x], axis=1) if old else x for name, x in empty.items()}

    def _clear(self, start: int, stop: int) -> None:
        for name, x in self._stored.items():
            x[:, start:stop] = -np.inf if name == "log_weights" else 0

    # ---------------------------------------------------------------------------------------------------------- answers
    def _attend(self, xp: Any, q: Array, scale: float) -> Array:
        k, v, log_weights = self._stored["keys"], self._stored["values"], self._stored["log_weights"]
        return softmax_weighted(xp, q, k, v, log_weights, scale).output()

    def _check_mergeable(self, other: Any) -> None:
        super()._check_mergeable(other)
        if self.levels is not None:
            raise ValueError(f"merge needs caches whose levels are not bounded, got levels={self.levels}")

    def _take(self, xp: Any, other: BalanceKVCache, theirs: dict[str, Array]) -> None:
        self._absorb(xp, *(theirs[name][:, : other._recent] for name in ("keys", "values")))
        more = {level: self._half(theirs, level) for level, there in enumerate(other._occupied, 1) if there}
        self._settle(xp, None, more)

    # --------------------------------------------------------------------------------------------------------- the file
    def _about(self) -> dict[str, Any]:
        state = {
            "seeds": self._seeds,
            "base": self._base,
            "position": self._position,
            "recent": self._recent,
            "occupied": self._occupied,
            "halvings": self._halvings,
        }
        return {**super()._about(), "state": state}

    def _restore(self, about: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        super()._restore(about, arrays)
        state = about["state"]
        for name, value in state.items():
            setattr(self, f"_{name}", value)


def _levels(batch: int) -> int:
    """The least number of levels with `2^levels >= batch`."""
    return (batch - 1).bit_length()


def _slots(batch: int, levels: int) -> int:
    """Slots of a batch and so many halves."""
    return batch + levels * (batch // 2)
