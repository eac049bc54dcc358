"""Clusters of a stream of points: every point joins the nearest center within delta, or becomes one itself.

The rule of [SG24]'s Algorithm 1, point by point, is reproduced exactly for any cut of the stream into chunks. A point
within delta of an old center can make no new one, so a chunk needs one matrix product with the old centers, and the
sequential rule for what is left. Products in floating point are rounded differently in every shape; so they only
exclude, by a bound on their rounding. What they leave open is decided by distances summed up entry by entry in
float64, which depend on the two points alone.

Guarantees: centers are pairwise farther than delta, so there are at most m of them if the points are
(m, delta)-clusterable; every point is within delta of the center that it joins.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..core import backends
from ..core.backends import Array, Scratch
from .growing import GrowingRows

SEQUENTIAL = 256
"""Points that the sequential rule looks at together: their distances to each other are one product."""


def squared_distances(x: Array, y: Array) -> Array:
    """`||x_i - y_i||^2` of two arrays (c, d), float64: the same for the same points in any array."""
    difference = x.astype(np.float64) - y.astype(np.float64)
    return (difference * difference).sum(axis=-1)


def nearest(
    xp: Any, x: Array, centers: Array, *, position: Array | None = None, born: Array | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Nearest of the centers (m, d) to every point x (c, d), the first of those at equal distance.

    With `position` (c,) and `born` (m,), point i sees only the centers with `born <= position[i]`. Returns the center's
    index, -1 where none is seen, and `||x_i - center||^2`, exact up to rounding in float64, inf where none is seen.

    `2 c m d` operations in the points' dtype, in tiles; float64 for a few candidates per point.
    """
    (c, d), m = x.shape, len(centers)
    index, square = np.full(c, -1), np.full(c, np.inf)
    if not m:
        return index, square
    # x.(-2 y) + |y|^2 as one product: the squared distance but for |x|^2, which changes no comparison.
    # Seen from the first center: what all points have in common would cost digits, and so leave much open.
    seen = centers - centers[0]
    augmented = xp.concatenate([-2 * seen, backends.row_squares(xp, seen)[:, None]], axis=1)
    reach = xp.sqrt(augmented[:, -1].max())
    rows = tile_rows(xp, m, x.dtype)

    def make_worker() -> Callable[[slice], None]:
        scratch = Scratch(xp, np.dtype(x.dtype))

        def worker(tile: slice) -> None:
            part = x[tile]
            ones = scratch("x", len(part), d + 1)
            ones[:, :d], ones[:, d] = part - centers[0], 1
            values = xp.matmul(ones, augmented.T, out=scratch("values", len(part), m))
            if position is not None and born is not None:
                values[born > position[tile, None]] = np.inf
            best = values.argmin(axis=1)
            smallest = xp.take_along_axis(values, best[:, None], axis=1)
            slack = 2 * rounding(x, xp.sqrt(backends.row_squares(xp, ones[:, :d])) + reach)
            close = values <= smallest + slack[:, None]
            several = xp.count_nonzero(close, axis=1) > 1
            squares = squared_distances(part, centers[best])
            if born is not None:
                squares = xp.where(xp.isfinite(smallest[:, 0]), squares, np.inf)
                several &= xp.isfinite(smallest[:, 0])
            host, host_square = backends.asnumpy(best).astype(np.int64), backends.asnumpy(squares)
            if bool(backends.asnumpy(several.any())):
                _decide(xp, part, centers, close & several[:, None], host, host_square)
            index[tile], square[tile] = host, host_square

        return worker

    backends.for_tiles(xp, [slice(i, min(i + rows, c)) for i in range(0, c, rows)], make_worker)
    index[np.isinf(square)] = -1
    return index, square


def _decide(xp: Any, x: Array, centers: Array, close: Array, index: np.ndarray, square: np.ndarray) -> None:
    """Choose among the candidates `close` (c, m) of each point by their distances in float64 (in place)."""
    at, candidate = xp.nonzero(close)
    squares = backends.asnumpy(squared_distances(x[at], centers[candidate]))
    point, number = backends.asnumpy(at), backends.asnumpy(candidate)
    order = np.lexsort((number, squares, point))
    first = order[np.concatenate([[True], point[order][1:] != point[order][:-1]])]
    index[point[first]], square[point[first]] = number[first], squares[first]


