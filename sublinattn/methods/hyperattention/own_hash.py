"""Strictly causal sortLSH: a query's block follows from its own hash and the keys before it, not from other queries.

Source: none; a variant of Algorithm 1 of [HA24] (Han et al., *HyperAttention*, arXiv 2310.05869) for the squares `A21`
of its Algorithm 4. There a query's block is its rank among all queries of the later half, so that an output may change
with a later query (`ha24.causality-queries`). Here it is the query's rank among the *keys* of the earlier half, all of
which it sees.

The keys are sorted by bucket and cut into blocks of `b`, as in Algorithm 1. A query of bucket `u` has the ranks `lo` to
`hi - 1`, those of the keys in bucket `u` (none if `lo = hi`), from which it takes

    rank = (lo + hi) / 2 + (2 i + 1 - n_q) max(hi - lo - b, 0) / (2 n_q),

both quotients rounded down: the middle where a block holds the bucket, and otherwise spread over the bucket by the
query's position `i` among the `n_q` queries of its square. It meets the `b` keys of block `rank // b`; the last block
is the last `b` keys, so that every query meets `b`.

A block then serves any number of queries, in order of position, in tiles of `t`. A tile's last rows may be nobody's:
row number -1. How many tiles there are is bounded by `n_q / t` plus one per block, whatever the data, so that a device
need not be asked. A query's row in its tile, and the tile's shape, do not depend on later queries either: nor does
rounding.

Cost: as Algorithm 1, and `O(n log n)` comparisons to find the ranks, in a fixed number of array operations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...core import backends
from ...core.backends import Array
from .sort_lsh import BlockGroup, SortedBlocks, argsort_rows, sort_blocks


@dataclass(frozen=True)
class KeyRanks:
    """The sorted buckets (P, n) of the keys of `P` problems, among which queries find their ranks."""

    keys: Array
    block_size: int  # b, at most n

    def block(self, xp: Any, buckets: Array, offset: Array, n_q: int) -> Array:
        """Block (P, t) of queries with these buckets (P, t); `offset` is `2 i + 1 - n_q` for query i of `n_q`."""
        lo, hi = self._among(xp, buckets)
        wide = xp.maximum(hi - lo - self.block_size, 0)
        rank = (lo + hi) // 2 + offset * wide // (2 * n_q)
        return xp.minimum(rank, self.keys.shape[1] - 1) // self.block_size

    def first(self, xp: Any, block: Array) -> Array:
        """Place of a block's first key in the sorted order."""
        return xp.minimum(block * self.block_size, self.keys.shape[1] - self.block_size)

    def _among(self, xp: Any, buckets: Array) -> tuple[Array, Array]:
        """How many keys are in lower buckets (P, t) than these, and in lower ones or these."""
        p, n = self.keys.shape
        if xp is not np:
            problem = xp.arange(p, dtype=np.uint64)[:, None]
            keys, asked = (((problem << 16) | x).ravel() for x in (self.keys, buckets))
            lo, hi = (xp.searchsorted(keys, asked, side=side).reshape(buckets.shape) for side in ("left", "right"))
            before = xp.arange(0, p * n, n)[:, None]
            return lo - before, hi - before
        lo, hi = np.empty(buckets.shape, np.int64), np.empty(buckets.shape, np.int64)

        def worker(row: int) -> None:  # counting takes a tenth of the time of two binary searches
            keys, asked = self.keys[row], buckets[row].astype(np.int64)
            up_to = np.cumsum(np.bincount(keys, minlength=asked.max(initial=0) + 1))
            hi[row] = up_to[asked]
            lo[row] = np.where(asked > 0, up_to[asked - 1], 0)

        backends.for_tiles(xp, range(p), worker)
        return lo, hi


@dataclass(frozen=True)
class OwnGroup(BlockGroup):
    """Tiles of queries that share a block; a row number of -1 is no query. `first` (G,) is the place of the block's
    first key in the sorted order."""

    first: Array

    joint = False  # a row's rounding may depend on its place in a product, and that on later queries


@dataclass(frozen=True)
class OwnBlocks(SortedBlocks):
    """The mask of this file's head. `q_order` is the order of positions; `earlier` (P, e) are the buckets of the
    queries before them, from which Algorithm 2 draws its test queries: all of these are known to all of those."""

    ranks: KeyRanks | None = None
    earlier: Array = None
    earlier_start: np.ndarray | None = None  # row number (P,) of the first of them

    @property
    def testable(self) -> int:
        return int(self.earlier.shape[1])

    def outside(self, xp: Any, group: BlockGroup, places: Array) -> Array:
        assert isinstance(group, OwnGroup)
        offset = places[backends.to_device(group.problem, xp)] - group.first[:, None]
        return (offset < 0) | (offset >= self.block_size)

    def tests(self, xp: Any, drawn: np.ndarray) -> tuple[Array, Array, np.ndarray]:
        assert self.ranks is not None and self.earlier_start is not None
        there = backends.to_device(drawn, xp)
        buckets = xp.take_along_axis(self.earlier, there, axis=1)
        first = self.ranks.first(xp, self.ranks.block(xp, buckets, 2 * there + 1 - self.testable, self.testable))
        return backends.to_device(drawn + self.earlier_start[:, None], xp), first, backends.asnumpy(first)


