"""The two estimators of HyperAttention: how the keys outside a query's own block enter normaliser and product.

Source: [HA24] Han et al., *HyperAttention*, arXiv 2310.05869: Algorithm 2 (ApproxD) and Lemma 1 for the normaliser,
Algorithm 3 and Lemma 2 for the product. `hyper.py` sorts, cuts and recurses; here keys are drawn and weighted.

With `A = exp(s Q K^T)`, `M` the sortLSH mask (1 in a query's own block) and `D = diag(A 1)`, both estimators take tiles
of `g` blocks with `t` queries each and leave a `Partial` whose `l` estimates `D_ii` and whose `o` estimates `(A V)_i`,
relative to `exp(m_i)`. They differ from the paper as listed at `SharedSample` and `TheorySample`.

Cost per query: `O((b + m) d)` operations, `b` keys of its own block and `m` sampled ones; *theory* adds
`O(min(m, n) n d)` per problem for the row sums of its test queries.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ...core import backends
from ...core.backends import Array, Scratch
from ...core.exact import Partial, Softmax
from ...primitives.sampling import sample_without_replacement
from .sort_lsh import BlockGroup, SortedBlocks

if TYPE_CHECKING:
    from .hyper import Problem

SATURATION = 1e-30  # smallest normaliser, relative to the largest exponential in the tile

BlockKernel = Callable[..., tuple[Array, Array]]
Lap = Callable[[str], None]
"""Books the time since the last lap under the name of a stage (`timing.clock`)."""


@dataclass(frozen=True)
class Block:
    """One tile: blocks `at` of `group`, their rows gathered.

    Queries q (g, t, d) are times the logits' scale. Of the keys k (g, c, d), values v (g, c, d_v), the last `sinks` are
    the attention sinks, which are exact for every query; those before them are the block's own.
    """

    q: Array
    k: Array
    v: Array
    sinks: int
    group: BlockGroup
    at: slice

    def of_problem(self, xp: Any, x: Array) -> Array:
        """The samples `x` (P, m, ...) of this tile's blocks.

        One entry per problem if all problems of the tile have equally many blocks in it (the blocks of a problem then
        meet its sample in one product, if they may), else one per block.
        """
        problem = self.group.problem[self.at]
        first, last = int(problem[0]), int(problem[-1])
        if not self.group.joint and first < last:
            return x[backends.to_device(problem, xp)]
        even = np.array_equal(problem, np.repeat(np.arange(first, last + 1), len(problem) // (last - first + 1)))
        return x[first : last + 1] if even else x[backends.to_device(problem, xp)]

    def sample_logits(self, tile: Softmax, k: Array) -> Array:
        """Logits (g, t, m) of the tile's queries with sampled keys that `of_problem` gave."""
        return tile.logits(self.joined(self.q, k), k).reshape(*self.q.shape[:2], -1)

    def joined(self, x: Array, samples: Array) -> Array:
        """Rows (g, t, ...) of a tile, those of blocks that share a sample joined if they may be: (len(samples), rows,
        ...), or as they are."""
        return x.reshape(len(samples), -1, x.shape[-1]) if self.group.joint else x


class Estimator(Protocol):
    """Draws keys for every problem when it is made, then serves tiles, on any thread."""

    def absorb(self, tile: Softmax, p: Partial, block: Block, lap: Lap) -> None:
        """Add the block's keys exactly, and an estimate of all other keys, to the empty partial `p`."""


MakeEstimator = Callable[["Problem", SortedBlocks], Estimator]


# ------------------------------------------------------------------------------------------------------------ practical
def practical_estimator(problem: Problem, blocks: SortedBlocks) -> Estimator:
    """One shared sample, capped at the number of keys."""
    p, n = blocks.k_order.shape
    positions = sample_without_replacement(problem.xp, problem.rng, p, n, min(problem.sample_size, n))
    return SharedSample(problem, blocks, positions)