def tile_rows(xp: Any, m: int, dtype: Any) -> int:
    """Points per tile: 1 MiB of products with all centers on the CPU, at least 64 of them."""
    size = 2**20 if xp is np else backends.device_memory(xp)[0] // 16
    return max(64, size // (m * np.dtype(dtype).itemsize))


class OnlineClusters:
    """Centers of a stream of points, by the sequential rule: points at most `delta` from a center join it.

    `centers` are GrowingRows, in the order in which the points became centers; `empty` (0, d) has the points' dtype and
    device.
    """

    def __init__(self, delta: float, empty: Array) -> None:
        self.delta = delta
        self.centers = GrowingRows(empty)

    @property
    def square(self) -> float:
        """delta^2, or the largest float: inf is the distance to no center."""
        return min(self.delta * self.delta, float(np.finfo(np.float64).max))

    def absorb(self, xp: Any, x: Array, *, maximum: float = np.inf) -> np.ndarray:
        """Take a chunk of points (c, d), as far as no more than `maximum` centers are needed; `2 c m d` operations.

        Returns the number of the center that each point joined, (c',): c' < c if point c' would have made one too many.
        """
        if len(x) == 1:
            return self._absorb_one(xp, x, maximum)
        old, count = self.centers.rows, len(self.centers)
        index, square = nearest(xp, x, old)
        far = np.flatnonzero(square > self.square)
        if not far.size:
            return index
        made, stop = self._made(xp, x, far, maximum - count)
        x, index, square = x[:stop], index[:stop], square[:stop]
        if not made.size:
            return index
        new = x[backends.to_device(made, xp)]
        self.centers.append(xp, new)
        position, born = backends.to_device(np.arange(stop), xp), backends.to_device(made, xp)
        later, later_square = nearest(xp, x, new, position=position, born=born)
        return np.where(later_square < square, count + later, index)  # of equally near ones the older

    def _absorb_one(self, xp: Any, x: Array, maximum: float) -> np.ndarray:
        """A single point, as in decoding: the distances that decide, without a product that only excludes."""
        squares = backends.asnumpy(squared_distances(x, self.centers.rows))
        if squares.size and squares[number := int(squares.argmin())] <= self.square:
            return np.array([number])
        if len(squares) >= maximum:
            return np.zeros(0, np.int64)
        self.centers.append(xp, x)
        return np.array([len(squares)])

    def _made(self, xp: Any, x: Array, far: np.ndarray, room: float) -> tuple[np.ndarray, int]:
        """Which of the points `far` from all old centers become centers, and the first point without room for it."""
        made: list[int] = []
        for at in range(0, len(far), SEQUENTIAL):
            block = far[at : at + SEQUENTIAL]
            if made:  # those near a center made in an earlier block are out
                earlier = x[backends.to_device(np.array(made), xp)]
                _, square = nearest(xp, x[backends.to_device(block, xp)], earlier)
                block = block[square > self.square]
            near = backends.asnumpy(_within(xp, x[backends.to_device(block, xp)], self.square))
            covered = np.zeros(len(block), bool)
            for i, point in enumerate(block):
                if not covered[i]:  # by an earlier center of the block
                    if len(made) >= room:
                        return np.array(made, np.int64), int(point)
                    made.append(int(point))
                    covered |= near[i]
        return np.array(made, np.int64), len(x)


def _within(xp: Any, x: Array, square: float) -> Array:
    """Whether points (c, d) are at most so far, squared, from each other, shape (c, c)."""
    limit = min(square, float(np.finfo(x.dtype).max) / 2)  # beyond all distances, but a number of this dtype
    seen = x - x[:1]
    squares = backends.row_squares(xp, seen)
    gap = squares[:, None] + squares - 2 * xp.matmul(seen, seen.T) - limit
    near = gap <= 0
    norms = xp.sqrt(squares)
    at, other = xp.nonzero(abs(gap) <= rounding(x, norms[:, None] + norms, limit))
    near[at, other] = squared_distances(x[at], x[other]) <= square
    return near


def rounding(x: Array, norms: Array, limit: float = 0.0) -> Array:
    """Bound, and some, on the rounding of squared distances from a product of length d + 1, `norms` being |x| + |y|."""
    kind = np.finfo(x.dtype)
    return 4 * (x.shape[1] + 4) * (float(kind.eps) * (norms**2 + limit) + float(kind.tiny))
