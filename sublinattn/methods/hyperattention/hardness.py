"""The parameters that decide which theorems apply to an input: alpha, kappa, stable rank, norms, clusters of keys.

Sources: [HA24] Han et al., *HyperAttention*, arXiv 2310.05869, section 2 (alpha and kappa) and Lemma 2 (stable rank);
[AS23] Alman, Song, arXiv 2302.13214 (the entry bound); [SG24] Zandieh et al., *SubGen*, arXiv 2402.06082 (clusters).

Cost: about `2 + (steps of Lanczos' method)` passes over the entries of P, `O(n_q n_k d)` operations each; memory is
`O(n d)` and a tile per thread, or a strip of rows on a GPU (`STRIP_BYTES`), never `n_q x n_k`.

Differs from the papers in:

1. `alpha` is also given without some keys, as HyperAttention sees it when those are exact (`alpha_residual`,
   `alpha_without`): their columns of P are dropped, and the rest of each row is *not* normalised anew. What is sampled
   then is `P V` less the exact part, an error relative to `||P||` of the whole P; a row normalised by the remaining
   keys alone would count a query as much that has next to nothing on them.
2. Under a causal mask `kappa` is that of the largest unmasked block of Algorithm 4.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ...core import backends, checks
from ...core.attend import attend, serves
from ...core.backends import Array
from ...core.checks import check_squares
from ...core.half_softmax import softmax_matrix
from ...core.magnitudes import fit_logits
from ...primitives.clustering import OnlineClusters, absorb_each
from ...primitives.kcenter import each_greedy_k_center
from .estimators import unmasked_row_sums
from .exact_keys import ExactKeys, mark, number, resolve
from .sort_lsh import SortedBlocks, default_bits, hash_rows, sort_blocks


class HeavyKeys(NamedTuple):
    """The heaviest columns of each softmax matrix, heaviest first, shape (..., count) each."""

    positions: Array  # int64: of the keys
    alphas: Array  # n_k ||P e_j||_2^2: what alpha would be if this key were the heaviest
    masses: Array  # mean of P_ij over the queries i: the key's share of the attention


@dataclass(frozen=True)
class Hardness:
    """Measured hardness of each attention problem; arrays have the leading axes of the input.

    Attributes
    ----------
    alpha : array
        `n_k max_j ||P e_j||_2^2` over all keys: between 1 and `n^2` for square P.
    alpha_residual : array
        The same over the keys that are not in `exact_keys`: what the sampling sees when sinks are handled exactly. The
        rows of P are those of the whole softmax, normalised by all keys.
    kappa : array
        Largest over smallest unmasked row sum `<1 - M_i, A_i>`, M the sortLSH mask; nan when one block holds all keys,
        inf past the largest float64.
    srank : array
        `||P||_F^2 / ||P||^2 <= alpha`.
    spectral_norm : array
        `||P||`, by Lanczos' method (from below, to 1e-4).
    entry_bound : array
        `B`: largest absolute entry of q, k and v.
    query_norm_max, key_norm_max : array
        Largest row norms.
    column_norms : array, shape (..., n_k)
        `||P e_j||_2` of every key, in the keys' order.
    column_masses : array, shape (..., n_k)
        Mean of `P_ij` over the queries: each key's share of the attention. They sum to 1.
    keys : array, shape (..., n_k, d)
        What was measured, in the working dtype: for `cluster_count` and `cluster_radius`.
    """

    alpha: Array
    alpha_residual: Array
    kappa: Array
    srank: Array
    spectral_norm: Array
    entry_bound: Array
    query_norm_max: Array
    key_norm_max: Array
    column_norms: Array = field(repr=False)
    column_masses: Array = field(repr=False)
    keys: Array = field(repr=False)

    @backends.on_device
    def heaviest(self, count: int) -> HeavyKeys:
        """Positions, alphas and masses of the `count` keys with the largest column norms, shape (..., count) each.

        Raises
        ------
        TypeError, ValueError
            count is not an integer in 1..n_k.
        """
        xp, n_k = backends.namespace(self.column_norms), self.column_norms.shape[-1]
        if (count := checks.integer("count", count, minimum=1)) > n_k:
            raise ValueError(f"count must be at most the number of keys ({n_k}), got {count}")
        positions = xp.argsort(-self.column_norms, axis=-1, kind="stable")[..., :count]
        norms, masses = (xp.take_along_axis(x, positions, axis=-1) for x in (self.column_norms, self.column_masses))
        return HeavyKeys(positions, n_k * norms**2, masses)

    def alpha_without(self, count: int) -> Array:
        """alpha over all but the `count` heaviest keys, the leading axes' shape: `alpha_residual` for these.

        Their columns of P are dropped; the rows remain normalised by all keys.

        Raises
        ------
        TypeError, ValueError
            count is not an integer in 0..n_k - 1.
        """
        n_k = self.column_norms.shape[-1]
        if (count := checks.integer("count", count, minimum=0)) >= n_k:
            raise ValueError(f"count must be below the number of keys ({n_k}), got {count}")
        return self.heaviest(count + 1).alphas[..., count]

    @backends.on_device
    def cluster_count(self, delta: float) -> Array:
        """Clusters that the keys fall into in their order, as SubGen makes them: int64, the leading axes' shape.

        At most the number of parts of any partition into parts of diameter delta [SG24]; their balls of radius delta
        cover the keys. `2 n d` operations per cluster.

        Raises
        ------
        TypeError, ValueError
            delta is not a number of at least 0.
        """
        if not 0 <= checks.real("delta", delta) < math.inf:
            raise ValueError(f"delta must be a finite number of at least 0, got {delta}")

        def count(xp: Any, k: Array) -> list[int]:
            clusters = [OnlineClusters(float(delta), k[0, :0]) for _ in range(len(k))]
            absorb_each(xp, clusters, k)
            return [len(its.centers) for its in clusters]

        return self._of_keys(count)

    @backends.on_device
    def cluster_radius(self, m: int) -> Array:
        """Radius at which the balls around m greedily chosen keys cover all: float64, the leading axes' shape.

        At most twice the smallest radius that m centers can have [GON85]. `2 n m d` operations.

        Raises
        ------
        TypeError, ValueError
            m is not an integer in 1..n_k.
        """
        if (m := checks.integer("m", m, minimum=1)) > self.keys.shape[-2]:
            raise ValueError(f"m must be at most the number of keys ({self.keys.shape[-2]}), got {m}")
        return self._of_keys(lambda xp, k: [radii[-1] for _, radii in each_greedy_k_center(xp, k, m)])

    def _of_keys(self, measure: Callable[[Any, Array], list[Any]]) -> Array:
        xp = backends.namespace(self.keys)
        check_squares("keys", self.keys, float(backends.asnumpy(self.key_norm_max.max())))
        measured = measure(xp, self.keys.reshape(-1, *self.keys.shape[-2:]))
        return backends.to_device(np.array(measured).reshape(self.keys.shape[:-2]), xp)


@backends.on_device
def hardness(
    q: Array,
    k: Array,
    v: Array | None = None,
    *,
    scale: float | None = None,
    causal: bool = False,
    block_size: int = 256,
    exact_keys: int | Array = 0,
    rng: np.random.Generator | int | None = None,
    check_finite: bool = True,
) -> Hardness:
    """Measure the hardness parameters of attention problems.

    Parameters
    ----------
    q, k : array, shapes (..., n_q, d) and (..., n_k, d)
        Queries and keys (as `attention`).
    v : array, shape (..., n_k, d_v), optional
        Values; only the entry bound looks at them.
    scale : float, optional
        Factor of the logits; `1/sqrt(d)` by default.
    causal : bool
        alpha, srank and the norms are those of the causal softmax matrix; kappa is that of the largest unmasked block
        of the causal recursion (later half of the queries, earlier half of the keys: [HA24] Algorithm 4).
    block_size : int
        Block of the sortLSH mask that kappa leaves out.
    exact_keys : int or integer array, shape (c,) or (..., c)
        Keys (attention sinks) that count as masked for kappa, and are left out of `alpha_residual`: the first
        `exact_keys`, or those at these positions, for all problems or of each one's own.
    rng : Generator, int or None
        For the hash.
    check_finite : bool
        Refuse NaN and Inf.

    Returns
    -------
    Hardness
        NumPy or CuPy arrays in float64 (0-d for a single problem).

    Raises
    ------
    TypeError, ValueError
        As `attention`; `exact_keys` leaves no key, or names a position twice or out of range.

    Notes
    -----
    Lanczos' method takes few steps, since the leading singular vector of a softmax matrix is close to constant unless
    its columns are very uneven.

    float16 and bfloat16 arrays of the head dimensions that the GPU kernel serves go through it. Next to float64 on the
    same numbers, alpha, kappa and the column norms are then off by less than 1e-4, of which logits near 100 take most;
    `||P||` by up to 7e-5 in float16 and 8e-4 in bfloat16, srank by twice that (`core/half_softmax.py`).

    Examples
    --------
    >>> from sublinattn import hardness
    >>> from sublinattn.lab.workloads import make
    >>> x = make("sinks", 1024, 16, rng=0, sinks=1)  # every query looks at key 0
    >>> h = hardness(x.q, x.k, rng=0, exact_keys=1)
    >>> bool(h.alpha > 100 * h.alpha_residual)
    True
    >>> positions, _, masses = h.heaviest(1)
    >>> positions, masses.round(1)
    (array([0]), array([0.5]))
    """
    named = {"q": q, "k": k} | ({} if v is None else {"v": v})
    xp, (q, k, *rest), _ = backends.enter(**named)
    checks.flags(causal=causal)
    checks.shapes(q, k, *rest)
    scale = checks.resolve_scale(scale, q.shape[-1])
    block_size = checks.integer("block_size", block_size, minimum=1)
    exact_keys = resolve(exact_keys, q.shape[:-2], k.shape[-2])
    if number(exact_keys) >= k.shape[-2]:
        raise ValueError(f"exact_keys must be below the number of keys ({k.shape[-2]}), got {number(exact_keys)}")
    dtype, batch_shape = backends.working_dtype(q), q.shape[:-2]
    own_q, own_k, *rest = (xp.ascontiguousarray(x).reshape(-1, *x.shape[-2:]) for x in (q, k, *rest))
    q, k, *rest = (x.astype(dtype, copy=False) for x in (own_q, own_k, *rest))
    norms = checks.largest_norms(xp, check_finite, **dict(zip(named, (q, k, *rest), strict=True)))
    for name, x, norm in zip("qk", (q, k), norms[:2], strict=True):
        checks.check_squares(name, x, norm)
    fitting = fit_logits(xp, q, k, scale, *norms[:2])
    if own_q.dtype == dtype:
        own_q, own_k, scale = fitting

    p = softmax_matrix(xp, own_q, own_k, scale=scale, causal=causal)
    sums, squares = p.column_sums_and_squares
    norm = p.operator_norm()
    per_key = k.shape[1] * squares  # n ||P e_j||^2; alpha is the largest of them
    if isinstance(exact_keys, int):
        sampled = per_key[:, exact_keys:]
    else:
        sampled = per_key.copy()
        sampled[xp.arange(len(sampled))[:, None], backends.to_device(exact_keys, xp)] = 0
    fields = {
        "alpha": per_key.max(axis=1),
        "alpha_residual": sampled.max(axis=1),
        "kappa": _kappa(xp, own_q, own_k, scale, causal, block_size, exact_keys, checks.generator(rng)),
        "srank": squares.sum(axis=1) / norm**2,  # ||P||_F^2 / ||P||^2
        "spectral_norm": norm,
        "entry_bound": xp.stack([abs(x).max(axis=(1, 2)) for x in (q, k, *rest)]).max(axis=0),
        "query_norm_max": xp.sqrt(backends.row_squares(xp, q).max(axis=1)),
        "key_norm_max": xp.sqrt(backends.row_squares(xp, k).max(axis=1)),
        "column_norms": xp.sqrt(squares),
        "column_masses": sums / q.shape[1],
    }
    measured = {name: x.astype(np.float64).reshape((*batch_shape, *x.shape[1:])) for name, x in fields.items()}
    return Hardness(**measured, keys=k.reshape(*batch_shape, *k.shape[1:]).copy())


def _kappa(
    xp: Any,
    q: Array,
    k: Array,
    scale: float,
    causal: bool,
    block_size: int,
    exact_keys: ExactKeys,
    rng: np.random.Generator,
) -> Array:
    """`max_i <1 - M_i, A_i> / min_j <1 - M_j, A_j>` [HA24, section 2], shape (B,)."""
    n_k = k.shape[1]
    if causal:  # A21 at the root of Algorithm 4
        q, k = q[:, n_k // 2 :], k[:, : max(n_k // 2, 1)]
    if isinstance(exact_keys, int):
        k = k[:, exact_keys:]
        return _kappa_outside(xp, q, k, scale, block_size, None, rng)
    kappa, there = xp.empty(len(q)), (exact_keys < k.shape[1]).sum(axis=1)
    for count in np.unique(there):  # problems of one call have equally many keys left
        at = np.flatnonzero(there == count)
        rows, positions = backends.to_device(at, xp), exact_keys[at, :count]
        kappa[rows] = _kappa_outside(xp, q[rows], k[rows], scale, block_size, positions, rng)
    return kappa


def _kappa_outside(
    xp: Any,
    q: Array,
    k: Array,
    scale: float,
    block_size: int,
    positions: np.ndarray | None,
    rng: np.random.Generator,
) -> Array:
    """kappa of all keys but those at `positions` (B, c)."""
    (b, n_q, d), n_k = q.shape, k.shape[1]
    apart = 0 if positions is None else positions.shape[1]
    if n_k - apart <= block_size or n_q == 0:
        return xp.full(b, np.nan)
    bits = default_bits(n_k - apart, block_size)
    q_buckets, k_buckets = hash_rows(xp, rng, q, k, block_size=block_size, bits=bits)
    if positions is not None:
        k_buckets = mark(xp, k_buckets, positions)
    starts = {"q_start": np.arange(b) * n_q, "k_start": np.arange(b) * n_k}
    blocks = sort_blocks(xp, q_buckets, k_buckets, block_size=block_size, **starts, apart=apart)
    q, k = q.reshape(-1, d), k.reshape(-1, d)
    if serves(xp, q, k):
        sums = unmasked_by_kernel(xp, q, k, blocks, scale)
    else:
        ranks = np.broadcast_to(np.arange(n_q), (b, n_q))
        q, k = (x.astype(backends.working_dtype(x), copy=False) for x in (q, k))
        sums = unmasked_row_sums(xp, q, k, blocks, ranks, scale=scale)
    sums = sums.astype(np.float64)
    with np.errstate(over="ignore"):
        return xp.exp(sums.max(axis=1) - sums.min(axis=1))


def unmasked_by_kernel(xp: Any, q: Array, k: Array, blocks: SortedBlocks, scale: float) -> Array:
    """`unmasked_row_sums` of all queries (P, n_q), in the order of q's rows, by the GPU kernel: all blocks of a problem
    share its keys, and each leaves out its own by the weight 0."""
    p, n_k = blocks.k_order.shape
    sums, out = xp.empty(len(q), np.float32), xp.empty(q.shape, q.dtype)
    maximum = max(1, backends.STRIP_BYTES // (4 * n_k))  # groups of one call, each with a weight for every key
    for group in blocks.groups:
        count, t = len(group.block) // p, group.q_rows.shape[1]
        problems, step = max(1, maximum // count), min(count, maximum)
        q_rows = group.q_rows.reshape(p, count, t)
        for first in range(0, p, problems):
            for start in range(0, count, step):
                asking = q_rows[first : first + problems, start : start + step]
                block = int(group.block[0]) + xp.arange(start, start + asking.shape[1])
                weights = xp.zeros((*asking.shape[:2], n_k), np.float32)
                xp.copyto(weights, -np.inf, where=xp.arange(n_k) // blocks.block_size == block[:, None])
                attend(
                    xp, q, k, k, scale=scale, q_rows=asking.reshape(-1, t), out=out, lse=sums,
                    k_rows=blocks.k_order[first : first + problems], log_weights=weights.reshape(-1, n_k),
                )  # fmt: skip
    return sums.reshape(p, -1)