class SharedSample:
    """*practical*: one uniform sample of `m` keys, for numerator and normaliser, shared by all queries of a problem.

    For the queries of block B, sampled keys inside B are left out and the `u` others weigh `(n - |B|) / u`. Given
    `u >= 1` the partial's `l` and `o` are exactly unbiased, with less variance than under the fixed weight `n / m`;
    with `u = 0` (possible only if `m <= |B|`) the keys outside B count nothing. At `m = n` every weight is 1 and the
    result is exact.

    Differs from the paper in: all of this; the theorems are about `TheorySample`. One sample for both sums is also
    in the authors' public code, which draws with replacement at the weight n/m, or takes the first keys at weight 1
    (`claims/released_code.py`). `positions` (P, m) are the sampled keys, as places in the sorted order.
    """

    def __init__(self, problem: Problem, blocks: SortedBlocks, positions: Array) -> None:
        xp, (_, k, v) = problem.xp, problem.rows
        self.problem, self.blocks, self.n = problem, blocks, blocks.k_order.shape[1]
        self.places = backends.to_device(positions, xp) if isinstance(positions, np.ndarray) else positions
        self.rows = xp.take_along_axis(blocks.k_order, self.places, axis=1)
        self.k, self.v = k[self.rows], v[self.rows]
        self._weights = {id(group): self.weights(group) for group in blocks.groups}

    def weights(self, group: BlockGroup) -> Array:
        """Weight of each sampled key for each block, shape (G, m): `(n - |B|) / u` outside the block, 0 inside."""
        xp = self.problem.xp
        outside = self.blocks.outside(xp, group, self.places)
        drawn = outside.sum(axis=1, keepdims=True)
        size = group.k_rows.shape[1]
        weights = outside * ((self.n - size) / xp.maximum(drawn, 1))
        return weights.astype(backends.working_dtype(self.k))

    def absorb(self, tile: Softmax, p: Partial, block: Block, lap: Lap) -> None:
        kernel = self.problem.kernel
        if kernel is None:
            tile.absorb(p, tile.logits(block.q, block.k), block.v)
        else:  # its output is normalised: a partial with m = lse and l = 1
            p.o[...], p.m[...] = kernel(block.q, block.k, block.v, scale=1.0, causal=False)
            p.l[...] = 1
        lap("block")
        k, v = (block.of_problem(tile.xp, x) for x in (self.k, self.v))
        (g, _, _), (problems, m, d_v) = block.q.shape, v.shape
        counts = self._weights[id(block.group)][block.at]
        weighted = tile.scratch("weighted", problems, g // problems, m, d_v)
        tile.xp.multiply(v[:, None], counts.reshape(problems, -1, m, 1), out=weighted)
        tile.absorb(p, block.sample_logits(tile, k), weighted.reshape(g, m, d_v), counts)
        lap("sample")


# --------------------------------------------------------------------------------------------------------------- theory
def theory_estimator(
    problem: Problem, blocks: SortedBlocks, *, kappa: float | None = None, eps: float | None = None
) -> Estimator:
    """ApproxD and row-norm sampling."""
    law = row_norm_law(problem.xp, problem.rows[2], blocks.k_order)
    draws = draw_theory(problem.rng, blocks, problem.sample_size, law)
    return TheorySample(problem, blocks, draws, kappa=kappa, eps=eps)


@dataclass(frozen=True)
class TheoryDraws:
    """Draws of *theory*, (P, m) each, with replacement, as places in the sorted order."""

    queries: np.ndarray  # the test queries T of Algorithm 2
    uniform: np.ndarray  # the uniform keys l_1..l_m of Algorithm 2
    by_norm: np.ndarray  # the keys that S of Algorithm 3 takes
    probability: np.ndarray  # the p_j that these were drawn with


def row_norm_law(xp: Any, v: Array, order: Array) -> np.ndarray:
    """`p_j = |v_j|^2 / |V|_F^2` [HA24, Lemma 2], (P, n_k), keys in sorted order, on the host; uniform if V is 0."""
    squares = backends.asnumpy(backends.row_squares(xp, v)[order]).astype(np.float64)
    total = squares.sum(axis=1, keepdims=True)
    return np.where(total > 0, squares / np.where(total > 0, total, 1), 1 / squares.shape[1])


def draw_theory(rng: np.random.Generator, blocks: SortedBlocks, m: int, law: np.ndarray) -> TheoryDraws:
    """Draw `m` test queries, uniform keys and keys by `law` (P, n_k) for every problem."""
    (p, n_k), n_q = blocks.k_order.shape, blocks.testable
    by_norm = np.stack([rng.choice(n_k, m, p=row) for row in law])
    return TheoryDraws(
        queries=rng.integers(n_q, size=(p, m)),
        uniform=rng.integers(n_k, size=(p, m)),
        by_norm=by_norm,
        probability=np.take_along_axis(law, by_norm, axis=1),
    )


class TheorySample:
    """*theory*: ApproxD for the normaliser [HA24, Algorithm 2], row-norm sampling for the product [HA24, Lemma 2].

    The normaliser is the block's row sum plus `max(d_i, tau/kappa)`, `d_i` an estimate of the rest from `m` uniform
    keys with capped entries. The product is `A S^T S V` over *all* keys, the block's own included.

    Differs from the paper in:

    1. `kappa=None` takes the ratio measured on the same `m` queries: `tau/kappa` is their smallest row sum.
    2. Where the estimated product exceeds the estimated normaliser by 69 nats, the ratio saturates: no overflow.
    3. The hidden constant of `C_i` is 1. `eps=None` inverts Lemma 1 at `kappa = alpha = 1`: `eps^6 = log(n) / m`.
    4. Attention sinks are exact: they count to the block's row sum and are added to the sampled product.
    """

    def __init__(
        self, problem: Problem, blocks: SortedBlocks, draws: TheoryDraws, *, kappa: float | None, eps: float | None
    ) -> None:
        xp, (q, k, v) = problem.xp, problem.rows
        n_q, n, m = blocks.testable, blocks.k_order.shape[1], draws.uniform.shape[1]
        log_n = max(math.log(n), 1)
        if eps is None:
            eps = (log_n / m) ** (1 / 6)
        # Algorithm 2: C_i = cap * (<M_i, A_i> + tau/kappa), and d_i sums the uniform keys with weight n/m.
        self.cap = eps**2 * m / (n * log_n)
        self.weight = n / m
        self.blocks, self.places = blocks, backends.to_device(draws.uniform, xp)
        uniform, by_norm = (
            xp.take_along_axis(blocks.k_order, places, axis=1)
            for places in (self.places, backends.to_device(draws.by_norm, xp))
        )
        self.k_uniform, self.k_norm = k[uniform], k[by_norm]
        # Algorithm 3: S has a row e_j^T / sqrt(m p_j) for each drawn key, so (S^T S V)_j = sum of v_j / (m p_j).
        weight = backends.to_device((1 / (m * draws.probability)).astype(k.dtype), xp)
        self.v_norm = v[by_norm] * weight[..., None]
        # Algorithm 2: tau = max_{i in T} <1 - M_i, A_i>. Where m >= n_q, every query once is cheaper than m of them.
        ranks = draws.queries if m < n_q else np.broadcast_to(np.arange(n_q), (len(draws.queries), n_q))
        sums = unmasked_row_sums(xp, q, k, blocks, ranks, scale=problem.scale)
        if m >= n_q:
            sums = xp.take_along_axis(sums, backends.to_device(draws.queries, xp), axis=1)
        self.log_floor = sums.min(axis=1) if kappa is None else sums.max(axis=1) - math.log(kappa)  # log(tau/kappa)

    def absorb(self, tile: Softmax, p: Partial, block: Block, lap: Lap) -> None:
        xp = tile.xp
        log_floor = self.log_floor[backends.to_device(block.group.problem[block.at], xp)][:, None]
        if tile.shift:
            p.m[...] = log_floor  # any reference will do; this one keeps the floor itself from overflowing
        own = block.k.shape[1] - block.sinks
        e = tile.exponentials(p, tile.logits(block.q, block.k))
        p.l += e.sum(axis=-1)  # <M_i, A_i>
        if block.sinks:
            p.o += e[..., own:] @ block.v[:, own:]
        lap("block")
        k_norm, v_norm, k_uniform = (block.of_problem(xp, x) for x in (self.k_norm, self.v_norm, self.k_uniform))
        e = tile.exponentials(p, block.sample_logits(tile, k_norm))
        p.o += xp.matmul(block.joined(e, v_norm), v_norm).reshape(p.o.shape)  # A S^T S V
        e = tile.exponentials(p, block.sample_logits(tile, k_uniform))
        # d_i = (n/m) sum_j (1 - M_{i,l_j}) min(A_{i,l_j}, C_i), relative to exp(m_i) like all sums of the partial.
        floor = xp.exp(log_floor - (p.m if tile.shift else 0))
        cap = (self.cap * (p.l + floor))[..., None]
        weights = (self.blocks.outside(xp, block.group, self.places)[block.at] * self.weight).astype(e.dtype)
        rest = backends.product(xp, xp.minimum(e, cap), weights[..., None])[..., 0]
        p.l += xp.maximum(rest, floor)  # <M_i, A_i> + max(d_i, tau/kappa)
        xp.maximum(p.l, SATURATION, out=p.l)
        lap("sample")


def unmasked_row_sums(xp: Any, q: Array, k: Array, blocks: SortedBlocks, ranks: np.ndarray, *, scale: float) -> Array:
    """`log <1 - M_i, A_i>` (P, t) of some queries: the log of each one's row sum outside its own block.

    `q` and `k` (rows, d) are those of all problems as one list; `ranks` (P, t) name queries of each problem among
    those that `blocks` can test. `O(t n_k d)` operations per problem.
    """
    rows, own_there, own = blocks.tests(xp, ranks)
    q, k = q[rows] * scale, k[blocks.k_order]
    sums = xp.empty(ranks.shape, q.dtype)
    (p, t), n_k, b = ranks.shape, blocks.k_order.shape[1], blocks.block_size
    problems, step_q, step_k = backends.strip_shape(xp, p, t, n_k, q.dtype, backends.tile_shape(xp, p)[1:])

    def worker(where: tuple[slice, slice], tile: Softmax) -> None:
        at, part = where
        block = own[at, part]
        total = tile.start("sums", block.shape[0], block.shape[1], 0)
        for first in range(0, n_k, step_k):
            stop = min(first + step_k, n_k)
            logits = tile.logits(q[at, part], k[at, first:stop])
            start, end = max(first, int(block.min())), min(stop, int(block.max()) + b)
            if start < end:  # some query's own block is here
                offset = xp.arange(start, end) - own_there[at, part, None]
                inside = (offset >= 0) & (offset < b)
                xp.copyto(logits[..., start - first : end - first], -np.inf, where=inside)
            total.l += tile.exponentials(total, logits).sum(axis=-1)
        sums[at, part] = total.lse()

    tiles = [(at, rows) for at in backends.cut(p, problems) for rows in backends.cut(t, step_q)]
    backends.for_tiles(xp, tiles, worker, lambda: Softmax(xp, Scratch(xp, q.dtype), shift=True))
    return sums
