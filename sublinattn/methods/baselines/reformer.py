"""Reformer: attention within chunks of tokens that a locality-sensitive hash puts together, in several rounds.

Source: [REF20] Kitaev, Kaiser, Levskaya, *Reformer: The Efficient Transformer*, ICLR 2020, arXiv 2001.04451, Section 2:
the hash `argmax([x R; -x R])` of [AIL15] (cross-polytope LSH), sorting by bucket and position, chunks that attend to
themselves and the chunk before (eq. 4, 5), and the merge of rounds, in which a key counts once (eq. 6, Appendix A).

A query's answer is exact attention over the keys that some round puts within its reach, each counted once.

Cost: with chunks of `c` keys and `r` rounds at most `2 c r` key columns for each query;
`O(n r (c (d + d_v + r) + d b))` operations for `b` buckets, factored into two hashes past `FACTOR` of them; `O(n r)`
numbers besides input, output and one tile per thread. Guarantee: none is stated.

Differs from the paper in:

1. Queries and keys are separate. The paper shares them (`k = q / |q|`) so that a bucket holds as many queries as keys.
   Here both get buckets from the same rotations, each are sorted by themselves, and query chunk and key chunk of the
   same rank meet (as in sortLSH, where `n_q != n_k` at proportional ranks).
2. A query may attend to its own position. The paper masks it out, because there it would win: the key is the query.
3. Under a causal mask a query always sees its own key, exactly: no round need put the two together, and the first
   queries would otherwise see nothing.
4. Keys of other buckets within reach are not masked out. The public code does not do so either; eq. 3 does.
5. The window of a chunk is its `c` keys and the `c` ranks before, cyclically, also where `c` does not divide `n_k`.
   Where `2 c >= n_k` the answer is exact.

As in the paper, the causal mask hides later tokens' keys and values, but which earlier keys are in reach depends on all
tokens' ranks: it is no strictly causal map.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...core import backends, checks
from ...core.backends import Array
from ...core.exact import Partial, partial_attention
from .common import Problem, biased_attention, enter, own_key

FACTOR = 64  # more buckets than this are pairs of two smaller hashes: the rotations then cost O(d sqrt(b)) per row


@backends.on_device
def reformer_attention(
    q: Array,
    k: Array,
    v: Array,
    *,
    chunk_size: int = 64,
    rounds: int = 4,
    buckets: int | Sequence[int] | None = None,
    causal: bool = False,
    scale: float | None = None,
    rng: np.random.Generator | int | None = None,
    return_lse: bool = False,
    check_finite: bool = True,
) -> Any:
    """Exact attention over the keys that LSH rounds put within reach of each query [REF20, Section 2].

    Parameters
    ----------
    q, k, v : array, shapes (..., n_q, d), (..., n_k, d), (..., n_k, d_v)
        As `attention`. Leading axes have rotations of their own.
    chunk_size : int
        `c`, keys per chunk: a query reaches the `2 c` keys of its chunk and the one before. Exact if `2 c >= n_k`.
    rounds : int
        `r`, hash rounds: at most `2 c r` key columns per query.
    buckets : int or sequence of int, optional
        Number of buckets of a round, even; several numbers are hashes whose product counts. By default about
        `2 n_k / chunk_size`, as in the paper.
    causal : bool
        Query i sees, of these keys, those up to i, and key i always (top-left aligned).
    scale : float, optional
        `1/sqrt(d)` by default.
    rng : Generator, int or None
        Source of the rotations, drawn on the host.
    return_lse : bool
        Return also the log of the normaliser over the keys reached, a lower bound of the exact one.
    check_finite : bool
        Refuse NaN and Inf.

    Returns
    -------
    out : array, shape (..., n_q, d_v)
        Of the caller's kind, device and dtype.

    Raises
    ------
    TypeError, ValueError
        As `attention`; and for parameters out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from sublinattn import attention, reformer_attention
    >>> q, k, v = np.random.default_rng(0).standard_normal((3, 2048, 16))
    >>> exact = attention(q, k, v + 1)
    >>> out = reformer_attention(q, k, v + 1, chunk_size=64, rounds=4, rng=0)
    >>> print(f"{np.linalg.norm(out - exact) / np.linalg.norm(exact):.2f}")
    0.06
    """
    x = enter(q, k, v, scale=scale, check_finite=check_finite)
    checks.flags(causal=causal, return_lse=return_lse)
    c = checks.integer("chunk_size", chunk_size, minimum=1)
    rounds = checks.integer("rounds", rounds, minimum=1)
    factors = _factors(buckets, x.k.shape[1], c)
    generator = checks.generator(rng)
    if causal and x.q.shape[1] < x.k.shape[1]:  # no query sees the keys past n_q
        x = x.first_keys(x.q.shape[1])
    if 2 * c >= x.k.shape[1]:
        exact = partial_attention(x.q, x.k, x.v, causal=causal, scale=x.scale, check_finite=False)
        return x.leave(exact, return_lse=return_lse)
    b, _, d = x.q.shape
    checks.fits_memory("rounds", rounds, 4 * b * rounds * (d * sum(factors) // 2 + 2 * x.k.shape[1]))
    drawn = generator.standard_normal((b, d, rounds, sum(factors) // 2), dtype=np.float32)
    total = lsh_attention(x, backends.to_device(drawn, x.xp), factors, c, causal=causal)
    return x.leave(total, return_lse=return_lse)


def _factors(buckets: int | Sequence[int] | None, n_k: int, c: int) -> tuple[int, ...]:
    """Sizes of the hashes whose pairs are the buckets."""
    if buckets is None:
        return default_factors(n_k, c)
    sizes = tuple(buckets) if isinstance(buckets, Sequence) else (buckets,)
    sizes = tuple(checks.integer("buckets", size, minimum=2) for size in sizes)
    if any(size % 2 for size in sizes):
        raise ValueError(f"buckets must be even (each direction and its opposite), got {buckets}")
    if not sizes:
        raise ValueError("buckets must name at least one hash, got none")
    return sizes


def default_factors(n_k: int, c: int) -> tuple[int, ...]:
    """One hash of about `2 n_k / c` buckets, or two that have as many pairs where that is past `FACTOR`."""
    wanted = 2 * n_k / c
    parts = 1 if wanted <= FACTOR else 2
    return (2 * max(1, math.ceil(wanted ** (1 / parts) / 2)),) * parts


def hash_buckets(xp: Any, x: Array, rotations: Array, factors: tuple[int, ...]) -> Array:
    """Buckets (B, r, n) of the rows x (B, n, d): `argmax([x R; -x R])` for each round and hash, joined to one number.

    Rotations (B, d, r, sum(factors) / 2), the hashes one after the other along the last axis.
    """
    b, n, d = x.shape
    rounds, width = rotations.shape[2:]
    out = xp.empty((b, rounds, n), np.int32)
    flat = rotations.reshape(b, d, rounds * width).astype(x.dtype, copy=False)
    step = backends.feature_rows(xp, 2 * rounds * width * (1 if xp is np else b), x.dtype)
    problems = [slice(i, i + 1) for i in range(b)] if xp is np else [slice(0, b)]
    tiles = [(at, rows) for at in problems for rows in backends.cut(n, step)]

    def worker(where: tuple[slice, slice]) -> None:
        at, rows = where
        rotated = xp.matmul(x[at, rows], flat[at]).reshape(-1, rows.stop - rows.start, rounds, width).swapaxes(1, 2)
        bucket, first, unit = 0, 0, 1
        for size in factors:
            part = rotated[..., first : first + size // 2]
            bucket = bucket + unit * xp.concatenate([part, -part], axis=-1).argmax(axis=-1)
            first, unit = first + size // 2, unit * size
        out[at, :, rows] = bucket

    backends.for_tiles(xp, tiles, worker)
    return out


def ranks(xp: Any, buckets: Array) -> tuple[Array, Array]:
    """Order (B, r, n) by bucket and then position, and the rank of each row in it."""
    order = xp.argsort(buckets, axis=-1, kind="stable").astype(np.int32)
    return order, xp.argsort(order, axis=-1).astype(np.int32)


@dataclass(frozen=True)
class Windows:
    """Of each query and round: which `2 c` ranks of the keys are in reach. All arrays are (B, r, n)."""

    k_order: Array
    k_rank: Array
    q_order: Array
    q_rank: Array
    start: Array  # by query: the first rank of its window, 0..n_k - 1
    chunk: int  # c
    q_chunk: int  # queries per chunk, at proportional ranks

    @classmethod
    def of(cls, xp: Any, q_buckets: Array, k_buckets: Array, c: int) -> Windows:
        n_q, n_k = q_buckets.shape[-1], k_buckets.shape[-1]
        t = -(-c * n_q // n_k)
        q_order, q_rank = ranks(xp, q_buckets)
        k_order, k_rank = ranks(xp, k_buckets)
        return cls(k_order, k_rank, q_order, q_rank, (q_rank // t * c - c) % n_k, c, t)


def lsh_attention(x: Problem, rotations: Array, factors: tuple[int, ...], c: int, *, causal: bool) -> Partial:
    """Partial of all queries over the keys that some round puts in reach, for these rotations (B, d, r, ...)."""
    xp = x.xp
    q_buckets, k_buckets = (hash_buckets(xp, y, rotations, factors) for y in (x.q, x.k))
    windows = Windows.of(xp, q_buckets, k_buckets, c)
    total = own_key(xp, x.q, x.k, x.v, scale=x.scale) if causal else _round(x, windows, 0, causal=False)
    for i in range(0 if causal else 1, rotations.shape[2]):
        total.merge(_round(x, windows, i, causal=causal))
    return total


def _round(x: Problem, w: Windows, i: int, *, causal: bool) -> Partial:
    """Partial of all queries over their windows of round i, a key seen in N rounds weighing 1/N [REF20, Appendix A]."""
    xp, (b, n_q, _), n_k, rounds = x.xp, x.q.shape, x.k.shape[1], w.start.shape[1]
    chunks = -(-n_q // w.q_chunk)
    # Rows of each chunk's queries and keys; the last chunk repeats its last query where it is short.
    at_q = xp.minimum(xp.arange(chunks * w.q_chunk), n_q - 1)
    at_k = ((xp.arange(chunks) * w.chunk - w.chunk)[:, None] + xp.arange(2 * w.chunk)) % n_k
    q_rows = w.q_order[:, i][:, at_q].reshape(b * chunks, w.q_chunk)
    k_rows = w.k_order[:, i][:, at_k].reshape(b * chunks, 2 * w.chunk)
    problem = xp.arange(b * chunks) // chunks
    of_q, of_k = q_rows + n_q * problem[:, None], k_rows + n_k * problem[:, None]
    starts, k_ranks = (y.swapaxes(1, 2).reshape(-1, rounds) for y in (w.start, w.k_rank))

    def bias(at: slice, rows: slice) -> Array:
        mine, keys = of_q[at, rows], of_k[at]
        count = xp.zeros((*mine.shape, keys.shape[1]), np.int32)
        for other in range(rounds):
            distance = k_ranks[keys, other][:, None, :] - starts[mine, other][..., None]
            count += distance % n_k < 2 * w.chunk
        added = -xp.log(count.astype(x.q.dtype))
        if causal:  # the query's own key is counted apart
            added = xp.where(k_rows[at][:, None, :] < q_rows[at, rows][..., None], added, -np.inf)
        return added

    q, k, v = (y.reshape(-1, y.shape[-1])[rows] for y, rows in ((x.q, of_q), (x.k, of_k), (x.v, of_k)))
    p = biased_attention(xp, q, k, v, scale=x.scale, bias=bias if causal or rounds > 1 else None)
    back = w.q_rank[:, i] + chunks * w.q_chunk * xp.arange(b)[:, None]
    return Partial(*(y.reshape(b * chunks * w.q_chunk, *y.shape[2:])[back] for y in (p.m, p.l, p.o)))
