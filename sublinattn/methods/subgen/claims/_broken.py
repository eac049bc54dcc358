"""SubGen with one part broken: the sabotages that its claims must refute.

A broken part does one step wrong, in the plainest sequential way; everything around it is the package's own.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from ....core.backends import Array
from ....primitives.clustering import OnlineClusters, nearest
from ....primitives.reservoir import GroupSamples, WeightedSlots, uniforms
from ..laws import FromMean


# --------------------------------------------------------------------------------------------------------------- slots
class EagerSlots(WeightedSlots):
    """A slot is replaced with probability `w / mu`, mu without the token itself."""

    def absorb(self, weights: np.ndarray) -> np.ndarray:
        token, slots = np.full(self.size, -1), np.arange(self.size)
        for item, weight in enumerate(weights):
            chance = weight / self.mu if self.mu else 1.0
            token[uniforms(self.seed, self.stream, slots, self.seen + item) < chance] = item
            self.mu += float(weight)
        self.seen += len(weights)
        return token


class UniformSlots(WeightedSlots):
    """Every token is as likely as every other, whatever its weight."""

    def absorb(self, weights: np.ndarray) -> np.ndarray:
        mu, self.mu = self.mu, float(self.seen)
        token = super().absorb(np.ones(len(weights)))
        self.mu = mu + float(weights.sum())
        return token


class PartlyUniformSlots(WeightedSlots):
    """Every fourth slot is filled whatever the weights: the error does not fall to 0."""

    def __init__(self, size: int, seed: int, stream: int) -> None:
        super().__init__(size, seed, stream)
        self.blind, self.alike = np.arange(size) % 4 == 0, WeightedSlots(size, seed, stream)

    def absorb(self, weights: np.ndarray) -> np.ndarray:
        return np.where(self.blind, self.alike.absorb(np.ones(len(weights))), super().absorb(weights))


class TwinSlots(WeightedSlots):
    """Every other slot makes the draws of the slot before it."""

    def absorb(self, weights: np.ndarray) -> np.ndarray:
        token = super().absorb(weights)
        for drawn in (token, self.thresholds):
            drawn[1::2] = drawn[: self.size - self.size % 2 : 2]
        return token


class SharedSlots(WeightedSlots):
    """All reservoirs of one seed make the same draws: those of another head too."""

    def __init__(self, size: int, seed: int, stream: int) -> None:
        super().__init__(size, seed, 0)


class CoinSlots(WeightedSlots):
    """When two streams merge, every other slot takes the other stream's token, whatever the streams' weights."""

    def merge(self, other: WeightedSlots, factor: float = 1.0) -> np.ndarray:
        super().merge(other, factor)
        return np.arange(self.size) % 2 == 0


class LateMean(FromMean):
    """Distances are from the mean of the values up to the token's own."""

    def weigh(self, v: np.ndarray, seen: int) -> np.ndarray:
        late = 1 - 1 / (seen + 1.0 + np.arange(len(v)))  # by so much nearer is that mean
        return super().weigh(v, seen) * np.where(late, late ** (2 if self.law == "centred" else 1), 1)


class OwnUnits(FromMean):
    """When two streams merge, the weights of each stay in its own unit."""

    def factor(self, other: FromMean) -> float:
        return 1.0


