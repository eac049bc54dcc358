"""HyperAttention: attention in near-linear time from a sorted LSH and a few sampled keys.

Source: Han, Jayaram, Karbasi, Mirrokni, Woodruff, Zandieh, *HyperAttention: Long-context Attention in Near-Linear
Time*, ICLR 2024, arXiv 2310.05869 [HA24]: Algorithms 1 (sortLSH), 2 (ApproxD), 3 (HyperAttention) and 4 (causal).

Time `O(n (b + m) d + n log n)`, a factor `log(n / n0)` more if causal; memory `O(n d)` plus one tile per thread.

Differs from the paper in:

1. *practical* (the default) is the estimator of the authors' public code, not of the theorems: one shared sample for
   normaliser and product, without the keys of a query's own block, which are exact (see `SharedSample`).
2. *theory* follows Algorithms 2 and 3; what they leave open is listed at `TheorySample`.
3. When one block holds all keys the result is exact.
4. Causal: all nodes of one recursion level form one batch; every node reuses the hash of the whole sequence; the
   number of samples in a node is capped at its number of keys (which makes that node exact in *practical*).
5. `exact_keys` (attention sinks) are not in the paper: the first keys join every query's exact part.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from ...core import backends, checks, timing
from ...core.backends import Array, Scratch
from ...core.exact import Partial, Softmax, each_query_tile, needs_shift
from .estimators import (
    Block,
    BlockKernel,
    Estimator,
    Problem,
    SharedSample,
    TheorySample,
    draw_shared,
    draw_theory,
    row_norm_law,
)
from .sort_lsh import MAX_BITS, BlockGroup, SortedBlocks, buckets, default_bits, hyperplanes, sort_blocks

SAMPLE_SIZE = 256
MIN_EXACT = 1024

EstimatorName = Literal["practical", "theory"]
MakeEstimator = Callable[[Problem, SortedBlocks], Estimator]
Deliver = Callable[[Array, Partial], None]


def hyper_attention(
    q: Array,
    k: Array,
    v: Array,
    *,
    causal: bool = False,
    scale: float | None = None,
    block_size: int = 256,
    sample_size: int = SAMPLE_SIZE,
    lsh_bits: int | None = None,
    estimator: EstimatorName = "practical",
    min_exact: int = MIN_EXACT,
    exact_keys: int = 0,
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
    sample_size : int
        `m`, keys sampled per problem. The default is capped at the number of keys; any other value above it is refused.
    lsh_bits : int, optional
        Hyperplanes of the hash, 1 to 16; by default about `log2(number of blocks)`: a bucket is about a block.
    estimator : {"practical", "theory"}
        One shared sample, or ApproxD and row-norm sampling (see `_hyper_estimators`).
    min_exact : int
        Problems, and nodes of the causal recursion, with at most this many keys are exact.
    exact_keys : int
        The first `exact_keys` keys (attention sinks) are in every query's exact part.
    rng : Generator, int or None
        Source of all draws (SPEC 7). The same seed gives the same draws on CPU and GPU.
    return_lse : bool
        Return also the log of the estimated normaliser, shape (..., n_q).
    block_kernel : callable, optional
        `kernel(q, k, v, *, scale, causal) -> (out, lse)` on (g, t, d) arrays for the exact blocks, our own tiles by
        default; e.g. `kernels.torch_sdpa`. Only with `estimator="practical"`.
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

    Notes
    -----
    Numerator and normaliser are unbiased (see the estimators); their ratio is not. [HA24] Theorem 1 bounds
    `||out - P V|| <= eps ||P|| ||V||` if `alpha` and `kappa` (see `hardness`) are `n^o(1)`, which only data can tell.
    """
    xp, (q, k, v), leave = backends.enter(q=q, k=k, v=v)
    checks.shapes(q, k, v)
    scale = checks.resolve_scale(scale, q.shape[-1])
    n_q, n_k = q.shape[-2], k.shape[-2]
    block_size = checks.integer("block_size", block_size, minimum=1)
    sample_size = checks.integer("sample_size", sample_size, minimum=1)
    min_exact = checks.integer("min_exact", min_exact, minimum=0)
    exact_keys = checks.integer("exact_keys", exact_keys, minimum=0)
    if sample_size > n_k and sample_size != SAMPLE_SIZE:
        raise ValueError(f"sample_size must be at most the number of keys ({n_k}), got {sample_size}")
    if exact_keys > n_k:
        raise ValueError(f"exact_keys must be at most the number of keys ({n_k}), got {exact_keys}")
    if lsh_bits is not None and checks.integer("lsh_bits", lsh_bits, minimum=1) > MAX_BITS:
        raise ValueError(f"lsh_bits must be at most {MAX_BITS}, got {lsh_bits}")
    if estimator not in ("practical", "theory"):
        raise ValueError(f"estimator must be 'practical' or 'theory', got {estimator!r}")
    if block_kernel is not None and estimator != "practical":
        raise ValueError("block_kernel is only for estimator='practical': 'theory' needs the block's entries")

    dtype, lead, d_v = backends.working_dtype(q), q.shape[:-2], v.shape[-1]
    q, k, v = (xp.ascontiguousarray(x.astype(dtype, copy=False)).reshape(-1, *x.shape[-2:]) for x in (q, k, v))
    q_norm, k_norm, _ = checks.largest_norms(xp, check_finite, q=q, k=k, v=v)
    make: MakeEstimator = practical_estimator if estimator == "practical" else theory_estimator
    shift = block_kernel is not None or needs_shift(scale, q_norm, k_norm)  # a foreign kernel's reference is its lse
    run = HyperRun(
        xp, q, k, v, scale=scale, shift=shift, block_size=block_size, sample_size=sample_size, lsh_bits=lsh_bits,
        min_exact=min_exact, make=make, rng=checks.generator(rng), kernel=block_kernel,
    )  # fmt: skip
    out, lse = run.causal(exact_keys) if causal else run.full(exact_keys)
    out = leave(out.reshape(*lead, n_q, d_v))
    return (out, leave(lse.reshape(*lead, n_q))) if return_lse else out