def resolve_block_by(block_by: Any, *, causal: bool) -> str:
    """What the caller gave as `block_by`, or the default.

    Raises
    ------
    ValueError
        It is no name of a rule; or it is one, without a causal mask.
    """
    if not (block_by is None or isinstance(block_by, str)) or block_by not in (None, "rank", "own-hash"):
        raise ValueError(f"block_by must be 'rank', 'own-hash' or None, got {block_by!r}")
    if block_by is not None and not causal:
        raise ValueError(f"block_by is only for causal=True, got {block_by!r} with causal=False")
    return block_by or "rank"


def cut_blocks(
    xp: Any, q: Array, k: Array, *, by: str, first: int, block_size: int, tile: int | None, **how: Any
) -> SortedBlocks:
    """The blocks of the queries behind the `first` ones, by their ranks among each other or by each one's own hash.

    q (P, n_q) and k (P, n_k) are buckets, `how` as for both. By default a tile has half as many queries as a block
    serves on average: then about a fifth of all rows is nobody's.
    """
    if by == "rank":
        return sort_blocks(xp, q[:, first:], k, block_size=block_size, **how)
    tile = tile or -(-block_size * (q.shape[1] - first) // (2 * k.shape[1]))
    return own_blocks(xp, q[:, first:], k, earlier=q[:, :first], block_size=block_size, tile=tile, **how)


def own_blocks(
    xp: Any,
    q_buckets: Array,
    k_buckets: Array,
    *,
    earlier: Array,
    block_size: int,
    q_start: np.ndarray,
    k_start: np.ndarray,
    apart: int = 0,
    tile: int,
) -> OwnBlocks:
    """Sort the keys by bucket, and give each query the block that its own bucket names; tiles of `tile` queries.

    Arguments as of `sort_blocks`; `earlier` (P, e) are the buckets of the `e` queries before each problem's first.
    """
    (p, n_q), n = q_buckets.shape, k_buckets.shape[1] - apart
    b = min(block_size, n)
    (k_order,) = argsort_rows(xp, k_buckets)
    ranks = KeyRanks(xp.take_along_axis(k_buckets, k_order[:, :n], axis=1), b)
    block = ranks.block(xp, q_buckets, xp.arange(1 - n_q, n_q, 2), n_q)
    k_order += backends.to_device(k_start[:, None], xp)
    rows = backends.to_device(q_start[:, None], xp) + xp.arange(n_q)
    q_rows, of_tile = _tiles(xp, rows, block, -(-n // b), tile)
    first = ranks.first(xp, of_tile)
    places = (first[:, None] + xp.arange(b)).reshape(p, -1)
    k_rows = xp.take_along_axis(k_order, places, axis=1).reshape(-1, b)
    group = OwnGroup(q_rows, k_rows, np.repeat(np.arange(p), len(q_rows) // p), of_tile, first)
    left = {"apart": k_order[:, n:], "ranks": ranks, "earlier": earlier, "earlier_start": q_start - earlier.shape[1]}
    return OwnBlocks(rows, k_order[:, :n], b, tile, [group], **left)


def _tiles(xp: Any, rows: Array, block: Array, blocks: int, t: int) -> tuple[Array, Array]:
    """The queries `rows` (P, n_q) of `blocks` blocks in tiles of t: row numbers (G, t) and block (G,) of each tile."""
    p, n_q = block.shape
    (order,) = argsort_rows(xp, block.astype(np.uint16 if blocks <= 2**16 else np.uint32))
    rows, block = (xp.take_along_axis(x, order, axis=1) for x in (rows, block))
    # Block j of problem i has the queries begin[i, j] to begin[i, j + 1] - 1 of all problems' sorted ones.
    every = xp.arange(p * blocks + 1)
    begin = xp.searchsorted((every[: p * blocks : blocks, None] + block).ravel(), every)
    tiles = ((begin[1:] - begin[:-1] + (t - 1)) // t).reshape(p, blocks)
    last = xp.cumsum(tiles, axis=1)
    most = int(last[:, -1].max()) if xp is np else (n_q + blocks * (t - 1)) // t
    # A block's tiles begin at `last - tiles` among its problem's, and each of these has `most`.
    before = last - tiles + every[:p, None] * most
    shift = before * t - begin[:-1].reshape(p, blocks) + every[:p, None] * n_q
    place = xp.take_along_axis(shift, block, axis=1) + xp.arange(n_q)
    q_rows, of_tile = xp.full(p * most * t, -1), xp.zeros(p * most, np.int64)
    q_rows[place], of_tile[place // t] = rows, block
    return q_rows.reshape(-1, t), of_tile
