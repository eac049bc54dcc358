"""Which keys every query meets exactly: the first ones, or those at given positions, and how to choose them.

Attention sinks are not in [HA24] (Han et al., *HyperAttention*, arXiv 2310.05869): its Lemma 2 samples all keys outside
a query's own block. One key on which most queries put their weight makes `alpha` as large as n^2; attended exactly, it
is no part of what is sampled. In trained decoders the first token is such a key, but it need not be the only one.

Differs from the paper in: all of this.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...core import backends, checks
from ...core.backends import Array
from ...core.magnitudes import fit_logits

LAST = 2**16 - 1  # the last bucket that uint16 can name
QUERIES = 256

ExactKeys = int | np.ndarray
"""The number of first keys, or positions (B, c) on the host, increasing, those of each problem."""


def resolve(exact_keys: Any, lead: tuple[int, ...], n_k: int) -> ExactKeys:
    """What the caller gave as `exact_keys`, for problems with the leading axes `lead` and `n_k` keys each.

    Positions that are the first keys of every problem become their number: both are one and the same then.

    Raises
    ------
    TypeError, ValueError
        No integer and no integers; more keys than there are; positions out of range, or twice in a problem; leading
        axes that are not `lead`.
    """
    if not isinstance(exact_keys, list | tuple) and not getattr(exact_keys, "shape", ()):
        if (exact_keys := checks.integer("exact_keys", exact_keys, minimum=0)) > n_k:
            raise ValueError(f"exact_keys must be at most the number of keys ({n_k}), got {exact_keys}")
        return int(exact_keys)
    host = exact_keys.cpu() if hasattr(exact_keys, "cpu") else exact_keys  # a PyTorch tensor
    given = backends.asnumpy(host)
    if given.dtype.kind not in "iu" and given.size:
        raise TypeError(f"exact_keys must be an integer or integer positions, got an array of {given.dtype}")
    count = given.shape[-1]
    try:
        positions = np.broadcast_to(given, (*lead, count)).astype(np.int64).reshape(math.prod(lead), count)
    except ValueError:
        shape = ", ".join([*map(str, lead), "c"])
        raise ValueError(f"exact_keys must have shape (c,) or ({shape}), got {given.shape}") from None
    positions.sort(axis=1)
    for bad in positions[(positions < 0) | (positions >= n_k)][:1]:
        raise ValueError(f"exact_keys must be positions of keys, 0 to {n_k - 1}, got {bad}")
    for bad in positions[:, 1:][positions[:, 1:] == positions[:, :-1]][:1]:
        raise ValueError(f"exact_keys must not name a position twice, got {bad} more than once")
    return count if (positions == np.arange(count)).all() else positions


def number(exact_keys: ExactKeys) -> int:
    """Of exact keys in each problem."""
    return exact_keys if isinstance(exact_keys, int) else exact_keys.shape[1]


def mark(xp: Any, k_buckets: Array, positions: np.ndarray) -> Array:
    """Buckets (B, n_k) of the keys, but those at `positions` (B, c) are alone in the last bucket, and sort last.

    The last bucket and the one before it, neighbours in the Gray code, become one if the hash has 16 bits. Positions
    from n_k on are of keys that no query sees.
    """
    problem, which = np.nonzero(positions < k_buckets.shape[1])
    k_buckets = xp.minimum(k_buckets, np.uint16(LAST - 1))
    k_buckets[backends.to_device(problem, xp), backends.to_device(positions[problem, which], xp)] = LAST
    return k_buckets


@backends.on_device
def heavy_keys(
    q: Array,
    k: Array,
    count: int,
    *,
    causal: bool = False,
    scale: float | None = None,
    queries: int = QUERIES,
    check_finite: bool = True,
) -> Array:
    """Positions of the keys that the queries look at most, for `exact_keys` of `hyper_attention`.

    Parameters
    ----------
    q, k : array, shapes (..., n_q, d) and (..., n_k, d)
        Queries and keys (as `attention`).
    count : int
        Keys to choose, 1 to n_k.
    causal : bool
        Query i sees keys 0..i.
    scale : float, optional
        Factor of the logits; `1/sqrt(d)` by default.
    queries : int
        How many queries are asked: evenly spaced ones, the last among them; all where there are no more.
    check_finite : bool
        Refuse NaN and Inf.

    Returns
    -------
    positions : array, shape (..., count)
        NumPy or CuPy int64, the heaviest key first: by its share of the attention of the queries asked.

    Raises
    ------
    TypeError, ValueError
        As `attention`; `count` or `queries` out of range.

    Notes
    -----
    `O(queries n_k d)` operations, and memory of a tile beside a copy of half-precision keys.

    `hardness(...).heaviest(count)` asks all queries, and goes by the column norms of which alpha is the largest. From a
    few queries these mislead: a query that looks at one key alone, such as its own, makes that key look as heavy as one
    with a tenth of the attention of a hundred.

    The choice looks at queries and keys of all positions: under a causal mask, which keys an early query meets exactly
    then depends on later tokens (which keys it sees does not).

    Examples
    --------
    >>> from sublinattn import heavy_keys
    >>> from sublinattn.lab.workloads import make
    >>> x = make("sinks", 1024, 16, rng=0, sinks=2, sink_positions=[7, 300])
    >>> sorted(heavy_keys(x.q, x.k, 2).tolist())
    [7, 300]
    """
    xp, (q, k), _ = backends.enter(q=q, k=k)
    checks.flags(causal=causal)
    checks.shapes(q, k)
    scale = checks.resolve_scale(scale, q.shape[-1])
    n_q, n_k = q.shape[-2], k.shape[-2]
    if (count := checks.integer("count", count, minimum=1)) > n_k:
        raise ValueError(f"count must be at most the number of keys ({n_k}), got {count}")
    asked = min(checks.integer("queries", queries, minimum=1), n_q)
    lead = q.shape[:-2]
    q, k = (backends.widened(x.reshape(-1, *x.shape[-2:])) for x in (q, k))
    q, k, scale = fit_logits(xp, q, k, scale, *checks.largest_norms(xp, check_finite, q=q, k=k))
    rows = (np.arange(asked) + 1) * n_q // asked - 1
    sums = _column_sums(xp, q[:, backends.to_device(rows, xp)] * scale, k, rows if causal else None)
    return xp.argsort(-sums, axis=1, kind="stable")[:, :count].reshape(*lead, count)


def _column_sums(xp: Any, q: Array, k: Array, rows: np.ndarray | None) -> Array:
    """Column sums (B, n_k) of the softmax matrix of a few queries (B, t, d), scaled; `rows` are their positions under
    a causal mask."""
    (b, t, _), n_k = q.shape, k.shape[1]
    sums = xp.zeros((b, n_k))
    problems, step, _ = backends.strip_shape(xp, b, t, n_k, q.dtype, (64, n_k))

    def worker(at: slice) -> None:
        for part in backends.cut(t, step):
            p = xp.matmul(q[at, part], k[at].swapaxes(1, 2))
            if rows is not None:
                hidden = xp.arange(n_k) > backends.to_device(rows[part], xp)[:, None]
                xp.copyto(p, -np.inf, where=hidden)
            p -= p.max(axis=2, keepdims=True)
            xp.exp(p, out=p)
            p /= p.sum(axis=2, keepdims=True)
            sums[at] += p.sum(axis=1)

    backends.for_tiles(xp, backends.cut(b, problems), worker)
    return sums
