"""SubGen: attention over a growing set of keys from clusters of the keys and a sample of the values.

Source: Zandieh, Han, Mirrokni, Karbasi, *SubGen: Token Generation in Sublinear Time and Memory*, arXiv 2402.06082
[SG24]: Algorithm 1 and Theorem 1. No public code runs the streaming algorithm: the paper's experiments ran an offline
greedy k-center once (`caches.KCenterCache`).

When a token `(k, v)` comes, (1) its key joins the cluster of the nearest center within delta, or else becomes a center
itself, and each of the cluster's t samples is replaced by the key with probability `1/count`; (2) each of the s slots
is replaced by the token with probability `||v||^2 / mu`, where `mu` is the sum of all squared value norms so far, this
one included. For a query, the slots give `z`, an unbiased estimate of the numerator `sum_j exp(<q, k_j>) v_j`; the
clusters' samples give `tau`, an unbiased estimate of the normaliser `sum_j exp(<q, k_j>)`; the answer is `z / tau`.
The class here checks, keeps the recent window and adds up; `head.Head` is the state of one attention problem and has
the steps of Algorithm 1.

Cost, with m clusters: memory `m (d + t d) + s (d + d_v)` numbers; `O(m d)` operations per token, done as one matrix
product per chunk; `O(m t d + s (d + d_v))` per query. m is at most the number of parts of any partition of the keys
into parts of diameter delta; where keys do not cluster, m grows like n.

Differs from the paper in:

1. Tokens are absorbed in chunks. The state is bit for bit the one that absorbing them one by one gives: see
   `primitives.clustering` and `primitives.reservoir`.
2. It is drawn ahead at which token a sample or slot is replaced next, with the paper's probabilities.
3. The last `recent` tokens may be kept exactly, and join clusters and slots when they leave the window.
4. With `max_clusters`, delta doubles whenever one more cluster would be needed, as in the doubling algorithm of
   Charikar, Chekuri, Feder and Motwani [CCFM97]: memory is bounded for any keys, at the price of a larger delta.
5. Two caches over disjoint streams merge.
6. With `normaliser="slots"` the slots estimate the normaliser, too, and there are no clusters; `law` may draw the slots
   in proportion to something else than `||v||^2` (`laws`). By default both are the paper's.
7. No entry of an answer is larger than `||V||_F`, since none of attention is: where few samples meet logits that differ
   much, a ratio of estimates has no bound of its own, and overflows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, Self, get_args

import numpy as np

from ...core import backends, checks
from ...core.backends import Array
from ...core.exact import Partial, partial_attention
from ...primitives.reservoir import seed_from
from ..caches.base import MergingCache, ratio_of
from .head import Head, absorb, both_sums, normalisers, numerators
from .laws import Law

Normaliser = Literal["clusters", "slots"]


class SubGenCache(MergingCache):
    """Key-value cache of sublinear size for keys that cluster [SG24].

    Parameters
    ----------
    delta : float, optional
        A key joins the nearest center if its distance, unscaled, is at most delta; else it becomes a center.
    cluster_samples : int, optional
        `t`, samples per cluster. Both are needed with `normaliser="clusters"`, and refused with "slots".
    value_samples : int
        `s`, value slots.
    recent : int
        Last tokens that are kept exactly.
    max_clusters : int, optional
        Bound on the number of clusters: delta doubles when it would be exceeded.
    normaliser : "clusters" or "slots"
        Where `tau` comes from: the clusters' samples [SG24], or the slots, which then give both sums.
    law : "norm", "centred", "distance" or "uniform"
        A slot holds token j in proportion to `||v_j||^2` [SG24], to `||v_j - mean||^2` or `||v_j - mean||`, where mean
        is that of the values before it, or to nothing: every token alike. Slots have no values of the recent window.
    rng : Generator, int or None
        Source of the draws. Two caches that are to be merged need different seeds.

    Attributes
    ----------
    centers : array, shape (m, d)
        Keys that opened a cluster, in their order.
    current_delta : float
        `delta`, or what it has been doubled to.
    counts : numpy array of int64, shape (m,)
        Number of keys in each cluster.
    mu : float
        Sum of the weights of the tokens outside the recent window: of `||v||^2`, unless `law` is another.
    radius : float
        Upper bound on the distance of a key to the center of its cluster: delta, unless clusters were merged.
        With `normaliser="slots"` there are no centers and no counts, delta and radius are 0.
        With leading axes, all of these are lists with one entry per problem, in C order; before the first token,
        reading them raises ValueError.
    heads : list of Head
        The states of the problems, in C order; empty before the first token.

    Raises
    ------
    TypeError, ValueError
        Impossible parameters.

    Notes
    -----
    Choosing parameters: `Hardness.cluster_radius(m)` is about the delta that makes m clusters, and `within` finds delta
    for a budget of bytes; where keys do not cluster, m is nearly n. Of the two errors that of `z`, which falls like
    `s^-1/2`, is usually the larger. Where `scale delta ||q||` is small, a few samples t suffice for the error of `tau`;
    but few samples bias the answer, since `E[1/tau] > 1/E[tau]`.

    Guarantee [SG24, Theorem 1]: for `scale ||q|| <= r`, `t = Omega(eps^-2 e^(2 delta r) log n)` and
    `s = Omega(eps^-2 d)`, an answer is within `eps ||softmax(scale K q)||_2 ||V||` of attention with probability 0.99.
    With constants: `z` is within `eps ||exp(scale K q)|| ||V||` of its mean with probability `1 - p` for
    `s >= srank(V) / (eps^2 p)`, and the relative variance of `tau` is at most `sinh(w)^2 / t`, where
    `w = radius scale ||q||`.

    With `normaliser="slots"` an answer is a mean of stored values, in which a slot counts `mu / (s w)`, w being its
    token's weight under `law`. Both sums are unbiased under every law: a weight is known when its token comes, and
    stored with it ("centred" and "distance": 8 bytes per slot, and 8 d_v). Lost are tokens of weight 0: with "norm"
    those of value 0, with "centred" and "distance" any whose value is the mean of those before it, once these differ.
    With `p_j = w_j / mu`, without a window, `E[(tau/D)^2 ||out - o||^2] = sum_j P_j^2 ||v_j - o||^2 / (s p_j) = F / s`,
    where o and D are the exact answer and normaliser; for `s >= 8 sum_j P_j^2 / (p_j p)` an answer is within
    `2 sqrt(2 F / (s p))` of o with probability `1 - p`. The bias is of order 1/s. Where values have a mean, the errors
    of the two sums cancel, which those of slots and clusters do not. No law that does not see the queries bounds F by
    the theorem's norm: tokens with most of the attention must be among the slots, and "norm" holds one of small value
    rarely, as attention sinks are. "norm" is `ReservoirCache(..., "value-norm")`; "uniform" its "uniform", with
    replacement.

    Draws are a function of the seed, the slot and the token: one seed gives the same state, to the bit, for any chunks.

    After a merge, each slot holds every token of both streams with probability `||v||^2 / mu`, independently of the
    other slots. Delta becomes the larger of the two, before any doubling. A center of `other` that is within delta of a
    center already there gives its cluster to it, so that centers stay pairwise farther than delta, and there are still
    at most as many as parts in any partition of both streams' keys into parts of diameter delta. Samples stay uniform
    over their cluster; but a key may now be as far from its center as delta plus `other`'s radius, which `radius`
    accounts for.

    Examples
    --------
    >>> from sublinattn import SubGenCache
    >>> from sublinattn.lab.workloads import make
    >>> x = make("clusterable", 4096, 16, rng=0, clusters=8)
    >>> cache = SubGenCache(delta=2.0, cluster_samples=8, value_samples=256, recent=64, rng=0)
    >>> for start in range(0, 4096, 1024):
    ...     cache = cache.update(x.k[start : start + 1024], x.v[start : start + 1024])
    >>> cache.attend(x.q[:2]).shape, cache.tokens_seen
    ((2, 16), 4096)
    >>> cache.nbytes < (x.k.nbytes + x.v.nbytes) / 4
    True
    >>> slots = SubGenCache(value_samples=256, normaliser="slots", law="distance", rng=0).update(x.k, x.v)
    >>> slots.attend(x.q[:2]).shape
    (2, 16)
    """

    PARAMETERS = (
        *("delta", "cluster_samples", "value_samples", "recent", "max_clusters"),
        *("normaliser", "law"),
    )

    def __init__(
        self,
        delta: float | None = None,
        cluster_samples: int | None = None,
        value_samples: int | None = None,
        *,
        recent: int = 0,
        max_clusters: int | None = None,
        normaliser: Normaliser = "clusters",
        law: Law = "norm",
        rng: np.random.Generator | int | None = None,
    ) -> None:
        super().__init__()
        checks.choice("normaliser", normaliser, get_args(Normaliser))
        checks.choice("law", law, get_args(Law))
        self.normaliser, self.law = normaliser, law
        self._clustered = normaliser == "clusters"
        self.delta, self.cluster_samples, self.max_clusters = delta, cluster_samples, max_clusters
        if self._clustered:
            self.delta = checks.real("delta", delta)
            if not 0 <= self.delta < math.inf:
                raise ValueError(f"delta must be a finite number of at least 0, got {delta}")
            self.cluster_samples = checks.integer("cluster_samples", cluster_samples, minimum=1)
            if max_clusters is not None:
                self.max_clusters = checks.integer("max_clusters", max_clusters, minimum=1)
                if not self.delta:
                    raise ValueError("delta must be above 0 if max_clusters is given: it is doubled, got 0")
        else:
            for name in ("delta", "cluster_samples", "max_clusters"):
                if (given := getattr(self, name)) is not None:
                    raise ValueError(
                        f"{name} must be None with normaliser='slots', which keeps no clusters, got {given}"
                    )
        self.value_samples = checks.integer("value_samples", value_samples, minimum=1)
        self.recent = checks.integer("recent", recent, minimum=0)
        self._maximum = math.inf if self.max_clusters is None else self.max_clusters
        self._squared = ("k", "v")  # the base class checks that their squared norms are finite
        self._seeds = [seed_from(rng)]
        self._parts: dict[str, Any] = {}  # classes for Head's clusters, samples and slots: sabotages replace them
        self.heads: list[Head] = []

    @classmethod
    def within(
        cls,
        nbytes: int,
        d: int,
        d_v: int,
        *,
        delta: float,
        cluster_samples: int,
        value_samples: int,
        recent: int = 0,
        dtype: Any = np.float32,
        rng: np.random.Generator | int | None = None,
    ) -> Self:
        """A cache that never holds more than `nbytes` for each problem.

        `max_clusters` is set to as many clusters as fit in the bytes that slots and window leave. Delta is found
        online: it doubles when that many clusters do not suffice. Every key is then within 8 times the smallest radius
        with which so many centers can cover the keys [CCFM97]. A doubling may merge most clusters, and often leaves a
        good part of the budget unused.

        Parameters
        ----------
        nbytes, d, d_v : int
            The budget; the widths of keys and values. `update` refuses rows of other widths.
        delta : float
            Initial delta; choose it smaller than the one that the budget will need.
        cluster_samples, value_samples, recent, rng
            As for the class.
        dtype : "float32" or "float64"
            Of the stored rows; keys in half precision are stored as float32, or take less.

        Raises
        ------
        TypeError, ValueError
            Impossible parameters; a budget without room for one cluster.
        """
        sizes = {"d": d, "d_v": d_v, "cluster_samples": cluster_samples, "value_samples": value_samples}
        d, d_v, t, s = (checks.integer(name, x, minimum=1) for name, x in sizes.items())
        r = checks.integer("recent", recent, minimum=0)
        if dtype not in (np.float32, np.float64, "float32", "float64"):
            raise ValueError(f"dtype must be float32 or float64, got {dtype!r}")
        item = np.dtype(dtype).itemsize
        fixed = (s + r) * (d + d_v) * item + 8 * s
        # A center or sample is d numbers, with an eighth of room to grow, and 8 bytes (count; when the sample changes).
        each = (1 + t) * (d * item * 9 / 8 + 8)
        clusters = int((checks.integer("nbytes", nbytes, minimum=1) - fixed) / each)
        if clusters < 1:
            raise ValueError(f"nbytes must be at least {math.ceil(fixed + each)} for these samples, got {nbytes}")
        cache = cls(delta, t, s, recent=r, max_clusters=clusters, rng=rng)
        cache._width, cache._dtype = {"k": d, "v": d_v}, np.dtype(dtype)  # `update` refuses other rows from now on
        return cache

    # ----------------------------------------------------------------------------------------------- public properties
    @property
    @backends.on_device
    def centers(self) -> Any:
        return self._shown([head.clusters.centers.rows.copy() for head in self.heads])

    @property
    def current_delta(self) -> Any:
        return self._shown([head.clusters.delta for head in self.heads])

    @property
    def counts(self) -> Any:
        return self._shown([head.samples.counts.copy() for head in self.heads])

    @property
    def mu(self) -> Any:
        return self._shown([head.slots.mu for head in self.heads])

    @property
    def radius(self) -> Any:
        return self._shown([head.radius for head in self.heads])

    def _shown(self, values: list[Any]) -> Any:
        if not self.tokens_seen:
            raise ValueError("a cache without tokens has no clusters: call update first")
        return values if self._batch_shape else values[0]

    # ------------------------------------------------------------------------------------------------------ the stream
    def _absorb(self, xp: Any, k: Array, v: Array) -> None:
        self._begin(xp, len(k))
        if self.recent:
            k, v = self._leaving(xp, k, v)
        if k.shape[1]:
            step = 1 if xp is np else len(k)  # one problem fits a CPU's caches, and fills none of a device's
            for i in range(0, len(k), step):
                absorb(xp, self.heads[i : i + step], k[i : i + step], v[i : i + step], self._maximum)

    def _begin(self, xp: Any, count: int) -> None:
        """Make the states of `count` problems, unless they are there."""
        if not self.heads:
            alike: dict[str, Any] = {"law": self.law, "value_samples": self.value_samples, **self._parts}
            alike |= {"d": self._width["k"], "d_v": self._width["v"], "dtype": self._row_dtype}
            if self._clustered:
                alike |= {"delta": self.delta, "cluster_samples": self.cluster_samples}
            else:
                alike |= {"delta": 0.0, "cluster_samples": 1, "clustered": False}
            width, item = self._width["k"], np.dtype(self._row_dtype).itemsize
            for name, rows, numbers in (
                ("value_samples", self.value_samples, width + self._width["v"]),
                ("cluster_samples", alike["cluster_samples"], width),  # of the first cluster
            ):
                checks.fits_memory(name, rows, count * rows * numbers * item)
            self.heads = [Head(xp, seed=self._seeds[0], number=number, **alike) for number in range(count)]

    def _leaving(self, xp: Any, k: Array, v: Array) -> list[Array]:
        """Append rows to the window; return the keys and values that leave it, oldest first."""
        leaving = []
        for name, x in (("recent_k", k), ("recent_v", v)):
            if name in self._stored:
                x = xp.concatenate([self._stored[name], x], axis=1)
            out = max(0, x.shape[1] - self.recent)
            self._stored[name] = x[:, out:].copy()
            leaving.append(x[:, :out])
        return leaving

    # ---------------------------------------------------------------------------------------------------- the estimate
    def _attend(self, xp: Any, q: Array, scale: float) -> Array:
        z, tau = [], []  # summands of numerator and normaliser, as pairs (m, o) that stand for exp(m) o
        if self.heads[0].slots.seen:  # else all tokens are in the window
            above, below = sums(xp, self.heads, q, scale)
            z.append(above)
            tau.append(below)
        if self.recent:  # the window adds to both sums exactly
            window = (self._stored[name] for name in ("recent_k", "recent_v"))
            exact = partial_attention(q, *window, scale=scale, check_finite=False)
            z.append((exact.m, exact.o))
            tau.append((exact.m, exact.l[..., None]))
        # A mean of stored values needs no bound.
        return ratio_of(xp, z, tau, self._bound(xp, backends.working_dtype(q)) if self._clustered else None)

    def partial(self, xp: Any, rows: Sequence[int], q: Array, scale: float) -> Partial:
        """Both sums of the problems `rows` for their queries (rows, c, d), to be merged with those of later tokens.

        As in an answer, no entry of their quotient exceeds the norm of the values seen. Without a window.
        """
        (above, z), (below, tau) = sums(xp, [self.heads[row] for row in rows], q, scale)
        reference = xp.where(xp.isfinite(below), below, 0)  # slots alone may hold nothing: values that are all 0
        tau = xp.exp(below - reference)[..., None] * tau
        with np.errstate(over="ignore", invalid="ignore"):  # of what the bound then cuts
            z = xp.where(z == 0, 0, xp.exp(above - reference)[..., None] * z)
        if self._clustered:
            largest = self._bound(xp, q.dtype)[backends.to_device(np.asarray(rows), xp)] * tau
            z = xp.clip(z, -largest, largest)
        return Partial(below, tau[..., 0], z)

    def _bound(self, xp: Any, dtype: Any) -> Array:
        """`||V||_F` of every problem, shape (h, 1, 1): no value, nor a mean of values, has a larger entry."""
        squares = backends.to_device(np.array([head.squares for head in self.heads]), xp)
        if self.recent:
            squares = squares + (self._stored["recent_v"].astype(np.float64) ** 2).sum(axis=(1, 2))
        return xp.minimum(xp.sqrt(squares), np.finfo(dtype).max).astype(dtype)[:, None, None]

    # --------------------------------------------------------------------------------------------------------- merging
    def _take(self, xp: Any, other: SubGenCache, theirs: dict[str, Array]) -> None:
        self._begin(xp, len(other.heads))
        for head, other_head in zip(self.heads, other.heads, strict=True):
            head.merge(xp, other_head, self._maximum)
        if self.recent:  # the other's window comes after this cache's
            self._absorb(xp, theirs["recent_k"], theirs["recent_v"])

    # -------------------------------------------------------------------------------------------------- saved and moved
    def contents(self) -> dict[str, Array]:
        """The arrays that `save` writes, without room to grow: the window, and `<number>.<name>` of every head."""
        heads = {f"{i}.{name}": x for i, head in enumerate(self.heads) for name, x in head.contents().items()}
        return {**self._stored, **heads}

    def _arrays(self) -> list[Array]:
        heads = (array for head in self.heads for array in (*head.device_arrays(), *head.host_arrays().values()))
        return [*self._stored.values(), *heads]

    def _follow(self, xp: Any, name: str) -> None:
        super()._follow(xp, name)
        for head in self.heads:
            head.follow(xp, name)

    def _widen(self) -> None:
        super()._widen()
        for head in self.heads:
            head.widen()

    def _about(self) -> dict[str, Any]:
        return {**super()._about(), "state": {"seeds": self._seeds, "heads": [head.about() for head in self.heads]}}

    def _restore(self, about: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        super()._restore(about, {name: x for name, x in arrays.items() if name in ("recent_k", "recent_v")})
        self._seeds = about["state"]["seeds"]
        if about["state"]["heads"]:
            self._begin(np, len(about["state"]["heads"]))
        for i, (head, numbers) in enumerate(zip(self.heads, about["state"]["heads"], strict=True)):
            head.restore(numbers, {name: arrays[f"{i}.{name}"] for name in head.contents()})


def sums(xp: Any, heads: Sequence[Head], q: Array, scale: float) -> tuple[tuple[Array, Array], ...]:
    """`z` and `tau` of heads that have tokens outside of a window, each as a pair (m, o) that stands for `exp(m) o`."""
    if heads[0].clustered:
        return numerators(xp, heads, q, scale), normalisers(xp, heads, q, scale)
    return both_sums(xp, heads, q, scale)
