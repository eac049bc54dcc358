"""The two estimators of HyperAttention: what a tile of queries adds for the keys outside its own block.

Source: [HA24], Algorithms 2 and 3, Lemmas 1 and 2. `hyper.py` sorts, cuts and recurses; here keys are drawn and weighted. Both estimators see tiles
of `g` blocks with `t` queries each and leave a `Partial` whose `l` and `o` estimate the normaliser and the product.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from . import _xp
from ._xp import Array, Scratch
from .exact import Partial, Softmax
from .primitives.lsh import BlockGroup, SortedBlocks

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
    """Gathered rows of one tile: scaled queries (g, t, d), keys (g, c, d), values (g, c, d_v); the last `exact` keys are not the block's own."""

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

    For the queries of block B, sampled keys inside B are left out and the `u` others weigh `(n - |B|) / u`. Given `u >= 1` the
    partial's `l` and `o` are exactly unbiased, with less variance than under the fixed weight `n / m`; with `u = 0` (possible
    only if `m <= |B|`) the keys outside B count nothing. At `m = n` every weight is 1 and the result is exact.
    """

    def __init__(self, problem: Problem, blocks: SortedBlocks, positions: np.ndarray) -> None:
        xp = problem.xp
        self.problem, self.n = problem, blocks.k_order.shape[1]
        self.block_of = positions // blocks.block_size
        self.sizes = blocks.block_size
        rows = xp.take_along_axis(blocks.k_order, _xp.to_device(positions, xp), axis=1)
        self.k, self.v = problem.k[rows], problem.v[rows]
        self._weights = {id(group): self.weights(group) for group in blocks.groups}

    def weights(self, group: BlockGroup) -> Array:
        """Weight of each sampled key for each block, shape (G, m)."""
        outside = self.block_of[group.problem] != group.block[:, None]
        drawn = outside.sum(axis=1, keepdims=True)
        size = np.minimum(self.sizes, self.n - group.block * self.sizes)[:, None]
        weights = outside * ((self.n - size) / np.maximum(drawn, 1))
        return _xp.to_device(weights.astype(self.k.dtype), self.problem.xp)

    def absorb(self, tile: Softmax, p: Partial, block: Block, group: BlockGroup, at: slice, lap: Any) -> None:
        absorb_block(self.problem, tile, p, block)
        lap("block")
        k, v = _of_problem(self.k, group, at), _of_problem(self.v, group, at)
        tile.absorb(p, tile.logits(block.q, k), v, self._weights[id(group)][at])
        lap("sample")


def _of_problem(x: Array, group: BlockGroup, at: slice) -> Array:
    """Per-problem rows (P, m, ...) for the blocks of a tile: (g, m, ...), or (1, m, ...) when they share a problem."""
    which = group.problem[at]
    return x[which[0] : which[0] + 1] if which[0] == which[-1] else x[which]


class TheorySample:
    """*theory*: ApproxD for the normaliser [HA24, Algorithm 2], row-norm sampling for the product [HA24, Lemma 2].

    Draws are with replacement. ApproxD: `m` random queries give `tau`, the largest unmasked row sum; `m` uniform keys, entries capped at `C_i`, give
    `d_i`; the normaliser is the block's row sum plus `max(d_i, tau/kappa)`. Product: `A S^T S V` over *all* keys, with `p_j = |v_j|^2 / |V|_F^2`.

    Differs from the paper in:

    1. `kappa=None` takes the ratio measured on the same `m` queries.
    2. Where the estimated product exceeds the estimated normaliser by 69 nats, the ratio saturates instead of overflowing.
    3. The hidden constant of `C_i` is 1. `eps=None` inverts Lemma 1 at `kappa = alpha = 1`: `eps^6 = log(n) / m`.
    """

    def __init__(
        self, problem: Problem, blocks: SortedBlocks, draws: TheoryDraws, *, kappa: float | None, eps: float | None
    ) -> None:
        xp = problem.xp
        self.problem, self.blocks = problem, blocks
        self.n, self.m = blocks.k_order.shape[1], draws.uniform.shape[1]
        dtype = problem.k.dtype
        if eps is None:
            eps = (max(math.log(self.n), 1) / self.m) ** (1 / 6)
        self.cap = eps**2 * self.m / (self.n * max(math.log(self.n), 1))
        self.block_of = draws.uniform // blocks.block_size
        uniform = xp.take_along_axis(blocks.k_order, _xp.to_device(draws.uniform, xp), axis=1)
        by_norm = xp.take_along_axis(blocks.k_order, _xp.to_device(draws.by_norm, xp), axis=1)
        self.k_uniform, self.k_norm = problem.k[uniform], problem.k[by_norm]
        weight = _xp.to_device((1 / (draws.by_norm.shape[1] * draws.probability)).astype(dtype), xp)
        self.v_norm = problem.v[by_norm] * weight[..., None]
        self.log_floor = self._log_floor(draws.queries, kappa)

    def _log_floor(self, ranks: np.ndarray, kappa: float | None) -> Array:
        """`log(tau / kappa)` of each problem, shape (P,), from the unmasked row sums of the queries at these sorted ranks."""
        xp, blocks = self.problem.xp, self.blocks
        rows = xp.take_along_axis(blocks.q_order, _xp.to_device(ranks, xp), axis=1)
        own = _xp.to_device(ranks // blocks.q_block_size, xp)
        sums = xp.empty(ranks.shape, self.problem.q.dtype)
        _, t, c = _xp.tile_shape(xp, len(ranks))

        def make_worker() -> Callable[[tuple[int, int]], None]:
            tile = Softmax(xp, Scratch(xp, self.problem.q.dtype), shift=True)

            def worker(where: tuple[int, int]) -> None:
                problem, start = where
                at = slice(start, start + t)
                q = (self.problem.q[rows[problem, at]] * self.problem.scale)[None]
                p = tile.start("tau", 1, q.shape[1], 0)
                for first in range(0, self.n, c):
                    keys = blocks.k_order[problem, first : first + c]
                    logits = tile.logits(q, self.problem.k[keys][None])
                    key_block = xp.arange(first, first + len(keys)) // blocks.block_size
                    logits += xp.where(own[problem, at, None] == key_block, -np.inf, 0).astype(logits.dtype)
                    p.l += tile.exponentials(p, logits).sum(axis=-1)
                sums[problem, at] = p.lse()[0]

            return worker

        _xp.for_tiles(xp, [(i, s) for i in range(len(ranks)) for s in range(0, ranks.shape[1], t)], make_worker)
        largest = sums.max(axis=1)
        return sums.min(axis=1) if kappa is None else largest - math.log(kappa)

    def absorb(self, tile: Softmax, p: Partial, block: Block, group: BlockGroup, at: slice, lap: Any) -> None:
        xp = tile.xp
        problem_of = _xp.to_device(group.problem[at], xp)
        log_floor = self.log_floor[problem_of][:, None]
        if tile.shift:
            p.m[...] = log_floor  # any reference will do; this one keeps the floor itself from overflowing
        own = block.k.shape[1] - block.exact
        e = tile.exponentials(p, tile.logits(block.q, block.k))
        p.l += e.sum(axis=-1)
        if block.exact:
            p.o += e[..., own:] @ block.v[:, own:]
        lap("block")
        e = tile.exponentials(p, tile.logits(block.q, _of_problem(self.k_norm, group, at)))
        p.o += xp.matmul(e, _of_problem(self.v_norm, group, at))
        e = tile.exponentials(p, tile.logits(block.q, _of_problem(self.k_uniform, group, at)))
        reference = p.m if tile.shift else 0
        floor = xp.exp(log_floor - reference)
        cap = (self.cap * (p.l + floor))[..., None]
        outside = self.block_of[group.problem[at]] != group.block[at, None]
        weights = _xp.to_device((outside * (self.n / self.m)).astype(e.dtype), xp)
        rest = xp.matmul(xp.minimum(e, cap), weights[..., None])[..., 0]
        p.l += xp.maximum(rest, floor)
        xp.maximum(p.l, SATURATION, out=p.l)
        lap("sample")


@dataclass(frozen=True)
class TheoryDraws:
    """Draws of *theory*: sorted ranks of the test queries, sorted positions of uniform and of row-norm keys, each (P, m), and `p_j` of the latter."""

    queries: np.ndarray
    uniform: np.ndarray
    by_norm: np.ndarray
    probability: np.ndarray


def draw_theory(rng: np.random.Generator, problem: Problem, blocks: SortedBlocks, m: int) -> TheoryDraws:
    """Draw test queries, uniform keys and row-norm keys for every problem."""
    xp = problem.xp
    (p, n_q), n_k = blocks.q_order.shape, blocks.k_order.shape[1]
    squares = xp.einsum("ij,ij->i", problem.v, problem.v)[blocks.k_order]
    law = _xp.asnumpy(squares).astype(np.float64)
    total = law.sum(axis=1, keepdims=True)
    law = np.where(total > 0, law / np.where(total > 0, total, 1), 1 / n_k)
    by_norm = np.stack([rng.choice(n_k, m, p=row) for row in law])
    return TheoryDraws(
        queries=rng.integers(n_q, size=(p, m)),
        uniform=rng.integers(n_k, size=(p, m)),
        by_norm=by_norm,
        probability=np.take_along_axis(law, by_norm, axis=1),
    )
