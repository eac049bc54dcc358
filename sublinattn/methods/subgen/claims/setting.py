"""What the trials of SubGen's claims share: small streams, caches that are right or broken in one place, and the law of
Pearson's statistic.

A broken cache does one step wrong, in the plainest sequential way; everything around it is the package's own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from ....core.backends import Array, asnumpy, to_device
from ....lab.workloads import make
from ....lab.workloads.instance import Instance
from ....primitives.clustering import OnlineClusters, nearest
from ....primitives.reservoir import GroupSamples, WeightedSlots, uniforms
from ..head import Head
from ..subgen import SubGenCache


class EagerSlots(WeightedSlots):
    """Sabotage: replaced with probability `w / mu`, mu without the item itself."""

    def absorb(self, weights: np.ndarray) -> np.ndarray:
        held, slots = np.full(self.size, -1), np.arange(self.size)
        for item, weight in enumerate(weights):
            chance = weight / self.mu if self.mu else 1.0
            held[uniforms(self.seed, self.stream, slots, self.seen + item) < chance] = item
            self.mu += float(weight)
        self.seen += len(weights)
        return held


class UniformSlots(WeightedSlots):
    """Sabotage: every token counts as much as every other."""

    def absorb(self, weights: np.ndarray) -> np.ndarray:
        mu, self.mu = self.mu, float(self.seen)
        held = super().absorb(np.ones(len(weights)))
        self.mu = mu + float(weights.sum())
        return held


class TwinSlots(WeightedSlots):
    """Sabotage: every other slot makes the draws of the one before."""

    def absorb(self, weights: np.ndarray) -> np.ndarray:
        held = super().absorb(weights)
        odd = slice(1, 2 * (self.size // 2), 2)
        held[odd], self.thresholds[odd] = held[:-1:2][: len(held[odd])], self.thresholds[:-1:2][: len(held[odd])]
        return held


class CoinSlots(WeightedSlots):
    """Sabotage: when two streams merge, every other slot takes the other one's token, whatever their weights."""

    def merge(self, other: WeightedSlots) -> np.ndarray:
        super().merge(other)
        return np.arange(self.size) % 2 == 0


