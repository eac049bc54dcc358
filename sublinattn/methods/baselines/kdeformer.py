"""KDEformer: exact attention within blocks of a sorted hash, and columns sampled by their norms for the rest.

Source: [KDE23] Zandieh, Han, Daliri, Karbasi, *KDEformer: Accelerating Transformers via Kernel Density Estimation*,
ICML 2023, arXiv 2302.02451, in the practical form of the authors' public code: `A = A_spar + A_res`, the sparse part
from Hamming-sorted LSH (`hyperattention/sort_lsh.py`), the rest by `m` columns drawn with replacement, for normaliser
and product alike.

Cost: with blocks of `b` keys `b + m` key columns for each query; `O(n_q (b + m) (d + d_v) + n (d r + log n))`
operations with `r` hyperplanes, and `u n_k d` more for `u` KDE queries; `O(n (d + d_v))` numbers. Guarantee: the paper
bounds `||out - P V||` by `eps ||P|| ||V||` for columns drawn by the norms of those of `D^-1 A`.

Differs from the paper, and from the authors' public code, in:

1. The public code has no density estimation: its columns are drawn by values alone,
   `p_j ~ |(v_j, 1)| / ||(V, 1)||^2 + 1/n` with spectral norm. That is the default here. With `kde_queries` half of the
   law is `|A_res column| |(v_j, 1)|`: the weighted exponential KDE of the paper, `sum_i exp(2 s <q_i, k_j>) / D_i^2`,
   estimated from so many uniformly drawn queries in place of a KDE data structure.
2. The spectral norm is exact (the public code takes steps of the power method from a random vector).
3. Buckets are sorted so that neighbours differ in one bit (the public code sorts by the Gray code, not by its inverse).
4. Blocks need not divide the sequence: the last one may be short.

A causal mask is refused: blocks and sample mix past and future keys (HyperAttention's recursion is the causal form).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...core import backends, checks
from ...core.backends import Array
from ...core.exact import Partial, partial_attention
from ..hyperattention.sort_lsh import MAX_BITS, SortedBlocks, hash_rows, sort_blocks
from .common import Problem, biased_attention, enter, refuse_causal


@backends.on_device
def kdeformer_attention(
    q: Array,
    k: Array,
    v: Array,
    *,
    block_size: int = 256,
    sample_size: int = 256,
    lsh_bits: int | None = None,
    kde_queries: int = 0,
    causal: bool = False,
    scale: float | None = None,
    rng: np.random.Generator | int | None = None,
    return_lse: bool = False,
    check_finite: bool = True,
) -> Any:
    """Attention from LSH blocks and columns sampled by their norms [KDE23].

    Parameters
    ----------
    q, k, v : array, shapes (..., n_q, d), (..., n_k, d), (..., n_k, d_v)
        As `attention`. Leading axes have draws of their own.
    block_size : int
        `b`, keys per block, computed exactly. One block for all keys is exact attention.
    sample_size : int
        `m`, columns drawn with replacement for the entries outside the blocks; with 0 the blocks are all there is.
    lsh_bits : int, optional
        Hyperplanes of the hash, 1 to 16; by default about `log2(number of blocks)`.
    kde_queries : int
        Queries that estimate the column norms, at most `n_q`; with 0 columns are drawn by the values alone.
    causal : bool
        Only False: blocks and sample mix past and future.
    scale : float, optional
        `1/sqrt(d)` by default.
    rng : Generator, int or None
        Source of all draws, on the host.
    return_lse : bool
        Return also the log of the estimated normaliser; with a sample, it is unbiased on the scale of the normaliser.
    check_finite : bool
        Refuse NaN and Inf.

    Returns
    -------
    out : array, shape (..., n_q, d_v)
        Of the caller's kind, device and dtype.

    Raises
    ------
    TypeError, ValueError
        As `attention`; parameters out of range; `causal=True`.

    Examples
    --------
    >>> import numpy as np
    >>> from sublinattn import attention, kdeformer_attention
    >>> q, k, v = np.random.default_rng(0).standard_normal((3, 2048, 16))
    >>> exact = attention(q, k, v + 1)
    >>> out = kdeformer_attention(q, k, v + 1, block_size=128, sample_size=256, rng=0)
    >>> print(f"{np.linalg.norm(out - exact) / np.linalg.norm(exact):.2f}")
    0.10
    """
    refuse_causal(causal, "KDEformer's blocks and sample mix past and future keys; hyper_attention has a causal form")
    x = enter(q, k, v, scale=scale, check_finite=check_finite)
    checks.flags(return_lse=return_lse)
    block_size = checks.integer("block_size", block_size, minimum=1)
    sample_size = checks.integer("sample_size", sample_size, minimum=0)
    if lsh_bits is not None and (lsh_bits := checks.integer("lsh_bits", lsh_bits, minimum=1)) > MAX_BITS:
        raise ValueError(f"lsh_bits must be at most {MAX_BITS}, got {lsh_bits}")
    (b, n_q, _), n_k = x.q.shape, x.k.shape[1]
    if (kde_queries := checks.integer("kde_queries", kde_queries, minimum=0)) > n_q:
        raise ValueError(f"kde_queries must be at most the number of queries ({n_q}), got {kde_queries}")
    checks.fits_memory("sample_size", sample_size, 8 * b * sample_size * (x.q.shape[2] + x.v.shape[2]))
    generator = checks.generator(rng)
    if n_k <= block_size:
        exact = partial_attention(x.q, x.k, x.v, scale=x.scale, check_finite=False)
        return x.leave(exact, return_lse=return_lse)
    hashed = hash_rows(x.xp, generator, x.q, x.k, block_size=block_size, bits=lsh_bits)
    starts = {"q_start": n_q * np.arange(b), "k_start": n_k * np.arange(b)}
    blocks = sort_blocks(x.xp, *hashed, block_size=block_size, **starts)
    total = block_attention(x, blocks)
    if sample_size:
        law = value_law(x)
        if kde_queries:
            drawn = np.stack([generator.choice(n_q, kde_queries, replace=False) for _ in range(b)])
            law = (law + kde_law(x, blocks, drawn)) / 2
        columns = np.stack([generator.choice(n_k, sample_size, p=row) for row in law])
        total.merge(sampled_attention(x, blocks, columns, law))
    return x.leave(total, return_lse=return_lse)


def block_attention(x: Problem, blocks: SortedBlocks) -> Partial:
    """Partial (B, n_q) of every query over the keys of its own block: the product with `A_spar`."""
    xp, (b, n_q, _) = x.xp, x.q.shape
    q, k, v = (y.reshape(-1, y.shape[-1]) for y in (x.q, x.k, x.v))
    total = Partial.empty(xp, (b * n_q,), v.shape[-1], q.dtype)
    for group in blocks.groups:
        rows = group.q_rows
        p = biased_attention(xp, q[rows], k[group.k_rows], v[group.k_rows], scale=x.scale)
        total.m[rows], total.l[rows], total.o[rows] = p.m, p.l, p.o
    return Partial(*(y.reshape(b, n_q, *y.shape[1:]) for y in (total.m, total.l, total.o)))


def _blocks_of(xp: Any, order: Array, size: int) -> Array:
    """Number of the block that each row is in, (B, n), from the row numbers (B, n) in sorted order."""
    out = xp.empty(order.size, np.int32)
    out[order.ravel()] = xp.broadcast_to(xp.arange(order.shape[1], dtype=np.int32) // size, order.shape).ravel()
    return out.reshape(order.shape)


def value_law(x: Problem) -> np.ndarray:
    """`p_j ~ |(v_j, 1)| / ||(V, 1)||^2 + 1/n`, (B, n_k), on the host: the law of the authors' public code."""
    xp, n_k = x.xp, x.k.shape[1]
    v = xp.concatenate([x.v, xp.ones_like(x.v[..., :1])], axis=-1)
    gram = xp.matmul(v.swapaxes(1, 2), v)
    squares = np.asarray(backends.asnumpy(backends.row_squares(xp, v)), np.float64)
    largest = np.linalg.eigvalsh(np.asarray(backends.asnumpy(gram), np.float64))[:, -1:]
    p = np.sqrt(squares) / largest + 1 / n_k
    return p / p.sum(axis=1, keepdims=True)


