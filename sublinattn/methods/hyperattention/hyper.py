"""HyperAttention: attention in near-linear time from a sorted LSH and a few sampled keys.

Source: [HA24] Han, Jayaram, Karbasi, Mirrokni, Woodruff, Zandieh, *HyperAttention: Long-context Attention in
Near-Linear Time*, ICLR 2024, arXiv 2310.05869: Algorithm 3 (HyperAttention) and Algorithm 4 (the causal recursion).
Algorithm 1 (sortLSH) is in `sort_lsh.py`, Algorithm 2 (ApproxD) and the sampling of Lemma 2 in `estimators.py`.

With blocks of `b` keys, `m` sampled keys and exact computation up to `n0` keys: time `O(n (b + m) d + n log n)`, times
`log(n / n0)` under a causal mask; memory `O(n d)` plus one tile per thread.

Differs from the paper in:

1. *practical* (the default) is not the estimator of the theorems. As in the authors' public code, a query's own block
   is computed exactly, and one sample of the keys outside it serves both normaliser and product; unlike there, the
   sample is without replacement, and its weight makes it unbiased (see `SharedSample`).
2. *theory* follows Algorithms 2 and 3; what they leave open is listed at `TheorySample`.
3. When one block holds all keys the result is exact.
4. Algorithm 4 recurses on the normaliser alone. Here, as in the authors' public code, the recursion merges each node's
   normaliser and output.
5. Causal: all nodes of one recursion level form one batch, and every node reuses the hash of the whole sequence.
   *practical* is exact on a node with at most `m` keys, since it samples without replacement.
6. `exact_keys` (attention sinks) are not in the paper: the first keys, or those at given positions, join every query's
   exact part. Positions are, under a causal mask, exact keys of each square A21 of the recursion that has them among
   its keys; squares of a level with fewer of them than another take keys of the last buckets in addition.

Half-precision arrays on a GPU take the same steps through one kernel (`fused.py`), with the same draws.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, Literal

import numpy as np

from ...core import attend, backends, checks, magnitudes, timing
from ...core.backends import Array, Scratch
from ...core.exact import Partial, Softmax, each_query_tile, needs_shift
from .estimators import Block, BlockKernel, Estimator, Lap, MakeEstimator, practical_estimator, theory_estimator
from .exact_keys import ExactKeys, mark, number, resolve
from .own_hash import cut_blocks, resolve_block_by
from .recursion import inner_nodes, leaves
from .sort_lsh import MAX_BITS, BlockGroup, SortedBlocks, hash_rows

SAMPLE_SIZE = 256
MIN_EXACT = 1024
ESTIMATORS: dict[str, MakeEstimator] = {"practical": practical_estimator, "theory": theory_estimator}

Deliver = Callable[..., None]
"""Stores the partial of the queries with row numbers (g, t), or adds it to theirs; it may overwrite its argument."""


@backends.on_device
def hyper_attention(
    q: Array,
    k: Array,
    v: Array,
    *,
    causal: bool = False,
    scale: float | None = None,
    block_size: int = 256,
    sample_size: int | None = None,
    lsh_bits: int | None = None,
    estimator: Literal["practical", "theory"] = "practical",
    min_exact: int = MIN_EXACT,
    exact_keys: int | Array = 0,
    block_by: Literal["rank", "own-hash"] | None = None,
    rng: np.random.Generator | int | None = None,
    return_lse: bool = False,
    block_kernel: BlockKernel | None = None,
    check_finite: bool = True,
) -> Any:
    """Approximate softmax attention in near-linear time.

    Parameters
    ----------
    q, k, v : array, shapes (..., n_q, d), (..., n_k, d), (..., n_k, d_v)
        As `attention`. Leading axes are batch and heads, each with its own draws.
    causal : bool
        Query i sees keys 0..i (top-left aligned).
    scale : float, optional
        Factor of the logits; `1/sqrt(d)` by default.
    block_size : int
        `b`, keys per block of the sortLSH mask. One block for all keys is exact attention.
    sample_size : int, optional
        `m`, keys sampled per problem, at most `n_k`. By default 256, or all keys where there are fewer.
    lsh_bits : int, optional
        Hyperplanes of the hash, 1 to 16; by default about `log2(number of blocks)`, so that a bucket has about as many
        keys as a block.
    estimator : {"practical", "theory"}
        One shared sample for normaliser and product, or ApproxD and row-norm sampling as in the paper.
    min_exact : int
        `n0`: problems, and nodes of the causal recursion, with at most this many keys are exact.
    exact_keys : int or integer array, shape (c,) or (..., c)
        Keys (attention sinks) that are in every query's exact part: the first `exact_keys`, or those at these
        positions, for all problems or of each one's own. `heavy_keys` and `hardness` find them.
    block_by : {"rank", "own-hash"}, optional
        Only with `causal`: what decides which block of keys a query meets. "rank" (the default): its rank among all
        queries of its square, as in the paper. "own-hash": its rank among the keys before it, by its own hash; then no
        output depends on a later token (`own_hash.py`).
    rng : Generator, int or None
        Source of all draws. The same seed gives the same draws on CPU and GPU.
    return_lse : bool
        Return also the log of the estimated normaliser, shape (..., n_q).
    block_kernel : callable, optional
        `kernel(q, k, v, *, scale, causal) -> (out, lse)` on (g, t, d) arrays, e.g. `kernels.torch_sdpa`: attention of
        the queries over their own blocks (and the sinks). Problems and leaves of the recursion that are exact as a
        whole do not use it. Only with `estimator="practical"`.
    check_finite : bool
        Refuse NaN and Inf.

    Returns
    -------
    out : array, shape (..., n_q, d_v)
        Of the caller's kind, device and dtype.

    Raises
    ------
    TypeError, ValueError
        As `attention`; and for parameters out of range, or a position that `exact_keys` names twice.

    Notes
    -----
    On a GPU, *practical* on float16 and bfloat16 arrays of a head dimension in `core.attend.DIMENSIONS` runs on tensor
    cores (`core/attend.py`); float32 and float64 arrays, *theory* and a `block_kernel` take tiles of matrix products.

    Numerator and normaliser of *practical* are unbiased, on condition that the sample has a key outside the query's
    block; the numerator of *theory* is unbiased without condition. The output, a ratio of estimates, is biased. [HA24]
    Theorem 1 bounds `||out - P V|| <= eps ||P|| ||V||` for *theory* if `alpha` and `kappa` are `n^o(1)`; `hardness`
    measures them.

    Examples
    --------
    >>> import numpy as np
    >>> from sublinattn import attention, hyper_attention
    >>> q, k, v = np.random.default_rng(0).standard_normal((3, 2048, 16))
    >>> exact = attention(q, k, v + 1)
    >>> out = hyper_attention(q, k, v + 1, block_size=128, sample_size=256, rng=0)
    >>> print(f"{np.linalg.norm(out - exact) / np.linalg.norm(exact):.2f}")
    0.08
    """
    xp, (q, k, v), leave = backends.enter(q=q, k=k, v=v)
    checks.shapes(q, k, v)
    scale = checks.resolve_scale(scale, q.shape[-1])
    batch_shape, n_q, n_k, d_v = q.shape[:-2], q.shape[-2], k.shape[-2], v.shape[-1]
    block_size = checks.integer("block_size", block_size, minimum=1)
    if sample_size is None:
        sample_size = min(SAMPLE_SIZE, n_k)
    elif (sample_size := checks.integer("sample_size", sample_size, minimum=1)) > n_k:
        raise ValueError(f"sample_size must be at most the number of keys ({n_k}), got {sample_size}")
    min_exact = checks.integer("min_exact", min_exact, minimum=0)
    exact_keys = resolve(exact_keys, batch_shape, n_k)
    if lsh_bits is not None and (lsh_bits := checks.integer("lsh_bits", lsh_bits, minimum=1)) > MAX_BITS:
        raise ValueError(f"lsh_bits must be at most {MAX_BITS}, got {lsh_bits}")
    checks.choice("estimator", estimator, ESTIMATORS)
    checks.flags(causal=causal, return_lse=return_lse)
    if block_kernel is not None and not callable(block_kernel):
        raise TypeError(f"block_kernel must be a function or None, got {type(block_kernel).__name__}")
    if block_kernel is not None and estimator != "practical":
        raise ValueError("block_kernel is only for estimator='practical': 'theory' needs the block's entries")

    fused = estimator == "practical" and block_kernel is None and attend.serves(xp, q, k, v)
    dtype = q.dtype if fused else backends.working_dtype(q)
    q, k, v = (xp.ascontiguousarray(x.astype(dtype, copy=False)).reshape(-1, *x.shape[-2:]) for x in (q, k, v))
    rule = resolve_block_by(block_by, causal=causal)
    common: dict[str, Any] = {"scale": scale, "block_size": block_size, "sample_size": sample_size, "block_by": rule}
    common |= {"min_exact": min_exact, "lsh_bits": lsh_bits, "rng": checks.generator(rng)}
    common |= {"make_estimator": ESTIMATORS[estimator], "kernel": block_kernel}
    power = 0  # of two: what the values are divided by
    if fused:
        from .fused import FusedProblem  # which is a Problem, and therefore imports this file

        guard: AbstractContextManager[None] = checks.finite(xp, check_finite, q=q, k=k, v=v)
        problem: Problem = FusedProblem(xp, q, k, v, shift=True, **common)
    else:
        q_norm, k_norm, v_norm = checks.largest_norms(xp, check_finite, q=q, k=k, v=v)
        # A kernel's partial is relative to exp(lse), not to exp(0): merging it needs the references.
        shift = block_kernel is not None or needs_shift(scale, q_norm, k_norm)
        q, k, common["scale"] = magnitudes.fit_logits(xp, q, k, scale, q_norm, k_norm)
        v, power = magnitudes.fit_values(xp, v, v_norm, shift=shift)
        guard, problem = nullcontext(), Problem(xp, q, k, v, shift=shift, **common)
    with guard:
        out, lse = problem.causal(exact_keys) if causal else problem.full(exact_keys)
    out = magnitudes.times_power(xp, out, power)
    for x in (out, lse):  # which is -inf where logits are so large that rounding them hides every key
        checks.representable(xp, x, q, k, v)
    out = leave(out.reshape(*batch_shape, n_q, d_v))
    return (out, leave(lse.reshape(*batch_shape, n_q), cast=False)) if return_lse else out


@dataclass(frozen=True)
class Problem:
    """`B` attention problems of one shape, the parameters of HyperAttention, and its Algorithms 3 and 4 as methods.

    Arrays q (B, n_q, d), k (B, n_k, d), v (B, n_k, d_v) are contiguous, in the dtype of accumulation. Without `shift`,
    no reference logit is subtracted before `exp`, so that every partial has the reference 0. A *row number* counts the
    rows of all problems together: row `i` of problem `p` is `p n + i`.
    """

    xp: Any
    q: Array
    k: Array
    v: Array
    _: KW_ONLY
    scale: float
    shift: bool  # whether logits may be so large that a maximum must be subtracted before `exp`
    block_size: int  # b
    sample_size: int  # m
    rng: np.random.Generator
    make_estimator: MakeEstimator = practical_estimator  # draws the sampled keys of a batch of problems
    lsh_bits: int | None = None
    min_exact: int = 0  # n0
    kernel: BlockKernel | None = None  # computes the exact blocks in place of this package's tiles
    block_by: str = "rank"  # under a causal mask: see `hyper_attention`
    tile: int | None = None  # queries in a tile of `own_hash.py`

    @property
    def rows(self) -> tuple[Array, Array, Array]:
        """Queries, keys and values of all problems together, shapes (B n_q, d), (B n_k, d), (B n_k, d_v)."""
        q, k, v = (x.reshape(-1, x.shape[-1]) for x in (self.q, self.k, self.v))
        return q, k, v

    # ------------------------------------------------------------------------------------------- Algorithm 3: no mask
    def full(self, exact_keys: ExactKeys, first: int = 0) -> tuple[Array, Array]:
        """Output (B, n_q - first, d_v) and lse (B, n_q - first) of the queries from `first` on, over all keys."""
        xp, (b, n_q, _) = self.xp, self.q.shape
        out = xp.empty((b * n_q + 1, self.v.shape[-1]), self.q.dtype)  # the last row is nobody's: see `own_hash.py`
        lse = xp.empty(b * n_q + 1, self.q.dtype)

        def deliver(rows: Array, p: Partial) -> None:
            lse[rows] = p.lse()
            backends.scatter(xp, out, rows, p.output())  # D~^-1 (A S^T S V), D~ the estimate of D

        self.unmasked(exact_keys, deliver, first)
        return out[:-1].reshape(b, n_q, -1)[:, first:], lse[:-1].reshape(b, n_q)[:, first:]

    def unmasked(self, exact_keys: ExactKeys, deliver: Deliver, first: int = 0) -> None:
        """Attention of every query from `first` on over all keys."""
        (b, n_q, _), n_k = self.q.shape, self.k.shape[1]
        q_start, k_start = np.arange(b) * n_q + first, np.arange(b) * n_k
        c = number(exact_keys)
        if n_k - c <= self.block_size or n_k <= self.min_exact:
            self.exact(self.q[:, first:], self.k, self.v, q_start, causal=False, deliver=deliver)
        else:
            lap = timing.clock(self.xp)()
            q_buckets, k_buckets = self.hash(lap)
            if isinstance(exact_keys, int):
                blocks = self._sort(q_buckets, k_buckets[:, c:], q_start, k_start + c, lap, first)
            else:
                blocks = self._sort(q_buckets, mark(self.xp, k_buckets, exact_keys), q_start, k_start, lap, first, c)
            sinks = k_start[:, None] + np.arange(c) if isinstance(exact_keys, int) else blocks.apart
            self.estimate(blocks, sinks, deliver)

    # ------------------------------------------------------------------------------------ Algorithm 4: causal recursion
    def causal(self, exact_keys: ExactKeys) -> tuple[Array, Array]:
        """Output (B, n_q, d_v) and lse (B, n_q) under the top-left aligned causal mask."""
        xp, n_q, n_k = self.xp, self.q.shape[1], self.k.shape[1]
        if n_q < n_k:  # no query sees the keys past n_q
            k, v = (xp.ascontiguousarray(x[:, :n_q]) for x in (self.k, self.v))
            return replace(self, k=k, v=v).causal(min(exact_keys, n_q) if isinstance(exact_keys, int) else exact_keys)
        if n_q > n_k:  # the queries past n_k see all keys
            out, lse = replace(self, q=xp.ascontiguousarray(self.q[:, :n_k])).causal(exact_keys)
            rest, rest_lse = self.full(exact_keys, n_k)
            return xp.concatenate([out, rest], axis=1), xp.concatenate([lse, rest_lse], axis=1)
        return self.square(exact_keys)

    def square(self, exact_keys: ExactKeys) -> tuple[Array, Array]:
        """`causal` for as many queries as keys."""
        xp, (b, n, _) = self.xp, self.q.shape
        total = Partial.empty(xp, (b * n + 1,), self.v.shape[-1], self.q.dtype)  # the last row is nobody's

        def store(rows: Array, p: Partial) -> None:
            total.m[rows], total.l[rows] = p.m, p.l
            backends.scatter(xp, total.o, rows, p.o)

        def add(rows: Array, p: Partial) -> None:
            if self.shift:
                p.merge(Partial(total.m[rows], total.l[rows], total.o[rows]))
            else:  # both have the reference m = 0
                p.l += total.l[rows]
                p.o += backends.gather(xp, total.o, rows)
            store(rows, p)

        self.recurse(exact_keys, store, add)
        return total.output()[:-1].reshape(b, n, -1), total.lse()[:-1].reshape(b, n)

    def recurse(self, exact_keys: ExactKeys, store: Deliver, add: Deliver) -> None:
        """Deliver everything that the queries see: the first time to `store`, then to `add`."""
        b, n, _ = self.q.shape
        first, positions = (exact_keys, None) if isinstance(exact_keys, int) else (0, exact_keys)
        if first:  # the sinks see each other causally; all later queries see all sinks
            sinks, start = slice(first), np.arange(b) * n
            k, v = self.k[:, sinks], self.v[:, sinks]
            self.exact(self.q[:, sinks], k, v, start, causal=True, deliver=store)
            if n > first:
                self.exact(self.q[:, first:], k, v, start + first, causal=False, deliver=store)
        self._diagonal(first, add if first else store)
        self._below_diagonal(first, positions, add)

    def recursion(self, n: int) -> tuple[int, int]:
        """Size of a leaf when `n` rows are halved until at most `max(min_exact, block_size)` are left; number of
        halvings. The last leaf may be smaller."""
        stop, levels = max(self.min_exact, self.block_size), 0
        while -(-n // 2**levels) > stop:
            levels += 1
        return -(-n // 2**levels), levels

    def _diagonal(self, first: int, deliver: Deliver) -> None:
        """Exact causal attention inside each leaf (where Algorithm 4 stops: `A11`, `A22`) of rows `first..n - 1`."""
        b, n, _ = self.q.shape
        leaf, _ = self.recursion(max(n - first, 1))
        for each in leaves(first, n, leaf):
            q, k, v = map(each.of, (self.q, self.k, self.v))
            self.exact(q, k, v, each.rows(b, n), causal=True, deliver=deliver)

    def _below_diagonal(self, first: int, positions: np.ndarray | None, deliver: Deliver) -> None:
        """`A21` of every node of the recursion: queries of its later half over keys of its earlier half, unmasked.

        Levels are counted from the leaves. The rows before `first` (sinks) are in no node; the keys at `positions`
        (B, c) are exact in every node that has them.
        """
        b, n, _ = self.q.shape
        leaf, levels = self.recursion(max(n - first, 1))
        if not levels:
            return
        lap = timing.clock(self.xp)()
        q_buckets, k_buckets = self.hash(lap)
        if positions is not None:
            k_buckets = mark(self.xp, k_buckets, positions)
        for each in inner_nodes(first, n, leaf, levels):
            rows, half = each.rows(b, n), each.half
            apart = 0 if positions is None else each.most_keys(positions)
            if apart and half - apart <= self.block_size:
                q, k, v = map(each.of, (self.q, self.k, self.v))
                self.exact(q[:, half:], k[:, :half], v[:, :half], rows + half, causal=False, deliver=deliver)
            else:
                pair = each.of(q_buckets), each.of(k_buckets)[:, :half]
                blocks = self._sort(*pair, rows + half, rows, lap, half, apart)
                self.estimate(blocks, blocks.apart, deliver)
            lap = timing.clock(self.xp)()

    # ---------------------------------------------------------------------------------------------------------- steps
    def hash(self, lap: Lap) -> tuple[Array, Array]:
        """Buckets of all queries (B, n_q) and keys (B, n_k)."""
        pair = hash_rows(self.xp, self.rng, self.q, self.k, block_size=self.block_size, bits=self.lsh_bits)
        lap("hash")
        return pair

    def _sort(
        self, q: Array, k: Array, q_start: np.ndarray, k_start: np.ndarray, lap: Lap, first: int, apart: int = 0
    ) -> SortedBlocks:
        """Blocks of the queries behind the `first` ones."""
        how: dict[str, Any] = {"block_size": self.block_size, "q_start": q_start, "k_start": k_start, "apart": apart}
        blocks = cut_blocks(self.xp, q, k, by=self.block_by, first=first, tile=self.tile, **how)
        lap("sort")
        return blocks

    def estimate(self, blocks: SortedBlocks, sinks: Array, deliver: Deliver) -> None:
        """Attention of every query in `blocks`: the sinks exactly, the other keys as the estimator does.

        *practical* computes the query's own block exactly and estimates the rest; *theory* does so for the normaliser,
        and estimates the product over all keys. `sinks` (P, c) are row numbers of keys, for each problem.
        """
        start_lap = timing.clock(self.xp)
        lap = start_lap()
        sinks = backends.to_device(sinks, self.xp)
        estimator = self.make_estimator(self, blocks)
        lap("sample")
        for group in blocks.groups:
            self._estimate_group(group, sinks, estimator, deliver, start_lap)

    def _estimate_group(
        self, group: BlockGroup, sinks: Array, estimator: Estimator, deliver: Deliver, start_lap: Callable[[], Lap]
    ) -> None:
        """`estimate` for blocks of one shape, in tiles of several blocks."""
        xp, (q, k, v) = self.xp, self.rows
        k_rows = group.k_rows
        if sinks.shape[1]:
            k_rows = xp.concatenate([k_rows, sinks[backends.to_device(group.problem, xp)]], axis=1)
        (blocks, t), c = group.q_rows.shape, k_rows.shape[1]
        # Blocks per tile: a block's products are small, so take enough blocks for the logits of two ordinary tiles.
        step = max(1, 2 * math.prod(backends.tile_shape(xp, len(sinks))) // (t * max(c, self.sample_size)))
        tiles = backends.cut(blocks, step)

        def worker(at: slice, its: tuple[Softmax, Lap]) -> None:
            tile, lap = its
            scratch, g = tile.scratch, at.stop - at.start
            scaled = backends.gather(xp, q, group.q_rows[at], scratch("q", g, t, q.shape[1]))
            scaled *= self.scale
            keys = backends.gather(xp, k, k_rows[at], scratch("k", g, c, k.shape[1]))
            values = backends.gather(xp, v, k_rows[at], scratch("v", g, c, v.shape[1]))
            lap("gather")
            p = tile.start("partial", g, t, v.shape[1])
            estimator.absorb(tile, p, Block(scaled, keys, values, sinks.shape[1], group, at), lap)
            deliver(group.q_rows[at], p)
            lap("merge")

        def own() -> tuple[Softmax, Lap]:
            return Softmax(xp, Scratch(xp, q.dtype), shift=self.shift), start_lap()

        backends.for_tiles(xp, tiles, worker, own)

    def exact(self, q: Array, k: Array, v: Array, start: np.ndarray, *, causal: bool, deliver: Deliver) -> None:
        """Exact attention of queries (P, t, d); `start` (P,) is the row number of each problem's first query."""
        xp = self.xp
        first_rows = backends.to_device(start, xp)

        def finish(at: slice, rows: slice, p: Partial) -> None:
            deliver(first_rows[at, None] + xp.arange(rows.start, rows.stop), p)

        lap = timing.clock(xp)()
        each_query_tile(xp, q, k, v, scale=self.scale, causal=causal, shift=self.shift, finish=finish)
        lap("exact")
