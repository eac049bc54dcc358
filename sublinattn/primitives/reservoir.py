"""Reservoirs: samples of a stream that are uniform, or weighted, over all of it so far.

A slot that holds an item when the total weight is `mu` still holds it at total weight `mu'` with probability
`mu / mu'`, whatever comes in between. So the total at which it is replaced next is `mu / U` for a uniform U, and it can
be drawn ahead: a stream needs `O(log n)` draws per slot, not one per item [Vitter 1985, with weights Efraimidis and
Spirakis 2006]. Which item then comes to lie there is a matter of the stream alone. Each U is a function of the seed,
the slot and the item, so that one seed gives the same sample however the stream is cut into chunks.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from ..core import backends, checks
from ..core.backends import Array

_NEVER = 2**62
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX = ((30, np.uint64(0xBF58476D1CE4E5B9)), (27, np.uint64(0x94D049BB133111EB)))


def seed_from(rng: np.random.Generator | int | None) -> int:
    """A seed for `uniforms`, drawn from the caller's generator."""
    return int(checks.generator(rng).integers(2**63))


def _step(x: Any, counter: Any) -> Any:
    """SplitMix64's finaliser of a state and one more counter."""
    x = x + (np.asarray(counter).astype(np.uint64) + np.uint64(1)) * _GOLDEN
    for shift, factor in _MIX:
        x = (x ^ (x >> np.uint64(shift))) * factor
    return x ^ (x >> np.uint64(31))


@functools.lru_cache(maxsize=1024)
def _first_step(seed: int, counter: int) -> Any:
    with np.errstate(over="ignore"):
        return _step(np.asarray(seed, dtype=np.uint64), counter)


