"""SubGen's state for one attention problem: clusters with samples for the normaliser, value slots for the numerator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...core import backends
from ...core.backends import Array
from ...core.exact import partial_attention
from ...primitives.clustering import OnlineClusters
from ...primitives.growing import GrowingRows
from ...primitives.reservoir import GroupSamples, WeightedSlots, squared_norms


class Head:
    """One problem's state [SG24, Algorithm 1], problem `number` of those whose draws come from `seed`.

    The classes of its parts are arguments, because the claims pass broken ones, to see that these are noticed.
    """

    def __init__(
        self,
        xp: Any,
        delta: float,
        cluster_samples: int,
        value_samples: int,
        *,
        seed: int,
        number: int,
        d: int,
        d_v: int,
        dtype: Any,
        clusters: type[OnlineClusters] = OnlineClusters,
        samples: type[GroupSamples] = GroupSamples,
        slots: type[WeightedSlots] = WeightedSlots,
    ) -> None:
        self.clusters = clusters(delta, xp.zeros((0, d), dtype))  # the centers x_i
        self.samples = samples(cluster_samples, seed, 2 * number)  # counts n_i; when the clusters' samples change
        self.sampled = GrowingRows(xp.zeros((0, cluster_samples, d), dtype))  # the samples' keys S_i
        self.slots = slots(value_samples, seed, 2 * number + 1)  # mu, and when the slots change
        self.slot_keys, self.slot_values = (xp.zeros((value_samples, width), dtype) for width in (d, d_v))  # M
        self.radius = delta  # upper bound on the distance of a key to the center of its cluster

    def absorb(self, xp: Any, k: Array, v: Array, maximum: float) -> None:
        """Take keys (c, d), values (c, d_v); delta doubles whenever more than `maximum` clusters would be needed."""
        # Algorithm 1, UpdateMatrixProduct: mu grows by ||v||^2; each slot becomes (k, v) with probability ||v||^2 / mu.
        token = self.slots.absorb(squared_norms(v))
        changed = np.flatnonzero(token >= 0)
        if changed.size:
            slot, row = (backends.to_device(x, xp) for x in (changed, token[changed]))
            self.slot_keys[slot], self.slot_values[slot] = k[row], v[row]
        # Algorithm 1, UpdateSoftmaxNormalizer: the key joins the nearest center within delta, or becomes one.
        while len(k):
            labels = self.clusters.absorb(xp, k, maximum=maximum)
            if len(labels):
                self._sample(xp, k, labels)
            k = k[len(labels) :]
            if len(k):
                self.coarsen(xp, 2 * self.clusters.delta)

    def _sample(self, xp: Any, k: Array, labels: np.ndarray) -> None:
        """Algorithm 1: each of the t samples of the key's cluster becomes the key with probability `1/n_i`."""
        if new := len(self.clusters.centers) - len(self.sampled):  # all filled at once: a center is its first member
            self.sampled.append(xp, xp.zeros((new, self.samples.size, k.shape[1]), k.dtype))
        group, sample, item = self.samples.absorb(labels, len(self.sampled))
        if len(item):
            group, sample, item = (backends.to_device(x, xp) for x in (group, sample, item))
            self.sampled.rows[group, sample] = k[item]

    # ------------------------------------------------------------------------------------------- clusters of clusters
    def coarsen(self, xp: Any, delta: float) -> None:
        """Cluster the centers anew, at a larger delta [CCFM97]."""
        old = self.clusters.centers
        self.clusters = type(self.clusters)(delta, old.buffer[:0].copy())
        into = self.clusters.absorb(xp, old.rows)
        joined = len(self.clusters.centers) < len(old)
        self.radius = self.radius + delta if joined else max(self.radius, delta)  # later keys may be at delta
        self._regroup(xp, self.sampled.rows, self.samples.counts, into)

    def merge(self, xp: Any, other: Head, maximum: float) -> None:
        """Take over the clusters and slots of `other`, which saw a stream of its own and is left as it was."""
        centers, sampled, slot_keys, slot_values = (
            backends.together(x, self.slot_keys)[0] for x in other.device_arrays()
        )
        theirs = backends.to_device(np.flatnonzero(self.slots.merge(other.slots)), xp)
        self.slot_keys[theirs], self.slot_values[theirs] = slot_keys[theirs], slot_values[theirs]

        if other.clusters.delta > self.clusters.delta:
            self.coarsen(xp, other.clusters.delta)
        own, count = np.arange(len(self.sampled)), len(other.sampled)
        if count:
            into = np.concatenate([own, self.clusters.absorb(xp, centers[:count])])
            pieces = xp.concatenate([self.sampled.rows, sampled[:count]])
            self._regroup(xp, pieces, np.concatenate([self.samples.counts, other.samples.counts]), into)
            self.samples.seen += other.samples.seen
            joined = len(self.clusters.centers) < len(own) + count
            self.radius = max(self.radius, other.radius + (self.clusters.delta if joined else 0.0))
        while len(self.sampled) > maximum:
            self.coarsen(xp, 2 * self.clusters.delta)

    def _regroup(self, xp: Any, pieces: Array, counts: np.ndarray, into: np.ndarray) -> None:
        piece = backends.to_device(self.samples.regroup(counts, into, len(self.clusters.centers)), xp)
        self.sampled = GrowingRows(pieces[piece, xp.arange(self.samples.size)])

    # --------------------------------------------------------------------------------------------- what it consists of
    def device_arrays(self) -> list[Array]:
        """Arrays on the device of the rows, with the room to spare."""
        return [self.clusters.centers.buffer, self.sampled.buffer, self.slot_keys, self.slot_values]

    def host_arrays(self) -> list[np.ndarray]:
        """The clusters' counts, and when samples and slots change."""
        return [self.samples.counts, self.samples.due, self.slots.thresholds]

    def follow(self, xp: Any, name: str) -> None:
        """Move to the device of the rows `name`."""
        arrays = backends.follow(xp, name, *self.device_arrays())
        self.clusters.centers.buffer, self.sampled.buffer, self.slot_keys, self.slot_values = arrays

    def about(self) -> dict[str, Any]:
        """The numbers that `restore` needs beside `contents`."""
        return {
            "delta": self.clusters.delta,
            "radius": self.radius,
            "mu": self.slots.mu,
            "values_seen": self.slots.seen,
            "keys_seen": self.samples.seen,
            "turns": self.samples.turns,
        }

    def contents(self) -> dict[str, Array]:
        """The state's arrays by name, without the room to spare."""
        centers, samples = self.clusters.centers.rows, self.sampled.rows
        device = {"centres": centers, "samples": samples, "slot_keys": self.slot_keys, "slot_values": self.slot_values}
        return {**device, **dict(zip(("counts", "due", "thresholds"), self.host_arrays(), strict=True))}

    def restore(self, about: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        """Become the state whose `about()` and `contents()` these are."""
        self.clusters.delta, self.radius = about["delta"], about["radius"]
        self.slots.mu, self.slots.seen = about["mu"], about["values_seen"]
        self.samples.seen, self.samples.turns = about["keys_seen"], about["turns"]
        self.clusters.centers, self.sampled = GrowingRows(arrays["centres"]), GrowingRows(arrays["samples"])
        self.slot_keys, self.slot_values = arrays["slot_keys"], arrays["slot_values"]
        self.samples.counts, self.samples.due = arrays["counts"], arrays["due"]
        self.slots.thresholds = arrays["thresholds"]


# -------------------------------------------------------------------------------------------------------- the estimate
def numerators(xp: Any, heads: Sequence[Head], q: Array, scale: float) -> tuple[Array, Array]:
    """`z = exp(m) o` of every head for its queries (h, c, d): m (h, c), o (h, c, d_v); -inf and 0 while mu is 0."""
    # Algorithm 1, Query: z = sum over the slots of mu / (s ||v||^2) exp(<q, k>) v.
    keys, values = (_stacked(xp, [getattr(head, name) for head in heads]) for name in ("slot_keys", "slot_values"))
    mu, size = np.array([head.slots.mu for head in heads])[:, None], heads[0].slots.size
    weights = np.divide(mu / size, squared_norms(values), out=np.zeros((len(heads), size)), where=mu > 0)
    weighted = values * backends.to_device(weights.astype(q.dtype), xp)[..., None]
    sums = partial_attention(q, keys, weighted, scale=scale, check_finite=False)
    return xp.where(backends.to_device(mu > 0, xp), sums.m, -np.inf), sums.o


def normalisers(xp: Any, heads: Sequence[Head], q: Array, scale: float) -> tuple[Array, Array]:
    """`tau = exp(m) o` of every head for its queries, as m (h, c) and o (h, c, 1)."""
    # Algorithm 1, Query: tau = sum over clusters of n_i / t times the sum over their samples of exp(<q, k>).
    keys, size = _stacked(xp, [head.sampled.rows for head in heads]), heads[0].samples.size
    weights = np.zeros(keys.shape[:3], q.dtype)
    for row, head in zip(weights, heads, strict=True):
        row[: len(head.sampled)] = (head.samples.counts / size)[:, None]
    keys, weights = keys.reshape(len(heads), -1, q.shape[-1]), weights.reshape(len(heads), -1, 1)
    sums = partial_attention(q, keys, backends.to_device(weights, xp), scale=scale, check_finite=False)
    return sums.m, sums.o


def _stacked(xp: Any, arrays: Sequence[Array]) -> Array:
    """Arrays (m_i, ...) as one, each filled up with its first row: no larger logit comes in. A view of a single one."""
    if len(arrays) == 1:
        return arrays[0][None]
    out = xp.empty((len(arrays), max(map(len, arrays)), *arrays[0].shape[1:]), arrays[0].dtype)
    for i, x in enumerate(arrays):
        out[i, : len(x)], out[i, len(x) :] = x, x[:1]
    return out


def ratio_of(xp: Any, numerators: list[tuple[Array, Array]], normalisers: list[tuple[Array, Array]]) -> Array:
    """`z / tau`: the sum of the numerators over that of the normalisers, each `exp(m) o`.

    The two sums have references of their own: a slot's largest logit may lie far above the clusters' samples, and the
    ratio is then large, but no 0/0. One past the largest float is inf.
    """
    above, below = (_largest(xp, [m for m, _ in sums]) for sums in (numerators, normalisers))
    z = sum(xp.exp(m - above)[..., None] * o for m, o in numerators)
    tau = sum(xp.exp(m - below)[..., None] * o for m, o in normalisers)
    with np.errstate(over="ignore", invalid="ignore"):
        half = xp.exp((above - below) / 2)[..., None]  # twice: a small ratio times a large factor may be neither
        ratio = z / tau * half * half
    return xp.where(z == 0, 0, ratio)


def _largest(xp: Any, references: list[Array]) -> Array:
    largest = xp.stack(references).max(axis=0)
    return xp.where(xp.isfinite(largest), largest, 0)  # of numerators there may be none yet
