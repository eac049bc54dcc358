"""The two estimators of HyperAttention: what a tile of queries adds for the keys outside its own block.

Source: [HA24], Algorithms 2 and 3, Lemmas 1 and 2. `hyper.py` sorts, cuts and recurses; here keys are drawn and
weighted. Both estimators see tiles of `g` blocks with `t` queries each and leave a `Partial` whose `l` and `o` estimate
the normaliser and the product.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ...core import backends
from ...core.backends import Array, Scratch
from ...core.exact import Partial, Softmax
from .sort_lsh import BlockGroup, SortedBlocks

SATURATION = 1e-30  # smallest normaliser, relative to the largest exponential in the tile

BlockKernel = Callable[..., tuple[Array, Array]]


@dataclass(frozen=True)
class Problem:
    """What all tiles of one call share: flattened `(rows, d)` arrays and parameters."""

    xp: Any
    q: Array
    k: Array
    v: Array
    scale: float
    shift: bool
    block_size: int
    sample_size: int
    rng: np.random.Generator
    kernel: BlockKernel | None


class Estimator(Protocol):
    """Draws keys for every problem, then serves tiles; thread-safe once built."""

    def absorb(self, tile: Softmax, p: Partial, block: Block, group: BlockGroup, at: slice, lap: Any) -> None:
        """Absorb the blocks `group[at]`, gathered as `block`, and an estimate of all other keys."""


@dataclass(frozen=True)
class Block:
    """Gathered rows of one tile: scaled queries (g, t, d), keys (g, c, d), values (g, c, d_v).

    The last `exact` keys are not the block's own.
    """

    q: Array
    k: Array
    v: Array
    exact: int


def absorb_block(problem: Problem, tile: Softmax, p: Partial, block: Block) -> None:
    """The exact part, by our own kernel or by the caller's."""
    if problem.kernel is None:
        tile.absorb(p, tile.logits(block.q, block.k), block.v)
    else:
        out, lse = problem.kernel(block.q, block.k, block.v, scale=1.0, causal=False)
        p.m[...], p.l[...], p.o[...] = lse, 1, out


def draw_shared(rng: np.random.Generator, problems: int, n: int, m: int) -> np.ndarray:
    """`m` of `n` sorted positions for each problem, without replacement, shape (problems, m)."""
    return np.stack([rng.choice(n, m, replace=False, shuffle=False) for _ in range(problems)])