def practical_estimator(problem: Problem, blocks: SortedBlocks) -> Estimator:
    """One shared sample, capped at the number of keys."""
    p, n = blocks.k_order.shape
    return SharedSample(problem, blocks, draw_shared(problem.rng, p, n, min(problem.sample_size, n)))


def theory_estimator(
    problem: Problem, blocks: SortedBlocks, *, kappa: float | None = None, eps: float | None = None
) -> Estimator:
    """ApproxD and row-norm sampling."""
    law = row_norm_law(problem.xp, problem.v, blocks.k_order)
    draws = draw_theory(problem.rng, blocks, problem.sample_size, law)
    return TheorySample(problem, blocks, draws, kappa=kappa, eps=eps)


@dataclass(frozen=True)
class HyperRun:
    """One call on (B, n, d) arrays of the accumulation dtype: what the steps below share."""

    xp: Any
    q: Array
    k: Array
    v: Array
    scale: float
    shift: bool
    block_size: int
    sample_size: int
    lsh_bits: int | None
    min_exact: int
    make: MakeEstimator
    rng: np.random.Generator
    kernel: BlockKernel | None = None

    # ------------------------------------------------------------------------------------------- Algorithm 3: no mask
    def full(self, exact_keys: int) -> tuple[Array, Array]:
        """Output (B, n_q, d_v) and lse (B, n_q) of every query over all keys."""
        xp, (b, n_q, _), n_k = self.xp, self.q.shape, self.k.shape[1]
        out = xp.empty((b * n_q, self.v.shape[-1]), self.q.dtype)
        lse = xp.empty(b * n_q, self.q.dtype)

        def deliver(rows: Array, p: Partial) -> None:
            lse[rows] = p.lse()
            p.o /= xp.where(p.l == 0, 1, p.l)[..., None]
            backends.scatter(xp, out, rows, p.o)

        if n_k - exact_keys <= self.block_size or n_k <= self.min_exact:
            self._exact(self.q, self.k, self.v, np.arange(b) * n_q, causal=False, deliver=deliver)
        else:
            q_buckets, k_buckets = self._hash(lap := timing.clock(xp)())
            k_start = np.arange(b) * n_k
            sinks = k_start[:, None] + np.arange(exact_keys)
            blocks = self._sort(q_buckets, k_buckets[:, exact_keys:], np.arange(b) * n_q, k_start + exact_keys, lap)
            self.estimate(blocks, sinks, deliver)
        return out.reshape(b, n_q, -1), lse.reshape(b, n_q)

    # ------------------------------------------------------------------------------------ Algorithm 4: causal recursion
    def causal(self, exact_keys: int) -> tuple[Array, Array]:
        """Output and lse under the top-left aligned causal mask."""
        xp, n_q, n_k = self.xp, self.q.shape[1], self.k.shape[1]
        if n_q < n_k:  # no query sees the keys past n_q
            return replace(self, k=_rows(xp, self.k, 0, n_q), v=_rows(xp, self.v, 0, n_q)).causal(min(exact_keys, n_q))
        if n_q > n_k:  # the queries past n_k see all keys
            out, lse = replace(self, q=_rows(xp, self.q, 0, n_k)).causal(exact_keys)
            more_out, more_lse = replace(self, q=_rows(xp, self.q, n_k, n_q)).full(exact_keys)
            return xp.concatenate([out, more_out], axis=1), xp.concatenate([lse, more_lse], axis=1)
        b, n, c = len(self.q), n_q, exact_keys
        total = Partial.empty(xp, (b * n,), self.v.shape[-1], self.q.dtype)
        start = np.arange(b) * n

        def store(rows: Array, p: Partial) -> None:
            total.m[rows], total.l[rows] = p.m, p.l
            backends.scatter(xp, total.o, rows, p.o)

        def add(rows: Array, p: Partial) -> None:
            if self.shift:
                p.merge(Partial(total.m[rows], total.l[rows], total.o[rows]))
            else:
                p.l += total.l[rows]
                p.o += backends.gather(xp, total.o, rows)
            store(rows, p)

        if c:  # the sinks: seen by each other causally, by all later queries whole
            q, k, v = self.q, self.k[:, :c], self.v[:, :c]
            self._exact(q[:, :c], k, v, start, causal=True, deliver=store)
            if n > c:
                self._exact(q[:, c:], k, v, start + c, causal=False, deliver=store)
        self._diagonal(c, add if c else store)
        self._below_diagonal(c, add)
        total.o /= total.l[:, None]
        return total.o.reshape(b, n, -1), total.lse().reshape(b, n)

    def _leaf(self, n: int) -> tuple[int, int]:
        """Size of the recursion's leaves for `n` rows, and how many levels lie above them."""
        stop, levels = max(self.min_exact, self.block_size), 0
        while -(-n // 2**levels) > stop:
            levels += 1
        return -(-n // 2**levels), levels

    def _diagonal(self, first: int, deliver: Deliver) -> None:
        """Exact causal attention inside each leaf of rows `first..n`."""
        b, n, _ = self.q.shape
        if n == first:
            return
        leaf, _ = self._leaf(n - first)
        full = (n - first) // leaf
        for start, nodes, size in ((first, full, leaf), (first + full * leaf, 1, (n - first) % leaf)):
            if nodes and size:
                stop = start + nodes * size
                q, k, v = (x[:, start:stop].reshape(b * nodes, size, -1) for x in (self.q, self.k, self.v))
                rows = (np.arange(b)[:, None] * n + start + np.arange(nodes) * size).ravel()
                self._exact(q, k, v, rows, causal=True, deliver=deliver)

    def _below_diagonal(self, first: int, deliver: Deliver) -> None:
        """`A21` of every node: its second half of queries over its first half of keys, unmasked, level by level."""
        b, n, _ = self.q.shape
        leaf, levels = self._leaf(max(n - first, 1))
        if not levels:
            return
        lap = timing.clock(self.xp)()
        q_buckets, k_buckets = self._hash(lap)
        for level in range(levels):
            half = leaf * 2**level
            full = (n - first) // (2 * half)
            start = first + full * 2 * half
            for at, nodes, n_q in ((first, full, half), (start, 1, n - start - half)):
                if nodes and n_q > 0:
                    k_start = (np.arange(b)[:, None] * n + at + np.arange(nodes) * 2 * half).ravel()
                    pick_q = backends.to_device(k_start[:, None] + half + np.arange(n_q), self.xp)
                    pick_k = backends.to_device(k_start[:, None] + np.arange(half), self.xp)
                    q_node, k_node = q_buckets.reshape(-1)[pick_q], k_buckets.reshape(-1)[pick_k]
                    blocks = self._sort(q_node, k_node, k_start + half, k_start, lap)
                    self.estimate(blocks, np.empty((len(k_start), 0), np.int64), deliver)
                    lap = timing.clock(self.xp)()

    # ---------------------------------------------------------------------------------------------------------- steps
    def _hash(self, lap: Callable[[str], None]) -> tuple[Array, Array]:
        xp, (b, _, d), n_k = self.xp, self.q.shape, self.k.shape[1]
        bits = self.lsh_bits or default_bits(n_k, self.block_size)
        planes = backends.to_device(hyperplanes(self.rng, b, d, bits), xp)
        pair = buckets(xp, self.q, planes), buckets(xp, self.k, planes)
        lap("hash")
        return pair

    def _sort(self, q: Array, k: Array, q_start: np.ndarray, k_start: np.ndarray, lap: Any) -> SortedBlocks:
        blocks = sort_blocks(self.xp, q, k, block_size=self.block_size, q_start=q_start, k_start=k_start)
        lap("sort")
        return blocks

    def estimate(self, blocks: SortedBlocks, exact: np.ndarray, deliver: Deliver) -> None:
        """Every query's own block and `exact` keys (flattened rows, (P, c)), and the estimate of the rest, in tiles."""
        xp, q, k, v = self.xp, *(x.reshape(-1, x.shape[-1]) for x in (self.q, self.k, self.v))
        make_lap = timing.clock(xp)
        lap = make_lap()
        problem = Problem(xp, q, k, v, self.scale, self.shift, self.block_size, self.sample_size, self.rng, self.kernel)
        estimator = self.make(problem, blocks)
        lap("sample")
        for group in blocks.groups:
            k_rows = group.k_rows
            if exact.shape[1]:
                k_rows = xp.concatenate([k_rows, backends.to_device(exact[group.problem], xp)], axis=1)
            (g_all, t), c = group.q_rows.shape, k_rows.shape[1]
            problems, rows, keys = backends.tile_shape(xp, len(blocks.k_order))
            g = max(1, 2 * problems * rows * keys // (t * max(c, self.sample_size)))  # small products: more at once
            tiles = [slice(i, min(i + g, g_all)) for i in range(0, g_all, g)]

            def make_worker(group: BlockGroup = group, k_rows: Array = k_rows) -> Callable[[slice], None]:
                scratch = Scratch(xp, q.dtype)
                tile, lap = Softmax(xp, scratch, shift=self.shift), make_lap()
                c = k_rows.shape[1]

                def worker(at: slice) -> None:
                    rows = group.q_rows[at]
                    g, t = rows.shape
                    q_tile = backends.gather(xp, q, rows, scratch("q", g, t, q.shape[1]))
                    q_tile *= self.scale
                    k_tile = backends.gather(xp, k, k_rows[at], scratch("k", g, c, k.shape[1]))
                    v_tile = backends.gather(xp, v, k_rows[at], scratch("v", g, c, v.shape[1]))
                    lap("gather")
                    p = tile.start("partial", g, t, v.shape[1])
                    estimator.absorb(tile, p, Block(q_tile, k_tile, v_tile, exact.shape[1]), group, at, lap)
                    deliver(rows, p)
                    lap("merge")

                return worker

            backends.for_tiles(xp, tiles, make_worker)

    def _exact(self, q: Array, k: Array, v: Array, start: np.ndarray, *, causal: bool, deliver: Deliver) -> None:
        """Exact attention of (P, t, d) queries whose flattened rows begin at `start`, shape (P,)."""
        xp = self.xp
        first = backends.to_device(start, xp)

        def finish(at: slice, rows: slice, p: Partial) -> None:
            deliver(first[at, None] + xp.arange(rows.start, rows.stop), p)

        lap = timing.clock(xp)()
        each_query_tile(xp, q, k, v, scale=self.scale, causal=causal, shift=self.shift, finish=finish)
        lap("exact")


def _rows(xp: Any, x: Array, start: int, stop: int) -> Array:
    return xp.ascontiguousarray(x[:, start:stop])
