"""SubGen's state for one attention problem: clusters with samples for the normaliser, value slots for the numerator."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ...core import backends
from ...core.attend import serves
from ...core.backends import Array
from ...core.exact import partial_attention
from ...primitives.clustering import OnlineClusters, absorb_each
from ...primitives.growing import GrowingRows, stacked
from ...primitives.reservoir import GroupSamples, WeightedSlots, squared_norms
from ..caches.base import over_slots, softmax_weighted
from .laws import FromMean, Law


class Head:
    """One problem's state [SG24, Algorithm 1], problem `number` of those whose draws come from `seed`.

    Without `clustered`, slots alone are kept, and of the clusters there are none; `law` is the slots' (`laws`).
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
        law: Law = "norm",
        clustered: bool = True,
        clusters: type[OnlineClusters] = OnlineClusters,
        samples: type[GroupSamples] = GroupSamples,
        slots: type[WeightedSlots] = WeightedSlots,
        from_mean: type[FromMean] = FromMean,
    ) -> None:
        self.clusters = clusters(delta, xp.zeros((0, d), dtype))  # the centers x_i
        self.samples = samples(cluster_samples, seed, 2 * number)  # counts n_i; when the clusters' samples change
        self.sampled = GrowingRows(xp.zeros((0, cluster_samples, d), dtype))  # the samples' keys S_i
        self.slots = slots(value_samples, seed, 2 * number + 1)  # mu, and when the slots change
        self.slot_keys, self.slot_values = (xp.zeros((value_samples, width), dtype) for width in (d, d_v))  # M
        self.radius = delta  # upper bound on the distance of a key to the center of its cluster
        self.law, self.clustered = law, clustered
        self.from_mean = from_mean(law, value_samples, d_v) if law in ("centred", "distance") else None
        self._squares = 0.0

    def absorb(self, xp: Any, k: Array, v: Array, maximum: float) -> None:
        """`absorb` for this head alone: keys (c, d), values (c, d_v)."""
        absorb(xp, [self], k[None], v[None], maximum)

    @property
    def squares(self) -> float:
        """`||V||_F^2`; not counted, and 0, without clusters and with another law than "norm"."""
        return self.slots.mu if self.law == "norm" else self._squares

    def sample(self, xp: Any, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Algorithm 1: each of the t samples of the key's cluster becomes the key with probability `1/n_i`.

        Returns which samples do, by their number among all of the head, and which of the keys they become.
        """
        groups = len(self.clusters.centers)
        if new := groups - len(self.sampled):  # all filled at once: a center is its first member
            self.sampled.extend(xp, new)
        group, sample, item = self.samples.absorb(labels, groups)
        return group * self.samples.size + sample, item

    # ------------------------------------------------------------------------------------------- clusters of clusters
    def coarsen(self, xp: Any, delta: float) -> None:
        """`coarsen` for this head alone."""
        coarsen(xp, [self], [delta])

    def merge(self, xp: Any, other: Head, maximum: float) -> None:
        """Take over the clusters and slots of `other`, which saw a stream of its own and is left as it was."""
        centers, sampled, slot_keys, slot_values = (
            backends.together(x, self.slot_keys)[0].astype(self.slot_keys.dtype, copy=False)
            for x in other.device_arrays()
        )
        if self.from_mean is None or other.from_mean is None:
            taken = self.slots.merge(other.slots)
        else:
            taken = self.slots.merge(other.slots, self.from_mean.factor(other.from_mean))
            self.from_mean.merge(other.from_mean, taken)
        self._squares += other._squares
        theirs = backends.to_device(np.flatnonzero(taken), xp)
        self.slot_keys[theirs], self.slot_values[theirs] = slot_keys[theirs], slot_values[theirs]

        if other.clusters.delta > self.clusters.delta:
            self.coarsen(xp, other.clusters.delta)
        own, count = np.arange(len(self.sampled)), len(other.sampled)
        if count:
            into = np.concatenate([own, self.clusters.absorb(xp, centers[:count])])
            pieces = xp.concatenate([self.sampled.rows, sampled[:count]])
            self.regroup(xp, pieces, np.concatenate([self.samples.counts, other.samples.counts]), into)
            self.samples.seen += other.samples.seen
            joined = len(self.clusters.centers) < len(own) + count
            self.radius = max(self.radius, other.radius + (self.clusters.delta if joined else 0.0))
        while len(self.sampled) > maximum:
            self.coarsen(xp, 2 * self.clusters.delta)

    def regroup(self, xp: Any, pieces: Array, counts: np.ndarray, into: np.ndarray) -> None:
        """Put pieces (p, t, d), samples of `counts` (p,) keys each, together to the clusters `into` (p,)."""
        piece = backends.to_device(self.samples.regroup(counts, into, len(self.clusters.centers)), xp)
        self.sampled = GrowingRows(pieces[piece, xp.arange(self.samples.size)])

    # --------------------------------------------------------------------------------------------- what it consists of
    def device_arrays(self) -> list[Array]:
        """Arrays on the device of the rows, with the room to spare."""
        return [self.clusters.centers.buffer, self.sampled.buffer, self.slot_keys, self.slot_values]

    def host_arrays(self) -> dict[str, np.ndarray]:
        """By name: the clusters' counts, when samples and slots change, and what some laws know of the values."""
        law = {} if self.from_mean is None else {"value_sum": self.from_mean.total, "weights": self.from_mean.stored}
        return {"counts": self.samples.counts, "due": self.samples.due, "thresholds": self.slots.thresholds, **law}

    def follow(self, xp: Any, name: str) -> None:
        """Move to the device of the rows `name`."""
        arrays = backends.follow(xp, name, *self.device_arrays())
        self.clusters.centers.buffer, self.sampled.buffer, self.slot_keys, self.slot_values = arrays

    def widen(self) -> None:
        """Bring the rows to the working dtype."""
        arrays = map(backends.widened, self.device_arrays())
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
            **({} if self.law == "norm" else {"squares": self._squares}),
            **({} if self.from_mean is None else {"unit": self.from_mean.unit}),
        }

    def contents(self) -> dict[str, Array]:
        """The state's arrays by name, without the room to spare."""
        centers, samples = self.clusters.centers.rows, self.sampled.rows
        device = {"centres": centers, "samples": samples, "slot_keys": self.slot_keys, "slot_values": self.slot_values}
        return {**device, **self.host_arrays()}

    def restore(self, about: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        """Become the state whose `about()` and `contents()` these are."""
        self.clusters.delta, self.radius = about["delta"], about["radius"]
        self.slots.mu, self.slots.seen = about["mu"], about["values_seen"]
        self.samples.seen, self.samples.turns = about["keys_seen"], about["turns"]
        self.clusters.centers, self.sampled = GrowingRows(arrays["centres"]), GrowingRows(arrays["samples"])
        self.slot_keys, self.slot_values = arrays["slot_keys"], arrays["slot_values"]
        self.samples.counts, self.samples.due = arrays["counts"], arrays["due"]
        self.slots.thresholds, self._squares = arrays["thresholds"], about.get("squares", 0.0)
        if self.from_mean is not None:
            self.from_mean.total, self.from_mean.stored = arrays["value_sum"], arrays["weights"]
            self.from_mean.unit = about["unit"]


# ---------------------------------------------------------------------------------------------------------- the stream
def absorb(xp: Any, heads: Sequence[Head], k: Array, v: Array, maximum: float) -> None:
    """Take keys (h, c, d), values (h, c, d_v); delta doubles whenever more than `maximum` clusters would be needed."""
    # Algorithm 1, UpdateMatrixProduct: mu grows by w = ||v||^2; each slot becomes (k, v) with probability w / mu.
    weights = _weights(heads, v)
    token = [head.slots.absorb(its) for head, its in zip(heads, weights, strict=True)]
    changed = [(its >= 0).nonzero()[0] for its in token]
    items = [its[slots] for its, slots in zip(token, changed, strict=True)]
    for head, slot, key, value in _replacements(xp, heads, changed, items, k, v):
        head.slot_keys[slot], head.slot_values[slot] = key, value
    for head, slot, its, w in zip(heads, changed, items, weights, strict=True):
        if head.from_mean is not None:
            head.from_mean.stored[slot] = w[its]
    if not heads[0].clustered:
        return
    # Algorithm 1, UpdateSoftmaxNormalizer: the key joins the nearest center within delta, or becomes one.
    rest, begin, none = (
        list(range(len(heads))),
        [0] * len(heads),
        np.zeros(0, np.int64),
    )  # who has keys left, from where
    while rest:
        points = [k[i, begin[i] :] for i in rest] if any(begin) else k
        labels = absorb_each(xp, [heads[i].clusters for i in rest], points, maximum=maximum)
        samples, items = [none] * len(heads), [none] * len(heads)
        for i, joined in zip(rest, labels, strict=True):
            if len(joined):
                samples[i], item = heads[i].sample(xp, joined)
                items[i] = item + begin[i]
                begin[i] += len(joined)
        for head, sample, key in _replacements(xp, heads, samples, items, k):
            head.sampled.rows.reshape(-1, k.shape[-1])[sample] = key
        rest = [i for i in rest if begin[i] < k.shape[1]]
        coarsen(xp, [heads[i] for i in rest], [2 * heads[i].clusters.delta for i in rest])


def _weights(heads: Sequence[Head], v: Array) -> Sequence[np.ndarray]:
    """Weights (c,) of each head's next values (h, c, d_v), under the slots' law."""
    law = heads[0].law
    if law == "norm" or heads[0].clustered:
        squares = squared_norms(v)
        if law == "norm":
            return list(squares)
        for head, its in zip(heads, squares, strict=True):  # one after another: rounded alike in any chunks
            head._squares = float(np.cumsum(np.concatenate([[head._squares], its]))[-1])
    if law == "uniform":
        return [np.ones(v.shape[1])] * len(heads)
    both = zip(heads, backends.asnumpy(v), strict=True)
    return [head.from_mean.weigh(rows, head.slots.seen) for head, rows in both if head.from_mean is not None]


def _replacements(
    xp: Any, heads: Sequence[Head], places: list[np.ndarray], items: list[np.ndarray], *rows: Array
) -> Iterator[tuple[Any, ...]]:
    """Of each head that has any: the places (r,) on the device, and of `rows` (h, c, d) its own (r, d), by `items`."""
    if xp is np:
        for i, its in enumerate(items):
            if len(its):
                yield heads[i], places[i], *(x[i][its] for x in rows)
        return
    if not any(map(len, items)):
        return
    numbers = [its + i * rows[0].shape[1] for i, its in enumerate(items)]
    moves = backends.to_device(np.concatenate([*places, *numbers]).reshape(2, -1), xp)
    place, found, begin = moves[0], [backends.gather(xp, x.reshape(-1, x.shape[-1]), moves[1]) for x in rows], 0
    for head, its in zip(heads, items, strict=True):
        if len(its):
            begin, part = begin + len(its), slice(begin, begin + len(its))
            yield head, place[part], *(x[part] for x in found)


def coarsen(xp: Any, heads: Sequence[Head], deltas: Sequence[float]) -> None:
    """Cluster the centers of each head anew, at a larger delta [CCFM97]."""
    if not heads:
        return
    old = [head.clusters.centers for head in heads]
    for head, delta, centers in zip(heads, deltas, old, strict=True):
        head.clusters = type(head.clusters)(delta, centers.buffer[:0].copy())
    labels = absorb_each(xp, [head.clusters for head in heads], [centers.rows for centers in old])
    for head, delta, centers, into in zip(heads, deltas, old, labels, strict=True):
        joined = len(head.clusters.centers) < len(centers)
        head.radius = head.radius + delta if joined else max(head.radius, delta)  # later keys may be at delta
        head.regroup(xp, head.sampled.rows, head.samples.counts, into)


# -------------------------------------------------------------------------------------------------------- the estimate
def numerators(xp: Any, heads: Sequence[Head], q: Array, scale: float) -> tuple[Array, Array]:
    """`z = exp(m) o` of every head for its queries (h, c, d): m (h, c), o (h, c, d_v); -inf and 0 while mu is 0."""
    # Algorithm 1, Query: z = sum over the slots of mu / (s ||v||^2) exp(<q, k>) v.
    keys, values = (stacked(xp, [getattr(head, name) for head in heads]) for name in ("slot_keys", "slot_values"))
    mu, size = np.array([head.slots.mu for head in heads])[:, None], heads[0].slots.size
    if serves(xp, q, keys, values):
        log_weights = _log_weights(xp, heads, values, none=-np.inf)  # while mu is 0 no slot counts
        p = over_slots(xp, q, keys, values, scale=scale, log_weights=log_weights.astype(np.float32))
        return p.m, p.o
    weights = np.divide(mu / size, stored_weights(heads, values), out=np.zeros((len(heads), size)), where=mu > 0)
    weighted = values * backends.to_device(weights.astype(q.dtype), xp)[..., None]
    sums = partial_attention(q, keys, weighted, scale=scale, check_finite=False)
    return xp.where(backends.to_device(mu > 0, xp), sums.m, -np.inf), sums.o


def both_sums(xp: Any, heads: Sequence[Head], q: Array, scale: float) -> tuple[tuple[Array, Array], ...]:
    """`z` as `numerators` gives it, and as `normalisers` would the estimate of the normaliser from the same slots.

    That is `sum_slots mu / (s w) exp(<q, k>)`, unbiased as z is; w is the weight of the slot's token.
    """
    keys, values = (stacked(xp, [getattr(head, name) for head in heads]) for name in ("slot_keys", "slot_values"))
    p = softmax_weighted(xp, q, keys, values, _log_weights(xp, heads, values, none=0.0), scale)
    some = backends.to_device(np.array([head.slots.mu > 0 for head in heads])[:, None], xp)
    m = xp.where(some, p.m, -np.inf)  # while mu is 0 no slot counts
    return (m, p.o), (m, p.l[..., None])


def stored_weights(heads: Sequence[Head], values: Array) -> np.ndarray:
    """Weight of the token in each slot, (h, s) on the host."""
    if heads[0].law == "norm":
        return squared_norms(values)
    return np.stack([np.ones(x.slots.size) if x.from_mean is None else x.from_mean.stored for x in heads])


def _log_weights(xp: Any, heads: Sequence[Head], values: Array, *, none: float) -> Array:
    """`log(mu / (s w))` of every slot, (h, s) in float64; `none` in place of `log(mu / s)` while mu is 0."""
    mu = np.array([head.slots.mu for head in heads])[:, None]
    log_mu = np.log(mu / heads[0].slots.size, out=np.full(mu.shape, none), where=mu > 0)
    if heads[0].law != "norm":
        return backends.to_device(log_mu - np.log(stored_weights(heads, values)), xp)
    squares = backends.row_squares(xp, values, np.float64)
    return backends.to_device(log_mu, xp) - xp.log(xp.where(squares == 0, 1, squares))


def normalisers(xp: Any, heads: Sequence[Head], q: Array, scale: float) -> tuple[Array, Array]:
    """`tau = exp(m) o` of every head for its queries, as m (h, c) and o (h, c, 1)."""
    # Algorithm 1, Query: tau = sum over clusters of n_i / t times the sum over their samples of exp(<q, k>).
    keys, size = stacked(xp, [head.sampled.rows for head in heads]), heads[0].samples.size
    if serves(xp, q, keys):
        log_counts = np.full(keys.shape[:2], -np.inf, np.float32)
        for row, head in zip(log_counts, heads, strict=True):
            row[: len(head.sampled)] = np.log(head.samples.counts / size)
        log_weights = xp.repeat(backends.to_device(log_counts, xp), size, axis=1)
        keys = keys.reshape(len(heads), -1, q.shape[-1])
        p = over_slots(xp, q, keys, keys, scale=scale, log_weights=log_weights)
        return p.m, p.l[..., None]
    weights = np.zeros(keys.shape[:3], q.dtype)
    for row, head in zip(weights, heads, strict=True):
        row[: len(head.sampled)] = (head.samples.counts / size)[:, None]
    keys, weights = keys.reshape(len(heads), -1, q.shape[-1]), weights.reshape(len(heads), -1, 1)
    sums = partial_attention(q, keys, backends.to_device(weights, xp), scale=scale, check_finite=False)
    return sums.m, sums.o