class SharedSample:
    """*practical*: one uniform sample of `m` keys, for numerator and normaliser, shared by all queries of a problem.

    For the queries of block B, sampled keys inside B are left out and the `u` others weigh `(n - |B|) / u`. Given
    `u >= 1` the partial's `l` and `o` are exactly unbiased, with less variance than under the fixed weight `n / m`;
    with `u = 0` (possible only if `m <= |B|`) the keys outside B count nothing. At `m = n` every weight is 1 and the
    result is exact.
    """

    def __init__(self, problem: Problem, blocks: SortedBlocks, positions: np.ndarray) -> None:
        xp = problem.xp
        self.problem, self.n = problem, blocks.k_order.shape[1]
        self.block_of = positions // blocks.block_size
        self.sizes = blocks.block_size
        rows = xp.take_along_axis(blocks.k_order, backends.to_device(positions, xp), axis=1)
        self.k, self.v = problem.k[rows], problem.v[rows]
        self._weights = {id(group): self.weights(group) for group in blocks.groups}

    def weights(self, group: BlockGroup) -> Array:
        """Weight of each sampled key for each block, shape (G, m)."""
        outside = self.block_of[group.problem] != group.block[:, None]
        drawn = outside.sum(axis=1, keepdims=True)
        size = np.minimum(self.sizes, self.n - group.block * self.sizes)[:, None]
        weights = outside * ((self.n - size) / np.maximum(drawn, 1))
        return backends.to_device(weights.astype(self.k.dtype), self.problem.xp)

    def absorb(self, tile: Softmax, p: Partial, block: Block, group: BlockGroup, at: slice, lap: Any) -> None:
        absorb_block(self.problem, tile, p, block)
        lap("block")
        k, v = (_of_problem(tile.xp, x, group, at) for x in (self.k, self.v))
        (g, t, _), (problems, m, d_v) = block.q.shape, v.shape
        logits = tile.logits(_per_problem(block.q, problems), k).reshape(g, t, m)
        counts = self._weights[id(group)][at]
        weighted = tile.scratch("weighted", problems, g // problems, m, d_v)
        tile.xp.multiply(v[:, None], counts.reshape(problems, -1, m, 1), out=weighted)
        tile.absorb(p, logits, weighted.reshape(g, m, d_v), counts)
        lap("sample")


def _of_problem(xp: Any, x: Array, group: BlockGroup, at: slice) -> Array:
    """Rows of `x` (P, m, ...) for a tile of `g` blocks: one entry per problem if each has as many blocks in the tile,
    else one per block.
    """
    which = group.problem[at]
    first, last = int(which[0]), int(which[-1])
    even = np.array_equal(which, np.repeat(np.arange(first, last + 1), len(which) // (last - first + 1)))
    return x[first : last + 1] if even else x[backends.to_device(which, xp)]


def _per_problem(x: Array, problems: int) -> Array:
    """Tile (g, t, ...) with the blocks of a problem joined, so that they meet its sample in one product."""
    return x.reshape(problems, -1, x.shape[-1])


class TheorySample:
    """*theory*: ApproxD for the normaliser [HA24, Algorithm 2], row-norm sampling for the product [HA24, Lemma 2].

    Draws are with replacement. ApproxD: `m` random queries give `tau`, the largest unmasked row sum; `m` uniform keys,
    entries capped at `C_i`, give `d_i`; the normaliser is the block's row sum plus `max(d_i, tau/kappa)`. Product:
    `A S^T S V` over *all* keys, with `p_j = |v_j|^2 / |V|_F^2`.

    Differs from the paper in:

    1. `kappa=None` takes the ratio measured on the same `m` queries.
    2. Where the estimated product exceeds the estimated normaliser by 69 nats, the ratio saturates: no overflow.
    3. The hidden constant of `C_i` is 1. `eps=None` inverts Lemma 1 at `kappa = alpha = 1`: `eps^6 = log(n) / m`.
    """

    def __init__(
        self, problem: Problem, blocks: SortedBlocks, draws: TheoryDraws, *, kappa: float | None, eps: float | None
    ) -> None:
        xp = problem.xp
        self.problem = problem
        n, m = blocks.k_order.shape[1], draws.uniform.shape[1]
        dtype, log_n = problem.k.dtype, max(math.log(n), 1)
        if eps is None:
            eps = (log_n / m) ** (1 / 6)
        self.cap = eps**2 * m / (n * log_n)
        self.weight = n / m
        self.block_of = draws.uniform // blocks.block_size
        uniform = xp.take_along_axis(blocks.k_order, backends.to_device(draws.uniform, xp), axis=1)
        by_norm = xp.take_along_axis(blocks.k_order, backends.to_device(draws.by_norm, xp), axis=1)
        self.k_uniform, self.k_norm = problem.k[uniform], problem.k[by_norm]
        weight = backends.to_device((1 / (draws.by_norm.shape[1] * draws.probability)).astype(dtype), xp)
        self.v_norm = problem.v[by_norm] * weight[..., None]
        n_q = blocks.q_order.shape[1]
        ranks = draws.queries if m < n_q else np.broadcast_to(np.arange(n_q), (len(draws.queries), n_q))
        sums = unmasked_row_sums(xp, problem.q, problem.k, blocks, ranks, scale=problem.scale)
        if m >= n_q:  # every query once was cheaper than m of them
            sums = xp.take_along_axis(sums, backends.to_device(draws.queries, xp), axis=1)
        self.log_floor = sums.min(axis=1) if kappa is None else sums.max(axis=1) - math.log(kappa)

    def absorb(self, tile: Softmax, p: Partial, block: Block, group: BlockGroup, at: slice, lap: Any) -> None:
        xp = tile.xp
        problem_of = backends.to_device(group.problem[at], xp)
        log_floor = self.log_floor[problem_of][:, None]
        if tile.shift:
            p.m[...] = log_floor  # any reference will do; this one keeps the floor itself from overflowing
        own = block.k.shape[1] - block.exact
        e = tile.exponentials(p, tile.logits(block.q, block.k))
        p.l += e.sum(axis=-1)
        if block.exact:
            p.o += e[..., own:] @ block.v[:, own:]
        lap("block")
        (g, t, _), d_v = block.q.shape, block.v.shape[-1]
        k_norm, v_norm, k_uniform = (_of_problem(xp, x, group, at) for x in (self.k_norm, self.v_norm, self.k_uniform))
        q = _per_problem(block.q, len(k_norm))
        e = tile.exponentials(p, tile.logits(q, k_norm).reshape(g, t, -1))
        p.o += xp.matmul(_per_problem(e, len(v_norm)), v_norm).reshape(g, t, d_v)
        e = tile.exponentials(p, tile.logits(q, k_uniform).reshape(g, t, -1))
        reference = p.m if tile.shift else 0
        floor = xp.exp(log_floor - reference)
        cap = (self.cap * (p.l + floor))[..., None]
        outside = self.block_of[group.problem[at]] != group.block[at, None]
        weights = backends.to_device((outside * self.weight).astype(e.dtype), xp)
        rest = xp.matmul(xp.minimum(e, cap), weights[..., None])[..., 0]
        p.l += xp.maximum(rest, floor)
        xp.maximum(p.l, SATURATION, out=p.l)
        lap("sample")


def unmasked_row_sums(xp: Any, q: Array, k: Array, blocks: SortedBlocks, ranks: np.ndarray, *, scale: float) -> Array:
    """`log <1 - M_i, A_i>` of the queries at these sorted ranks: the row sums outside their own blocks.

    Parameters
    ----------
    q, k : array, shape (rows, d)
        Flattened queries and keys.
    ranks : numpy array of int, shape (P, t)
        Which queries of each problem, by their place in the sorted order.

    Returns
    -------
    array, shape (P, t)
        `O(t n_k d)` operations per problem.
    """
    rows = xp.take_along_axis(blocks.q_order, backends.to_device(ranks, xp), axis=1)
    own = ranks // blocks.q_block_size
    sums = xp.empty(ranks.shape, q.dtype)
    n_k, b = blocks.k_order.shape[1], blocks.block_size
    _, step_q, step_k = backends.tile_shape(xp, len(ranks))

    def make_worker() -> Callable[[tuple[int, int]], None]:
        tile = Softmax(xp, Scratch(xp, q.dtype), shift=True)

        def worker(where: tuple[int, int]) -> None:
            problem, start = where
            at = slice(start, start + step_q)
            block = own[problem, at, None]
            scaled = (q[rows[problem, at]] * scale)[None]
            p = tile.start("sums", 1, scaled.shape[1], 0)
            for first in range(0, n_k, step_k):
                stop = min(first + step_k, n_k)
                logits = tile.logits(scaled, k[blocks.k_order[problem, first:stop]][None])
                if block.min() <= (stop - 1) // b and block.max() >= first // b:
                    masked = np.where(block == np.arange(first, stop) // b, -np.inf, 0)
                    logits += backends.to_device(masked.astype(logits.dtype), xp)
                p.l += tile.exponentials(p, logits).sum(axis=-1)
            sums[problem, at] = p.lse()[0]

        return worker

    backends.for_tiles(xp, [(i, s) for i in range(len(ranks)) for s in range(0, ranks.shape[1], step_q)], make_worker)
    return sums


@dataclass(frozen=True)
class TheoryDraws:
    """Draws of *theory*, (P, m) each: ranks of test queries, positions of uniform and of row-norm keys, their `p_j`."""

    queries: np.ndarray
    uniform: np.ndarray
    by_norm: np.ndarray
    probability: np.ndarray


def row_norm_law(xp: Any, v: Array, order: Array) -> np.ndarray:
    """`p_j = |v_j|^2 / |V|_F^2` over each problem's keys in sorted order, (P, n_k), on the host; uniform if V is 0."""
    squares = backends.asnumpy(xp.einsum("ij,ij->i", v, v)[order]).astype(np.float64)
    total = squares.sum(axis=1, keepdims=True)
    return np.where(total > 0, squares / np.where(total > 0, total, 1), 1 / squares.shape[1])


def draw_theory(rng: np.random.Generator, blocks: SortedBlocks, m: int, law: np.ndarray) -> TheoryDraws:
    """Draw `m` test queries, uniform keys and keys by `law` (P, n_k) for every problem."""
    (p, n_q), n_k = blocks.q_order.shape, blocks.k_order.shape[1]
    by_norm = np.stack([rng.choice(n_k, m, p=row) for row in law])
    return TheoryDraws(
        queries=rng.integers(n_q, size=(p, m)),
        uniform=rng.integers(n_k, size=(p, m)),
        by_norm=by_norm,
        probability=np.take_along_axis(law, by_norm, axis=1),
    )
