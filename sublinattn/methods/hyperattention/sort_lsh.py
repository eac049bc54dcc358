"""Hamming-sorted locality-sensitive hashing, and the block-diagonal mask that sorting by it gives.

Sources: Zandieh et al., *KDEformer*, arXiv 2302.02451 [KDE23] (the hash); Han et al., *HyperAttention*,
arXiv 2310.05869 [HA24], Definition 1 (the hash again) and Algorithm 1 (sortLSH).

`r` random hyperplanes give `r` sign bits; a point's bucket is the position of that bit string in the binary reflected
Gray code, so that neighbouring buckets differ in one bit. For two points at angle theta:

- same bucket: probability `(1 - theta/pi)^r`;
- neighbouring buckets on the cycle (`+-1 mod 2^r`, `r >= 2`): exactly `2 (theta/pi) (1 - theta/pi)^(r-1)`, because the
  reflected code is cyclic; on the line (no wrap-around) the factor 2 becomes `2 - 2^(1-r)`; for `r = 1` there is one
  neighbour: `theta/pi`.

Cost: `O(n d r)` operations for the hash, `O(n log n)` comparisons (on the CPU one radix pass) for the sort.

Differs from the papers in:

1. When `n_q != n_k`, queries and keys are cut at proportional ranks: query blocks of `ceil(b n_q / n_k)` rows.
2. The last block may be short; nothing is padded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...core import attend, backends
from ...core.backends import Array

THREADS, SHARED = 256, 48 * 1024  # of a thread block on a GPU; bytes
MAX_BITS = 16  # buckets fit uint16, which NumPy sorts by radix


def default_bits(n: int, block_size: int) -> int:
    """Hyperplanes that make a bucket about as large as a block: `ceil(log2(n / block_size))`, within 1..16."""
    return min(MAX_BITS, max(1, math.ceil(math.log2(n / block_size))))


def hyperplanes(rng: np.random.Generator, batch: int, d: int, bits: int) -> np.ndarray:
    """Normals of random hyperplanes, shape (batch, d, bits), float32, drawn on the host."""
    return rng.standard_normal((batch, d, bits), dtype=np.float32)


def gray_rank(code: Array) -> Array:
    """Position of each bit string (uint16) in the binary reflected Gray code: the inverse of `p -> p ^ (p >> 1)`."""
    for step in (1, 2, 4, 8):  # bit i becomes the XOR of the bits from i upwards, by doubling
        code = code ^ (code >> step)
    return code


def hash_rows(
    xp: Any, rng: np.random.Generator, q: Array, k: Array, *, block_size: int, bits: int | None = None
) -> tuple[Array, Array]:
    """Buckets (B, n_q) of queries and (B, n_k) of keys, by `bits` hyperplanes that each problem draws for both."""
    batch, n_k, d = k.shape
    planes = backends.to_device(hyperplanes(rng, batch, d, bits or default_bits(n_k, block_size)), xp)
    return buckets(xp, q, planes), buckets(xp, k, planes)


def buckets(xp: Any, x: Array, planes: Array) -> Array:
    """Bucket (B, n), uint16, of the rows x (B, n, d): `gray_rank` of their sides of hyperplanes (B, d, r), r <= 16."""
    if xp.__name__ in backends.CUDA:
        return _buckets_on_gpu(xp, x, planes)
    batch, n, _ = x.shape
    out = xp.empty((batch, n), dtype=np.uint16)
    dtype = backends.working_dtype(x)
    planes = planes.astype(dtype, copy=False)
    step = 16384 if xp is np else n
    tiles = [(b, rows) for b in range(batch) for rows in backends.cut(n, step)]

    def worker(tile: tuple[int, slice]) -> None:
        b, rows = tile
        out[b, rows] = _pack_signs(xp, backends.product(xp, x[b, rows].astype(dtype, copy=False), planes[b]))

    backends.for_tiles(xp, tiles, worker)
    return out


def _pack_signs(xp: Any, projections: Array) -> Array:
    powers = 2.0 ** xp.arange(projections.shape[-1], dtype=np.float32)  # sums below 2^16 are exact in float32
    return gray_rank(backends.product(xp, (projections > 0).astype(np.float32), powers).astype(np.uint16))


def _buckets_on_gpu(xp: Any, x: Array, planes: Array) -> Array:
    """`buckets` by the kernels of `lsh.cu`: in one pass over half-precision rows, in two over others.

    One pass needs d a multiple of 8, and the normals in the `SHARED` bytes that every thread block may have.
    """
    (batch, n, d), bits = x.shape, planes.shape[-1]
    shared = 4 * d * 4 * -(-bits // 4)
    half = attend.TYPES.get(str(x.dtype)) if d % 8 == 0 and shared <= SHARED else None
    options = (f"-DT={half or 'Float16'}", f"-DBITS={bits}", f"-DTHREADS={THREADS}")
    module = backends.cuda_module("core/gpu.cuh", "methods/hyperattention/lsh.cu", options=options)
    out = xp.empty((batch, n), dtype=np.uint16)
    if half:
        normals = xp.ascontiguousarray(planes, dtype=np.float32)
        blocks = -(-n // (2 * THREADS))  # a thread takes two rows
        arguments = (backends.aligned(xp, x), normals, out, np.int32(n), np.int32(d), np.int32(blocks))
        module.get_function("hash_rows")((batch * blocks,), (THREADS,), arguments, shared_mem=shared)
    else:
        x, planes = (y.astype(backends.working_dtype(x), copy=False) for y in (x, planes))
        projections = xp.ascontiguousarray(xp.matmul(x, planes), dtype=np.float32)
        rows = batch * n
        module.get_function("gray_buckets")((-(-rows // THREADS),), (THREADS,), (projections, out, np.int64(rows)))
    return out


@dataclass(frozen=True)
class BlockGroup:
    """Blocks of the mask that have one shape: `G` of them, with `t` queries and `c` keys each.

    `q_rows` (G, t) and `k_rows` (G, c) are row numbers in the `(B n, d)` arrays of all problems; `problem` (G,) says to
    which of these the block belongs, `block` (G,) its place on that problem's diagonal.
    """

    q_rows: Array
    k_rows: Array
    problem: np.ndarray
    block: Array  # on the host, unless it depends on data (`own_hash.py`)

    joint = True  # whether the queries of several blocks may be rows of one product


@dataclass(frozen=True)
class SortedBlocks:
    """The sortLSH mask of `P` problems with `n_q` queries and `n_k` keys each [HA24, Algorithm 1].

    `q_order` (P, n_q) and `k_order` (P, n_k) are row numbers in bucket order: the permutations `P_Q` and `P_K` of
    Algorithm 1, inverted. Rank `i` of the keys lies in block `i // block_size`, of the queries in `i // q_block_size`.
    """

    q_order: Array
    k_order: Array
    block_size: int
    q_block_size: int
    groups: list[BlockGroup]  # the full blocks, and the short last ones if there are any
    apart: Array = None  # row numbers (P, c) of the keys that are in no block

    @property
    def testable(self) -> int:
        """From how many queries of a problem Algorithm 2 draws its test queries T: here all of them."""
        return int(self.q_order.shape[1])

    def outside(self, xp: Any, group: BlockGroup, places: Array) -> Array:
        """`1 - M` for sampled keys, shape (G, m): False where the key lies in the block itself.

        `places` (P, m) are each problem's sampled keys in the sorted order.
        """
        problem, block = (backends.to_device(x, xp) for x in (group.problem, group.block))
        block_of = places // self.block_size
        return block_of[problem] != block[:, None]

    def tests(self, xp: Any, drawn: np.ndarray) -> tuple[Array, Array, np.ndarray]:
        """Rows (P, t) of the `testable` queries `drawn` (P, t), and where their blocks begin, also on the host."""
        there, block = backends.to_device(drawn, xp), drawn // self.q_block_size
        rows = xp.take_along_axis(self.q_order, there, axis=1)
        return rows, there // self.q_block_size * self.block_size, block * self.block_size


def sort_blocks(
    xp: Any,
    q_buckets: Array,
    k_buckets: Array,
    *,
    block_size: int,
    q_start: np.ndarray,
    k_start: np.ndarray,
    apart: int = 0,
) -> SortedBlocks:
    """Sort queries and keys by bucket and cut both into blocks [HA24, Algorithm 1].

    `M_ij = 1` where query i and key j fall into the same block: with ranks counted from 0, rank of i divided by the
    query blocks' size and rank of j divided by `block_size`, both rounded down, are equal. Buckets are (P, n_q) and
    (P, n_k); `q_start` and `k_start` (P,) are the row numbers of each problem's first query and key. The last `apart`
    keys of the order are in no block, as if they were no keys.
    """
    (p, n_q), n_k = q_buckets.shape, k_buckets.shape[1] - apart
    t = -(-block_size * n_q // n_k)  # queries per block: the same share of the ranks as the keys', rounded up
    full = min(n_q // t, n_k // block_size)
    q_order, k_order = argsort_rows(xp, q_buckets, k_buckets)
    q_order += backends.to_device(q_start[:, None], xp)
    k_order += backends.to_device(k_start[:, None], xp)
    k_order, left = k_order[:, :n_k], k_order[:, n_k:]
    groups = []
    if full:
        q_rows = q_order[:, : full * t].reshape(p * full, t)
        k_rows = k_order[:, : full * block_size].reshape(p * full, block_size)
        groups.append(BlockGroup(q_rows, k_rows, np.repeat(np.arange(p), full), np.tile(np.arange(full), p)))
    if full * t < n_q:  # the last block is short: fewer queries, and perhaps fewer keys
        last = k_order[:, full * block_size : (full + 1) * block_size]
        groups.append(BlockGroup(q_order[:, full * t :], last, np.arange(p), np.full(p, full)))
    return SortedBlocks(q_order, k_order, block_size, t, groups, left)


def argsort_rows(xp: Any, *arrays: Array) -> list[Array]:
    """Stable argsort of each row of each array; on the CPU one row per thread, on a GPU all rows in one radix sort."""
    if xp is not np:
        return [_in_one_sort(xp, bucket) for bucket in arrays]
    orders = [np.empty(bucket.shape, dtype=np.int64) for bucket in arrays]

    def worker(where: tuple[int, int]) -> None:
        which, row = where
        orders[which][row] = np.argsort(arrays[which][row], kind="stable")

    backends.for_tiles(xp, [(which, row) for which, x in enumerate(arrays) for row in range(len(x))], worker)
    return orders


def _in_one_sort(xp: Any, buckets: Array) -> Array:
    """Stable argsort of the rows of (P, n) uint16 or uint32, in one radix sort of keys (row, bucket)."""
    (p, n), bits = buckets.shape, 8 * buckets.itemsize
    keys = (xp.arange(p, dtype=np.uint32 if bits == 16 and p <= 2**16 else np.uint64) << bits)[:, None] | buckets
    order = xp.argsort(keys.ravel(), kind="stable").reshape(p, n)
    start = xp.arange(0, p * n, n)[:, None]
    return xp.subtract(order, start, out=xp.empty((p, n), np.int32), casting="same_kind")