class EagerSamples(GroupSamples):
    """Sabotage: a sample is replaced with probability `1 / (count - 1)`."""

    def absorb(self, labels: np.ndarray, groups: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        self.counts = np.concatenate([self.counts, np.zeros(groups - len(self.counts), np.int64)])
        held, samples = np.full((groups, self.size), -1), np.arange(self.size)
        for item, group in enumerate(labels):
            u = uniforms(self.seed, self.stream, group, samples, self.seen + item)
            held[group, u < 1 / max(1, self.counts[group])] = item
            self.counts[group] += 1
        self.seen += len(labels)
        group, sample = found = np.nonzero(held >= 0)
        return group, sample, held[found]


class TwinSamples(GroupSamples):
    """Sabotage: all samples of a cluster make the draws of the first."""

    def absorb(self, labels: np.ndarray, groups: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        group, sample, item = super().absorb(labels, groups)
        self.due[:] = self.due[:, :1]
        group, item = group[sample == 0], item[sample == 0]
        samples = np.tile(np.arange(self.size), len(group))
        return np.repeat(group, self.size), samples, np.repeat(item, self.size)


class CoinSamples(GroupSamples):
    """Sabotage: when clusters become one, its samples come from each of them equally often."""

    def regroup(self, counts: np.ndarray, into: np.ndarray, groups: int) -> np.ndarray:
        piece = super().regroup(np.ones_like(counts), into, groups)
        super().regroup(counts, into, groups)
        return piece


class DriftingCentres(OnlineClusters):
    """Sabotage: a centre moves to the mean of its cluster."""

    def __init__(self, delta: float, empty: Array) -> None:
        super().__init__(delta, empty)
        self.members: Counter[int] = Counter()

    def absorb(self, xp: Any, x: Array, *, maximum: float = np.inf) -> np.ndarray:
        labels = []
        for row in x:
            (label,) = super().absorb(xp, row[None], maximum=maximum)
            labels.append(label)
            self.members[label] += 1
            self.centers.rows[label] += (row - self.centers.rows[label]) / self.members[label]
        return np.array(labels)


class BlindClusters(OnlineClusters):
    """Sabotage: a key within delta of an old centre does not look at the centres made in its own chunk."""

    def absorb(self, xp: Any, x: Array, *, maximum: float = np.inf) -> np.ndarray:
        index, square = nearest(xp, x, self.centers.rows)
        right = super().absorb(xp, x, maximum=maximum)
        return np.where(square <= self.delta**2, index, right)


class CrowdedClusters(OnlineClusters):
    """Sabotage: a key opens a cluster when it is farther than delta/2 from all centres."""

    def absorb(self, xp: Any, x: Array, *, maximum: float = np.inf) -> np.ndarray:
        delta, self.delta = self.delta, self.delta / 2
        labels = super().absorb(xp, x, maximum=maximum)
        self.delta = delta
        return labels


CLUSTERS: dict[str, type[OnlineClusters]] = {
    "nothing": OnlineClusters,
    "drifting centres": DriftingCentres,
    "blind clusters": BlindClusters,
    "crowded clusters": CrowdedClusters,
}

BROKEN: dict[str, dict[str, Any]] = {
    "eager slots": {"slots": EagerSlots},
    "uniform slots": {"slots": UniformSlots},
    "twin slots": {"slots": TwinSlots},
    "coin slots": {"slots": CoinSlots},
    "eager samples": {"samples": EagerSamples},
    "twin samples": {"samples": TwinSamples},
    "coin samples": {"samples": CoinSamples},
    **{name: {"clusters": broken} for name, broken in CLUSTERS.items()},
}
"""What is broken, and the part of a `Head` that is."""


class Cache(SubGenCache):
    """A SubGenCache with one part broken, or none: a key of `BROKEN`."""

    def __init__(self, *args: Any, broken: str = "nothing", **parameters: Any) -> None:
        super().__init__(*args, **parameters)
        self._parts = BROKEN[broken]

    @property
    def head(self) -> Head:
        """The state of the only problem."""
        return self.heads[0]


def fed(cache: Cache, xp: Any, k: np.ndarray, v: np.ndarray, cuts: Iterator[slice]) -> Cache:
    """The cache after host arrays k, v, chunk by chunk."""
    k, v = to_device(k, xp), to_device(v, xp)
    for chunk in cuts:
        cache.update(k[chunk], v[chunk])
    return cache


def chunks(n: int, rows: int) -> Iterator[slice]:
    """Chunks of `rows` rows."""
    return (slice(i, min(i + rows, n)) for i in range(0, n, rows))


def random_chunks(rng: np.random.Generator, n: int, count: int) -> Iterator[slice]:
    """`count` chunks, cut at random."""
    ends = [0, *sorted(rng.choice(np.arange(1, n), count - 1, replace=False).tolist()), n]
    return (slice(a, b) for a, b in zip(ends[:-1], ends[1:], strict=True))


def stream(rng: np.random.Generator, n: int, d: int, *, workload: str = "clusterable", **knobs: Any) -> Instance:
    """A stream in float64, scale 1."""
    return make(workload, n, d, rng=rng, dtype=np.float64, scale=1.0, **knobs)


def members(k: np.ndarray, centres: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distances of every key to every centre, float64, and which centre is nearest."""
    distance = np.sqrt(((k[:, None] - centres[None]) ** 2).sum(axis=-1))
    return distance, distance.argmin(axis=1)


def numbered(rng: np.random.Generator, n: int, d_v: int) -> tuple[np.ndarray, np.ndarray]:
    """Keys (n, 1) that tell a token's number, and values (n, d_v) of norms between 1/2 and 2."""
    v = rng.standard_normal((n, d_v))
    v *= (2 ** rng.uniform(-1, 1, n) / np.linalg.norm(v, axis=1))[:, None]
    return np.arange(n, dtype=float)[:, None], v


def numbers(x: Array) -> np.ndarray:
    """The numbers that such keys (..., 1) tell."""
    return asnumpy(x)[..., 0].astype(np.int64)


def pearson(found: np.ndarray, law: np.ndarray) -> tuple[float, float, float]:
    """Pearson's statistic of independent draws with counts `found` (cells,), its mean and standard deviation.

    Both are exact for any number N of draws under `law`: `cells - 1` and
    `2 (cells - 1) + (sum 1/p - cells^2 - 2 cells + 2) / N` for the variance.
    """
    total, cells = found.sum(), len(law)
    statistic = float(((found - total * law) ** 2 / (total * law)).sum())
    variance = 2 * (cells - 1) + ((1 / law).sum() - cells**2 - 2 * cells + 2) / total
    return statistic, cells - 1.0, float(np.sqrt(variance))
