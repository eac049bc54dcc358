"""Sparse recovery from a CountSketch: the k largest entries of every column, by a scan or by identification.

Sources: [CCF02] Charikar, Chen, Farach-Colton, *Finding frequent items in data streams*, ICALP 2002 (the median
estimate); [ALSY23] Addanki et al., arXiv 2311.14652, main theorem, and [NS19] Nakos, Song, *Stronger L2/L2 compressed
sensing; without iterating*, STOC 2019 (the guarantee, and a decode time below n, which rules out a scan); [PW11] Price,
Woodruff, *(1+eps)-approximate sparse recovery*, FOCS 2011 (a lower bound for k-sparse outputs).

With `w = O(k/eps1)` buckets and `r = O(log n)` tables every estimate is within `sqrt(eps1/k) ||tail_k(y)||_2` of its
entry, so that

- the *2k* largest estimates are within `(1 + O(eps1)) ||tail_k(y)||^2` of `y` in square;
- the *k* largest only within `1 + O(sqrt(eps1))`: near-ties between the k-th and the next entries may fall either way.
  `w = O(k/eps1^2)` would be needed for `1 + eps1`, and no algorithm does better [PW11].

Cost: `scan` estimates all n entries, `O(n r)` operations per column. `identify` reads candidates off the bit counters,
in `O(b w log n)` per column: bit j of the index that dominates a bucket is 1 where the counter of bit j outweighs the
rest of the bucket; a candidate that does not hash to the bucket it came from is dropped.

Differs from the papers in: [ALSY23] takes sparse recovery from [NS19] as it is; the bit counters reach the same decode
time up to logarithms, with explicit sizes (`width_for`, `tables_for`, `bit_tables_for`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy

from ...core import backends
from ...core.backends import Array
from .countsketch import CountSketch

WIDTH = 4
"""Buckets per `k / eps1`: in one table a heavy entry meets another with probability at most `eps1 / 4`."""
FAILURE = 0.005
"""Probability that some entry is lost to such meetings: half of the 0.01 that [ALSY23] allows."""
MIN_BIT_TABLES = 7  # an entry that is only just heavy dominates its bucket in some tables only
SCAN_ROWS = 2**11  # rows that the CPU estimates at once: their estimates from all tables stay in a core's cache


@dataclass(frozen=True, eq=False)
class SparseColumns:
    """A matrix with k stored entries in every column.

    Attributes
    ----------
    indices : array of int64, shape (d_v, k)
        Rows of the entries of column c, all different, by decreasing magnitude.
    values : array, shape (d_v, k)
    shape : (int, int)
        `(n, d_v)`.
    """

    indices: Array
    values: Array
    shape: tuple[int, int]

    @backends.on_device
    def todense(self) -> Array:
        """The (n, d_v) matrix."""
        xp = backends.namespace(self.values)
        out = xp.zeros(self.shape, dtype=self.values.dtype)
        out[self.indices, xp.arange(self.shape[1])[:, None]] = self.values
        return out


def tables_for(entries: int, eps1: float) -> int:
    """Tables, an odd number, so that of `entries` medians none is spoilt by heavy neighbours: `O(log entries)`.

    A median is spoilt if more than half of its tables are: `entries P[Bin(r, eps1/4) > r/2] <= FAILURE / 2`, and no
    fewer than there are bit counters for. (The noise of the tail moves estimates besides.)
    """
    r = 1
    while entries * scipy.special.bdtrc(r // 2, r, eps1 / WIDTH) > FAILURE / 2:
        r += 2
    return max(r, bit_tables_for(entries, eps1) | 1)


def bit_tables_for(heavy: int, eps1: float) -> int:
    """Tables with bit counters, so that each of `heavy` entries is alone in its bucket in one: `O(log heavy)`."""
    return max(MIN_BIT_TABLES, math.ceil(math.log(2 * heavy / FAILURE) / math.log(WIDTH / eps1)))


def width_for(k: int, eps1: float) -> int:
    """Buckets per table: `WIDTH k / eps1`, rounded up."""
    return math.ceil(WIDTH * k / eps1)


def identify(xp: Any, sketch: CountSketch, k: int) -> tuple[Array, Array]:
    """The k largest entries of each column among the indices that the bit counters spell out, as `scan` gives them.

    The first k rows are candidates too, so that there always are k. `O(p w b (log2 n + r))` operations.
    """
    tables, w, length, p = sketch.bits.shape
    # Bit j of the index in a bucket is 1 if the rows with that bit outweigh those without it.
    ones = xp.abs(sketch.bits)
    zeros = xp.abs(sketch.table[:tables, :, None] - sketch.bits)
    powers = (1 << xp.arange(length))[:, None]
    spelled = xp.where(ones > zeros, powers, 0).sum(axis=2)  # (tables, w, p)
    candidates = xp.empty((p, tables * w + k), dtype=np.int64)
    candidates[:, tables * w :] = xp.arange(k)
    # A candidate must hash to the bucket that spelled it; index 0, which is a candidate anyway, takes its place if not.
    bucket, _ = sketch.hash(xp, spelled.reshape(tables, -1), slice(0, tables))
    consistent = (bucket.reshape(spelled.shape) == xp.arange(w)[:, None]) & (spelled < sketch.n)
    candidates[:, : tables * w] = xp.where(consistent, spelled, 0).reshape(-1, p).T
    # Each candidate counts once: the first of equal ones is `new`, and the columns are cut to the most new ones, which
    # is a shape: one host sync.
    candidates.sort(axis=1)
    new = xp.ones(candidates.shape, dtype=bool)
    new[:, 1:] = candidates[:, 1:] != candidates[:, :-1]
    order = xp.argsort(~new, axis=1, kind="stable")[:, : int(backends.asnumpy(new.sum(axis=1).max()))]
    candidates, new = (xp.take_along_axis(x, order, axis=1) for x in (candidates, new))
    return _largest(xp, sketch, candidates, k, new)


def scan(xp: Any, sketch: CountSketch, k: int) -> tuple[Array, Array]:
    """The k largest of the n estimates of each column: indices and values (p, k), by decreasing magnitude.

    `O(n r p)` operations, in tiles. On a device `argpartition` makes two host syncs per tile.
    """
    step = SCAN_ROWS if xp is np else max(1, sketch.pairs_on_device // len(sketch.table))
    parts = [(start, min(start + step, sketch.n)) for start in range(0, sketch.n, step)]
    candidates: list[Any] = [None] * len(parts)  # the k largest of each part are enough

    def worker(tile: int) -> None:
        start, stop = parts[tile]
        magnitude = xp.abs(sketch.estimates(xp, xp.arange(start, stop)).T)
        if k < stop - start:
            candidates[tile] = start + xp.argpartition(magnitude, -k, axis=1)[:, -k:]
        else:
            candidates[tile] = xp.broadcast_to(xp.arange(start, stop), magnitude.shape)

    backends.for_tiles(xp, range(len(parts)), worker)
    return _largest(xp, sketch, xp.concatenate(candidates, axis=1), k)


def _largest(xp: Any, sketch: CountSketch, candidates: Array, k: int, new: Array | None = None) -> tuple[Array, Array]:
    """The k of the candidates (p, m) with the largest estimates; those that are not `new` do not count."""
    values = sketch.estimates(xp, candidates.T).T
    magnitude = xp.abs(values)
    if new is not None:
        magnitude = xp.where(new, magnitude, -1)
    order = xp.argsort(-magnitude, axis=1, kind="stable")[:, :k]
    return xp.take_along_axis(candidates, order, axis=1), xp.take_along_axis(values, order, axis=1)
