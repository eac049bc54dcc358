"""CountSketch of a long matrix, row by row: the linear map behind both sketches of the one-pass algorithm.

Sources: [CCF02] Charikar, Chen, Farach-Colton, *Finding frequent items in data streams*, ICALP 2002, section 3 (the
sketch and its estimates); [ALSY23] Addanki, Li, Song, Yang, *One Pass Streaming Algorithm for Super Long Token
Attention Approximation in Sublinear Space*, arXiv 2311.14652 (its use as `Psi` and `Phi`).

The n x p matrix `X` becomes `r` tables of `w` buckets of p numbers: bucket `h_j(i)` of table `j` gains `g_j(i) X_i`,
with `h_j` and the sign `g_j` a seeded hash of the index `i`. The sketching matrix is never stored. The map is linear:
sketches of disjoint index ranges add up to that of their union.

- One table approximates a matrix product: `E ||X^T S^T S Y - X^T Y||_F^2 = (1/w) sum_{i != j} (|x_i|^2 |y_j|^2 +
  <x_i, x_j> <y_i, y_j>) <= (2/w) ||X||_F^2 ||Y||_F^2`.
- `g_j(i) table_j[h_j(i)]` estimates `X_i` without bias, with variance at most `||X||^2 / w` in each column; the median
  over tables estimates it robustly.
- *Bit counters*, in the first few tables: beside each bucket, one more per bit of the index, which sums only the
  indices where that bit is 1. A row that dominates its bucket spells out its own index.

Cost of a chunk of `c` rows: `O(c r)` hash values and `O(c p (r + b log2 n))` operations for `b` tables with bit
counters, padding apart. The chunk is sorted by bucket, each bucket is padded to the fullest, and signs (and bits) times
rows is a batch of small matrix products.

Differs from the papers in:

1. Rows are vectors of p numbers, not single items; each arrives once.
2. The bit counters are not in [CCF02], which finds heavy items with a heap on the way; see `recovery`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...core import backends
from ...core.backends import Array
from .hashing import IndexHash, cubics

TOGETHER = 4096  # (row, table) pairs that the CPU sorts at once when a chunk is short: few, large array operations
PAIR = 32  # numbers that take as much memory as a pair's hash value, bucket, sign and place on a device
PIECE = 2**22  # most numbers in the rows added at once, which are read once per table
PIECE_ROWS = 2**14  # most rows added at once


@dataclass(eq=False)
class CountSketch:
    """CountSketch of an n x p matrix whose rows arrive in any order, each once; no tables before `allocate`."""

    n: int
    p: int
    hash: IndexHash
    bit_tables: int
    table: Array = None  # the buckets, (r, w, p)
    bits: Array = None  # the bit counters of the first tables, (bit_tables, w, bits of an index, p)

    @classmethod
    def seeded(
        cls, n: int, p: int, *, tables: int, width: int, rng: np.random.Generator, bit_tables: int = 0
    ) -> CountSketch:
        """A sketch of nothing: `tables` tables of `width` buckets, bit counters in the first `bit_tables` of them."""
        return cls(n, p, IndexHash(cubics(rng, tables), width), bit_tables)

    def allocate(self, xp: Any, dtype: Any) -> None:
        """Make the tables, or move them to the device of `xp`; they keep their dtype."""
        if self.table is None:
            r, w = len(self.hash.coefficients), self.hash.width
            self.table = xp.zeros((r, w, self.p), dtype=dtype)
            self.bits = xp.zeros((self.bit_tables, w, bit_length(self.n), self.p), dtype=dtype)
        elif xp is not np and isinstance(self.table, np.ndarray):
            self.table, self.bits = (backends.to_device(x, xp) for x in (self.table, self.bits))

    @property
    def pairs_on_device(self) -> int:
        """(row, table) pairs that a device works on at once: few launches and syncs, in memory that does not grow."""
        return int(backends.STRIP_BYTES // (self.table.itemsize * max(self.p, PAIR)))

    @property
    def nbytes(self) -> int:
        """Bytes of the tables and of the hash."""
        tables = 0 if self.table is None else self.table.nbytes + self.bits.nbytes
        return int(tables + self.hash.coefficients.nbytes)

    def add(self, start: int, rows: Array) -> None:
        """Add rows `start, start + 1, ...` of the matrix: `rows` of shape (c, p), in the tables' dtype."""
        step = min(PIECE_ROWS, max(1, PIECE // self.p))
        for at in range(0, len(rows), step):
            self._add_piece(start + at, rows[at : at + step])

    def _add_piece(self, start: int, rows: Array) -> None:
        xp, c, r = backends.namespace(rows), len(rows), len(self.table)
        together = max(1, (TOGETHER if xp is np else self.pairs_on_device) // c)
        tiles = backends.cut(r, together)
        index = xp.arange(start, start + c)
        spelled = ((index[:, None] >> xp.arange(self.bits.shape[2])) & 1).astype(rows.dtype)  # (rows, bits)
        backends.for_tiles(xp, tiles, lambda tables: self._add(xp, index, spelled, rows, tables))

    def _add(self, xp: Any, index: Array, spelled: Array, rows: Array, tables: slice) -> None:
        """`table_j[h_j(i)] += g_j(i) X_i` for the rows `i` in `index` and the tables `j` of the slice.

        Two host syncs: `flatnonzero` (how many buckets gain something), and how full they are. Both are shapes.
        """
        bucket, sign = self.hash(xp, index[None], tables)
        r, c = bucket.shape
        w = self.hash.width
        flat = (bucket + w * xp.arange(r)[:, None]).reshape(-1)  # bucket of each (table, row) pair
        order = xp.argsort(flat.astype(np.min_scalar_type(r * w)), kind="stable")  # few bits: a fast radix sort
        flat = backends.gather(xp, flat, order)
        begins = xp.ones(r * c + 1, dtype=bool)  # where a bucket begins in this order; the last one ends at r c
        begins[1:-1] = flat[1:] != flat[:-1]
        edges = xp.flatnonzero(begins)
        first, counts = edges[:-1], edges[1:] - edges[:-1]
        filled = flat[first]
        with_bits = (filled < w * (self.bit_tables - tables.start)).sum()  # these come first
        fullest, with_bits = backends.asnumpy(xp.stack([counts.max(), with_bits])).tolist()
        place, last = xp.arange(fullest), counts[:, None] - 1  # within a bucket, which is padded with its last pair
        pair = backends.gather(xp, order, first[:, None] + xp.minimum(place, last))  # (filled buckets, places)
        weights = (sign.reshape(-1)[pair] * (place <= last)).astype(rows.dtype)  # g_j(i), and 0 where it is padded
        row = pair - c * (filled // w)[:, None]
        padded = backends.gather(xp, rows, row)
        self._flat(self.table, tables)[filled] += xp.matmul(weights[:, None], padded)[:, 0]
        if with_bits:  # counter b of the bucket takes the rows whose index has bit b
            bits = backends.gather(xp, spelled, row[:with_bits]) * weights[:with_bits, :, None]
            self._flat(self.bits, tables)[filled[:with_bits]] += xp.matmul(bits.swapaxes(1, 2), padded[:with_bits])

    @staticmethod
    def _flat(array: Array, tables: slice) -> Array:
        """View of the tables of the slice as one list of buckets."""
        part = array[tables]
        return part.reshape(-1, *part.shape[2:])

    def merge(self, other: CountSketch) -> None:
        """Add the sketch of other indices, in place: same hash, disjoint ranges."""
        self.table += backends.together(self.table, other.table)[1]
        self.bits += backends.together(self.bits, other.bits)[1]

    def times(self, matrix: Array) -> CountSketch:
        """The sketch of `X M` for a (p, p') matrix M: sketching is linear in each column of X."""
        xp = backends.namespace(matrix)
        table, bits = xp.matmul(self.table, matrix), xp.matmul(self.bits, matrix)
        return CountSketch(self.n, matrix.shape[1], self.hash, self.bit_tables, table, bits)

    def estimates(self, xp: Any, index: Array) -> Array:
        """Medians over the tables `j` of `g_j(i) table_j[h_j(i)]` [CCF02], shape (c, p).

        For `index` (c,) the estimates of whole rows; for `index` (c, p) that of entry `(index[i, l], l)` at `(i, l)`.
        `O(c r p)` operations.
        """
        bucket, sign = self.hash(xp, index[None])
        table = xp.arange(len(self.table)).reshape((-1,) + (1,) * index.ndim)
        if index.ndim == 1:
            per_table = self.table[table, bucket] * sign[..., None].astype(self.table.dtype)
        else:
            per_table = self.table[table, bucket, xp.arange(self.p)] * sign.astype(self.table.dtype)
        return median(xp, per_table)


def median(xp: Any, x: Array) -> Array:
    """Median along the first axis, by partition: `xp.median` takes three times as long."""
    middle = sorted({(len(x) - 1) // 2, len(x) // 2})
    part = xp.partition(xp.ascontiguousarray(xp.moveaxis(x, 0, -1)), middle, axis=-1)
    return (part[..., middle[0]] + part[..., middle[-1]]) / 2


def bit_length(n: int) -> int:
    """Bits that spell out an index below n."""
    return max(1, (n - 1).bit_length())