def uniforms(seed: int, *counters: Any) -> np.ndarray:
    """Uniform numbers in (0, 1), one for each tuple of counters (integers below 2^63, broadcast): a function of them.

    SplitMix64's finaliser [Steele, Lea, Flood 2014], once per counter; 52 bits each, so that rounding makes no 1.
    """
    if isinstance(counters[0], int):  # a stream's number: the first step is the same for all of its draws
        x, counters = _first_step(seed, counters[0]), counters[1:]
    else:
        x = np.asarray(seed, dtype=np.uint64)
    with np.errstate(over="ignore"):  # arithmetic is modulo 2^64
        for counter in counters:
            x = _step(x, counter)
    return ((x >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def next_total(total: Any, u: Any) -> np.ndarray:
    """Weight from which on a slot that is filled at `total` holds something else: P(beyond x) = total / x."""
    return np.maximum(total / u, np.nextafter(total, np.inf))  # rounding must not put it at `total` itself


def next_count(count: Any, u: Any) -> np.ndarray:
    """The same for items that count 1 each: the item number that replaces, P(beyond c) = count / c."""
    return np.maximum(np.ceil(np.minimum(count / u, _NEVER)), count + 1).astype(np.int64)


class WeightedSlots:
    """`size` independent slots; each holds item j of the stream with probability `w_j / mu`, `mu = sum_j w_j`.

    `stream` numbers the reservoirs of one seed. `seen` items came so far; at the total weight `thresholds[i]` slot i is
    filled anew.
    """

    def __init__(self, size: int, seed: int, stream: int) -> None:
        self.size, self.seed, self.stream = size, seed, stream
        self.mu, self.seen = 0.0, 0
        self.thresholds = np.full(size, np.nextafter(0.0, 1.0))

    def absorb(self, weights: np.ndarray) -> np.ndarray:
        """Take a chunk of weights (c,), float64, none negative; O(c + size), O(log c) more for each replacement.

        Returns which item of the chunk each slot holds now, (size,); -1 where it holds the same as before.
        """
        totals = np.cumsum(np.concatenate([[self.mu], weights]))[1:]  # one after another: rounded alike in any chunks
        items = np.full(self.size, -1)
        while (due := np.flatnonzero(self.thresholds <= totals[-1])).size:
            item = np.searchsorted(totals, self.thresholds[due])  # the one with which the total reaches the threshold
            items[due] = item
            self.thresholds[due] = next_total(totals[item], uniforms(self.seed, self.stream, due, self.seen + item))
        self.mu, self.seen = float(totals[-1]), self.seen + len(weights)
        return items

    def merge(self, other: WeightedSlots, factor: float = 1.0) -> np.ndarray:
        """Make this the reservoir of both streams; True (size,) where a slot now holds what `other`'s did.

        `factor` brings `other`'s weights to the unit of this one's.
        """
        mu, self.seen = self.mu + factor * other.mu, self.seen + other.seen
        slots = np.arange(self.size)
        choose, again = (uniforms(self.seed, self.stream, slots, self.seen, draw) for draw in (0, 1))
        theirs = choose * mu > self.mu  # with probability mu_b / (mu_a + mu_b)
        if mu:
            self.thresholds = next_total(mu, again)  # drawn anew at mu: its law depends on the total alone
        self.mu = mu
        return theirs


class SmallestPriorities:
    """A sample without replacement: the `size` items of smallest priority, item j's a uniform number of its own.

    `priorities` (size,) are those of the items in the slots, inf where there is none yet: slots are filled in order.
    """

    def __init__(self, size: int, seed: int, stream: int) -> None:
        self.size, self.seed, self.stream = size, seed, stream
        self.priorities, self.seen = np.full(size, math.inf), 0

    def absorb(self, count: int) -> np.ndarray:
        """Take a chunk of `count` items; returns as `WeightedSlots`. `O(count + size)`, O(size) more for each taken."""
        draws = uniforms(self.seed, self.stream, self.seen + np.arange(count))
        self.seen += count
        return self._offer(draws)

    def merge(self, other: SmallestPriorities) -> np.ndarray:
        """Make this the sample of both streams, exactly: which of `other`'s slots each slot holds now, or -1."""
        self.seen += other.seen
        return self._offer(other.priorities[: other.seen])

    def _offer(self, draws: np.ndarray) -> np.ndarray:
        """Item after item, as if each came alone: one below the largest priority in a slot takes that slot."""
        items = np.full(self.size, -1)
        free = np.flatnonzero(np.isinf(self.priorities))[: len(draws)]
        items[free] = np.arange(len(free))
        self.priorities[free] = draws[: len(free)]
        slot = int(self.priorities.argmax())
        largest = float(self.priorities[slot])
        candidates = len(free) + np.flatnonzero(draws[len(free) :] < largest)
        for item, priority in zip(candidates.tolist(), draws[candidates].tolist(), strict=True):
            if priority < largest:
                items[slot], self.priorities[slot] = item, priority
                slot = int(self.priorities.argmax())
                largest = float(self.priorities[slot])
        return items


class PrioritySample(SmallestPriorities):
    """A weighted sample without replacement: the `size` items of smallest `u_j / w_j`, u_j uniform [DLT07].

    `threshold` is the next smallest, inf as long as all items are in slots. A stored item that counts
    `max(1, 1 / (threshold w_j))` times makes every sum over the items unbiased. Items of weight 0 are never stored.
    """

    def __init__(self, size: int, seed: int, stream: int) -> None:
        super().__init__(size, seed, stream)
        self.threshold = math.inf

    def absorb(self, weights: np.ndarray) -> np.ndarray:  # type: ignore[override]
        """Take a chunk of weights (c,), float64, none negative; returns and costs as `SmallestPriorities.absorb`."""
        draws = uniforms(self.seed, self.stream, self.seen + np.arange(len(weights)))
        self.seen += len(weights)
        return self._offer(np.divide(draws, weights, out=np.full(len(weights), math.inf), where=weights > 0))

    def merge(self, other: SmallestPriorities) -> np.ndarray:
        self.seen += other.seen
        if isinstance(other, PrioritySample):
            self.threshold = min(self.threshold, other.threshold)
        return self._offer(other.priorities)

    def _offer(self, draws: np.ndarray) -> np.ndarray:
        some = np.flatnonzero(draws < math.inf)
        every = np.sort(np.concatenate([self.priorities, draws[some]]))  # inf in an empty slot
        self.threshold = min(self.threshold, float(every[self.size])) if len(some) else self.threshold
        items = super()._offer(draws[some])
        return np.where(items >= 0, some[items], -1) if len(some) else items


class GroupSamples:
    """`size` independent samples of each group of a stream: each is uniform over the group's items so far.

    `counts` (m,) are the items of each group, `due` (m, size) the number of the item of its group that each sample is
    replaced by next; `seen` items and `turns` regroupings came so far.
    """

    def __init__(self, size: int, seed: int, stream: int) -> None:
        self.size, self.seed, self.stream = size, seed, stream
        self.counts, self.due = np.zeros(0, np.int64), np.zeros((0, size), np.int64)
        self.seen = self.turns = 0

    def absorb(self, labels: np.ndarray, groups: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Take a chunk of items by their groups' numbers (c,), below `groups`; `O(c log c)` and O(1) per replacement.

        Returns the samples that hold another item now, by group and number, and its place in the chunk, each (r,).
        """
        if new := groups - len(self.counts):
            self.counts = np.concatenate([self.counts, np.zeros(new, np.int64)])
            self.due = np.concatenate([self.due, np.ones((new, self.size), np.int64)])  # the first item fills them all
        order = np.argsort(labels, kind="stable")
        ranked = labels[order]
        starts = np.ones(len(labels), bool)
        np.not_equal(ranked[1:], ranked[:-1], out=starts[1:])
        first = starts.nonzero()[0]
        here = ranked[first]
        before, due = self.counts[here], self.due[here]
        after = before + np.append(first[1:], len(labels)) - first
        items = np.full(due.shape, -1)
        while (changing := (due <= after[:, None]).nonzero())[0].size:
            group, sample = changing
            item = order[first[group] + due[changing] - before[group] - 1]  # `due` counts a group's items from 1
            items[changing] = item
            u = uniforms(self.seed, self.stream, here[group], sample, self.seen + item)
            due[changing] = next_count(due[changing], u)
        self.counts[here], self.due[here] = after, due
        self.seen += len(labels)
        group, sample = changed = (items >= 0).nonzero()
        return here[group], sample, items[changed]

    def regroup(self, counts: np.ndarray, into: np.ndarray, groups: int) -> np.ndarray:
        """Start over from pieces whose samples are known: groups of this stream, of another one, or of both.

        A piece has `counts` (p,) items and goes to the group `into` (p,); every group gets one at least. Returns the
        piece whose sample each sample now is, (groups, size): a uniform item of the group lies in a piece with
        probability proportional to its count, and is uniform there.
        """
        self.turns += 1
        total = np.zeros(groups, np.int64)
        np.add.at(total, into, counts)
        order = np.argsort(into, kind="stable")
        ends = np.cumsum(counts[order])
        group, sample = np.arange(groups)[:, None], np.arange(self.size)
        which, again = (uniforms(self.seed, self.stream, group, sample, self.turns, draw) for draw in (0, 1))
        item = np.minimum((which * total[:, None]).astype(np.int64), total[:, None] - 1)  # of the group, from 0
        start = np.concatenate([[0], np.cumsum(total)[:-1]])
        self.counts, self.due = total, next_count(total[:, None], again)
        return order[np.searchsorted(ends, start[:, None] + item, side="right")]


def squared_norms(v: Array) -> np.ndarray:
    """`||v_j||^2` of rows (c, d_v) in float64, on the host: for a row the same in any chunk."""
    wide = v.astype(np.float64)
    return backends.asnumpy((wide * wide).sum(axis=-1))