# ------------------------------------------------------------------------------------------------------------- samples
class EagerSamples(GroupSamples):
    """A sample is replaced with probability `1 / (count - 1)`."""

    def absorb(self, labels: np.ndarray, groups: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        self.counts = np.concatenate([self.counts, np.zeros(groups - len(self.counts), np.int64)])
        token, samples = np.full((groups, self.size), -1), np.arange(self.size)
        for item, group in enumerate(labels):
            u = uniforms(self.seed, self.stream, group, samples, self.seen + item)
            token[group, u < 1 / max(1, self.counts[group])] = item
            self.counts[group] += 1
        self.seen += len(labels)
        group, sample = changed = np.nonzero(token >= 0)
        return group, sample, token[changed]


class StaleSamples(GroupSamples):
    """All tokens of a chunk replace with probability `1 / (count + 1)`, with the count before the chunk."""

    def absorb(self, labels: np.ndarray, groups: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        self.counts = np.concatenate([self.counts, np.zeros(groups - len(self.counts), np.int64)])
        changed = []
        for group in np.unique(labels):
            here = np.flatnonzero(labels == group)
            u = uniforms(self.seed, self.stream, group, np.arange(self.size), self.seen)
            with np.errstate(divide="ignore"):  # from the chunk's last token back to the one that replaces
                back = np.minimum(np.log(u) / np.log1p(-1 / (self.counts[group] + 1)), len(here)).astype(int)
            sample = np.flatnonzero(back < len(here))
            changed.append((np.full(len(sample), group), sample, here[len(here) - 1 - back[sample]]))
            self.counts[group] += len(here)
        self.seen += len(labels)
        group, sample, item = (np.concatenate(x) for x in zip(*changed, strict=True))
        return group, sample, item


class SharedSamples(GroupSamples):
    """The samples of all clusters make the same draws, at the same number of their cluster's tokens."""

    def absorb(self, labels: np.ndarray, groups: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        self.counts = np.concatenate([self.counts, np.zeros(groups - len(self.counts), np.int64)])
        token, samples = np.full((groups, self.size), -1), np.arange(self.size)
        for item, group in enumerate(labels):
            self.counts[group] += 1
            u = uniforms(self.seed, self.stream, samples, self.counts[group])
            token[group, u < 1 / self.counts[group]] = item
        self.seen += len(labels)
        group, sample = changed = np.nonzero(token >= 0)
        return group, sample, token[changed]


class TwinSamples(GroupSamples):
    """All samples of a cluster make the draws of the first one."""

    def absorb(self, labels: np.ndarray, groups: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        group, sample, item = super().absorb(labels, groups)
        self.due[:] = self.due[:, :1]
        group, item = group[sample == 0], item[sample == 0]
        return np.repeat(group, self.size), np.tile(np.arange(self.size), len(group)), np.repeat(item, self.size)


class CoinSamples(GroupSamples):
    """When clusters become one, its samples come from each of them equally often, whatever their counts."""

    def regroup(self, counts: np.ndarray, into: np.ndarray, groups: int) -> np.ndarray:
        piece = super().regroup(np.ones_like(counts), into, groups)
        super().regroup(counts, into, groups)
        return piece


# ------------------------------------------------------------------------------------------------------------ clusters
class DriftingCenters(OnlineClusters):
    """A center moves to the mean of its cluster."""

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
    """A key within delta of a center from an earlier chunk does not look at the centers made in its own chunk."""

    def absorb(self, xp: Any, x: Array, *, maximum: float = np.inf) -> np.ndarray:
        index, square = nearest(xp, x, self.centers.rows)
        right = super().absorb(xp, x, maximum=maximum)
        return np.where(square <= self.delta**2, index, right)


class CrowdedClusters(OnlineClusters):
    """A key opens a cluster when it is farther than delta/2 from all centers."""

    def absorb(self, xp: Any, x: Array, *, maximum: float = np.inf) -> np.ndarray:
        delta, self.delta = self.delta, self.delta / 2
        labels = super().absorb(xp, x, maximum=maximum)
        self.delta = delta
        return labels


class WideClusters(OnlineClusters):
    """A key joins a center within twice delta."""

    @property
    def square(self) -> float:
        return 4 * super().square


class EndlessClusters(OnlineClusters):
    """There may be any number of clusters."""

    def absorb(self, xp: Any, x: Array, *, maximum: float = np.inf) -> np.ndarray:
        return super().absorb(xp, x)


class FullClusters(OnlineClusters):
    """Once there are as many clusters as there may be, keys join the nearest center, however far it is."""

    def absorb(self, xp: Any, x: Array, *, maximum: float = np.inf) -> np.ndarray:
        labels = super().absorb(xp, x, maximum=maximum)
        index, _ = nearest(xp, x[len(labels) :], self.centers.rows)
        return np.concatenate([labels, index])


BROKEN: dict[str, dict[str, Any]] = {
    "nothing": {},
    "eager slots": {"slots": EagerSlots},
    "uniform slots": {"slots": UniformSlots},
    "partly uniform slots": {"slots": PartlyUniformSlots},
    "twin slots": {"slots": TwinSlots},
    "shared slots": {"slots": SharedSlots},
    "coin slots": {"slots": CoinSlots},
    "late mean": {"from_mean": LateMean},
    "own units": {"from_mean": OwnUnits},
    "eager samples": {"samples": EagerSamples},
    "stale samples": {"samples": StaleSamples},
    "shared samples": {"samples": SharedSamples},
    "twin samples": {"samples": TwinSamples},
    "coin samples": {"samples": CoinSamples},
    "drifting centres": {"clusters": DriftingCenters},
    "blind clusters": {"clusters": BlindClusters},
    "crowded clusters": {"clusters": CrowdedClusters},
    "wide clusters": {"clusters": WideClusters},
    "endless clusters": {"clusters": EndlessClusters},
    "full clusters": {"clusters": FullClusters},
}
"""What is broken, and the part of a `Head` that is replaced for it."""