def kde_law(x: Problem, blocks: SortedBlocks, queries: np.ndarray) -> np.ndarray:
    """`p_j ~ |column j of D^-1 A_res| |(v_j, 1)|`, (B, n_k), on the host, from these queries (B, u)."""
    xp = x.xp
    index = backends.to_device(queries, xp)[..., None]
    chosen = xp.take_along_axis(x.q, index, axis=1)
    d = partial_attention(chosen, x.k, x.v[..., :1], scale=x.scale, check_finite=False).lse()
    logits = xp.matmul(chosen * x.scale, x.k.swapaxes(1, 2)) - d[..., None]
    mine = xp.take_along_axis(_blocks_of(xp, blocks.q_order, blocks.q_block_size)[..., None], index, axis=1)
    outside = mine != _blocks_of(xp, blocks.k_order, blocks.block_size)[:, None]
    squares = xp.where(outside, xp.exp(2 * logits), 0).sum(axis=1) * (1 + backends.row_squares(xp, x.v))
    p = np.sqrt(np.asarray(backends.asnumpy(squares), np.float64))
    total = p.sum(axis=1, keepdims=True)
    return np.where(total > 0, p / np.where(total > 0, total, 1), 1 / p.shape[1])


def sampled_attention(x: Problem, blocks: SortedBlocks, columns: np.ndarray, law: np.ndarray) -> Partial:
    """Partial of every query over the drawn columns (B, m) outside its block, each weighing `1 / (m p_j)`: `A_res`."""
    xp = x.xp
    chance = np.take_along_axis(law, columns, axis=1)
    weights = backends.to_device(-np.log(columns.shape[1] * chance).astype(x.q.dtype), xp)
    index = backends.to_device(columns, xp)
    k, v = (xp.take_along_axis(y, index[..., None], axis=1) for y in (x.k, x.v))
    mine = _blocks_of(xp, blocks.q_order, blocks.q_block_size)
    theirs = xp.take_along_axis(_blocks_of(xp, blocks.k_order, blocks.block_size), index, axis=1)

    def bias(at: slice, rows: slice) -> Array:
        outside = mine[at, rows][..., None] != theirs[at, None]
        return xp.where(outside, weights[at, None], -np.inf)

    return biased_attention(xp, x.q, k, v, scale=x.scale, bias=bias)
