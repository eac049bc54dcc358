"""Clusters of a stream of points: every point joins the nearest center within delta, or becomes one itself.

The rule of [SG24]'s Algorithm 1, point by point, is reproduced exactly for any cut of the stream into chunks. A point
within delta of an old center can make no new one, so a chunk needs one matrix product with the old centers, and the
sequential rule for what is left. Products in floating point are rounded differently in every shape; so they only
exclude, by a bound on their rounding. What they leave open is decided by distances summed up entry by entry in
float64, which depend on the two points alone.

Several streams go through the same steps together on a device, so that it sees as few operations as for one of them;
on the CPU each goes alone, in tiles that fit its caches.

Guarantees: centers are pairwise farther than delta, so there are at most m of them if the points are
(m, delta)-clusterable; every point is within delta of the center that it joins.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..core import backends
from ..core.backends import Array, Scratch
from .growing import GrowingRows, stacked

SEQUENTIAL = 256
"""Points that the sequential rule looks at together on the CPU: their distances to each other are one product."""
PRODUCTS = 2**24
"""Products of points with points or centers that a device takes at once."""


def squared_distances(x: Array, y: Array) -> Array:
    """`||x_i - y_i||^2` of two arrays (..., d), float64: the same for the same points in any array."""
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
    born = None if born is None else born[None]
    index, square = _nearest(xp, x[None], centers[None], [len(centers)], position, born)
    return index[0], square[0]


def _nearest(
    xp: Any, x: Array, centers: Array, sizes: Sequence[int], position: Array | None = None, born: Array | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """`nearest` for B problems: x (B, c, d); centers (B, m, d), the first `sizes[b]` and repetitions; `born` (B, m)."""
    x, centers = backends.widened(x), backends.widened(centers)
    (b, c, d), m, unseen = x.shape, centers.shape[1], float(np.finfo(x.dtype).max)
    index, square = np.full((b, c), -1), np.full((b, c), np.inf)
    if not m:
        return index, square
    # x.(-2 y) + |y|^2 as one product: the squared distance but for |x|^2, which changes no comparison.
    # Seen from the first center: what all points have in common would cost digits, and so leave much open.
    seen = centers - centers[:, :1]
    squares = backends.row_squares(xp, seen)
    augmented = xp.concatenate([-2 * seen, squares[..., None]], axis=2)
    reach = xp.sqrt(squares.max(axis=1))[:, None]
    if min(sizes) < m:
        repeated = xp.arange(m) >= backends.to_device(np.array(sizes), xp)[:, None]
        augmented[..., -1] = xp.where(repeated, unseen, squares)
    rows = tile_rows(xp, b * m, x.dtype)
    flat, first = centers.reshape(-1, d), xp.arange(0, b * m, m)[:, None]

    def worker(tile: slice, scratch: Scratch) -> None:
        part = x[:, tile]
        c = part.shape[1]
        ones = scratch("x", b, c, d + 1)
        ones[..., :d], ones[..., d] = part - centers[:, :1], 1
        values = backends.product(xp, ones, augmented.swapaxes(1, 2), scratch("values", b, c, m))
        if position is not None and born is not None:
            values[born[:, None] > position[tile, None]] = np.inf
        best = values.argmin(axis=2)
        smallest = xp.take_along_axis(values, best[..., None], axis=2)
        slack = 2 * rounding(x, xp.sqrt(backends.row_squares(xp, ones[..., :d])) + reach)
        close = values <= smallest + slack[..., None]
        some = smallest[..., 0] < unseen
        squares = squared_distances(part, backends.gather(xp, flat, best + first))
        decided = []
        if xp is not np or np.count_nonzero(close) > b * c:  # else each point has one candidate
            close &= (some & (xp.count_nonzero(close, axis=2) > 1))[..., None]
            pair = close.ravel().nonzero()[0]
            if len(pair):
                point, number = pair // m, pair % m
                there = flat[point // c * m + number]
                decided = [point, number, squared_distances(part.reshape(-1, d)[point], there)]
        host = _fetched(xp, best.ravel(), xp.where(some, squares, np.inf).ravel(), *decided)
        if decided:
            _decide(*host)
        index[:, tile], square[:, tile] = host[0].reshape(b, c), host[1].reshape(b, c)

    backends.for_tiles(xp, backends.cut(c, rows), worker, lambda: Scratch(xp, np.dtype(x.dtype)))
    index[np.isinf(square)] = -1
    return index, square


def _fetched(xp: Any, *arrays: Array) -> list[np.ndarray]:
    """Arrays (c_i,) on the host, in one transfer, as float64."""
    if xp is np:
        return list(arrays)
    flat = backends.asnumpy(xp.concatenate(arrays, dtype=np.float64))
    return np.split(flat, np.cumsum([len(x) for x in arrays])[:-1])


def _decide(index: np.ndarray, square: np.ndarray, point: np.ndarray, number: np.ndarray, squares: np.ndarray) -> None:
    """Choose for each point among its candidates by their distances in float64 (in place)."""
    order = np.lexsort((number, squares, point))
    first = order[np.diff(point[order], prepend=-1) > 0]
    at = point[first].astype(np.int64)
    index[at], square[at] = number[first], squares[first]


def tile_rows(xp: Any, m: int, dtype: Any) -> int:
    """Points per tile: 1 MiB of products with all centers on the CPU, at least 64 of them."""
    return max(64, (2**20 // np.dtype(dtype).itemsize if xp is np else PRODUCTS) // m)


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
        return _absorb(xp, [self], x[None], [len(x)], maximum)[0]


def absorb_each(
    xp: Any, clusters: Sequence[OnlineClusters], points: Array | list[Array], *, maximum: float = np.inf
) -> list[np.ndarray]:
    """`OnlineClusters.absorb` of several streams at once, with points (B, c, d), or (c_b, d) of each in a list."""
    if xp is np or any(type(its) is not OnlineClusters for its in clusters):  # a subclass may have another rule
        return [its.absorb(xp, points[i], maximum=maximum) for i, its in enumerate(clusters)]
    if isinstance(points, list):
        return _absorb(xp, clusters, stacked(xp, points), list(map(len, points)), maximum)
    return _absorb(xp, clusters, points, [points.shape[1]] * len(clusters), maximum)


def _absorb(
    xp: Any, clusters: Sequence[OnlineClusters], x: Array, sizes: Sequence[int], maximum: float
) -> list[np.ndarray]:
    """Points x (B, c, d) of B streams, the first `sizes[b]` and repetitions."""
    if x.shape[1] == 1:
        return _absorb_one(xp, clusters, x, maximum)
    counts = [len(its.centers) for its in clusters]
    limits = np.array([its.square for its in clusters])
    index, square = _nearest(xp, x, stacked(xp, [its.centers.rows for its in clusters]), counts)
    far = [np.flatnonzero(squares[:size] > limit) for squares, size, limit in zip(square, sizes, limits, strict=True)]
    if not any(map(len, far)):
        return [its[:size] for its, size in zip(index, sizes, strict=True)]
    made, stops = _made(xp, x, far, sizes, limits, [maximum - count for count in counts])
    if most := max(map(len, made)):
        new, end = _picked(xp, x, made), max(stops)
        for i, (its, numbers) in enumerate(zip(clusters, made, strict=True)):
            if len(numbers):
                its.centers.append(xp, new[i, : len(numbers)])
        born = np.stack([np.pad(numbers, (0, most - len(numbers)), constant_values=end) for numbers in made])
        position, born = backends.to_device(np.arange(end), xp), backends.to_device(born, xp)
        later, later_square = _nearest(xp, x[:, :end], new, list(map(len, made)), position, born)
        # Of equally near ones the older.
        index = np.where(later_square < square[:, :end], np.array(counts)[:, None] + later, index[:, :end])
    return [its[:stop] for its, stop in zip(index, stops, strict=True)]


def _absorb_one(xp: Any, clusters: Sequence[OnlineClusters], x: Array, maximum: float) -> list[np.ndarray]:
    """One point of each stream, as in decoding: the distances that decide, without a product that only excludes."""
    squares = backends.asnumpy(squared_distances(x, stacked(xp, [its.centers.rows for its in clusters])))
    labels = []
    for i, its in enumerate(clusters):
        count = len(its.centers)
        if count and squares[i, number := int(squares[i, :count].argmin())] <= its.square:
            labels.append(np.array([number]))
        elif count >= maximum:
            labels.append(np.zeros(0, np.int64))
        else:
            its.centers.append(xp, x[i])
            labels.append(np.array([count]))
    return labels


def _made(
    xp: Any, x: Array, far: list[np.ndarray], sizes: Sequence[int], limits: np.ndarray, room: Sequence[float]
) -> tuple[list[np.ndarray], list[int]]:
    """Which of the points `far` from all old centers become centers, and the first point without room for it."""
    made: list[list[int]] = [[] for _ in far]
    stops = list(sizes)
    step = SEQUENTIAL if xp is np else max(64, int((PRODUCTS / len(far)) ** 0.5) // 8 * 8)
    for at in range(0, max(map(len, far)), step):
        blocks = [its[at : at + step] for its in far]
        if not any(map(len, blocks)):  # none has room left
            break
        if any(made):  # those near a center made in an earlier block are out
            earlier = _picked(xp, x, made)
            _, square = _nearest(xp, _picked(xp, x, blocks), earlier, list(map(len, made)))
            blocks = [
                block[its[: len(block)] > limit] for block, its, limit in zip(blocks, square, limits, strict=True)
            ]
        if not any(map(len, blocks)):
            continue
        near = _near(xp, backends.widened(_picked(xp, x, blocks, multiple=8)), limits)
        for number, (block, rows) in enumerate(zip(blocks, near, strict=True)):
            undecided = (1 << len(block)) - 1  # a bit for each point, as in the rows of `near`
            while undecided:
                i = (undecided & -undecided).bit_length() - 1  # the first: no center before it is near
                if len(made[number]) >= room[number]:
                    stops[number], far[number] = int(block[i]), far[number][:0]
                    break
                made[number].append(int(block[i]))
                undecided &= ~(1 << i | int.from_bytes(rows[i].tobytes(), "little"))
    return [np.array(numbers, np.int64) for numbers in made], stops


def _picked(xp: Any, x: Array, rows: Sequence[Sequence[int] | np.ndarray], *, multiple: int = 1) -> Array:
    """These rows of each problem's points x (B, c, d), filled up with their first to a multiple of so many."""
    width = -(-max(map(len, rows)) // multiple) * multiple
    at = np.arange(len(rows))[:, None] * x.shape[1] + np.zeros(width, np.int64)
    for where, its in zip(at, rows, strict=True):
        if len(its):
            where += its[0]
            where[: len(its)] += np.asarray(its) - its[0]
    return x.reshape(-1, x.shape[-1])[backends.to_device(at, xp)]


def _near(xp: Any, x: Array, limits: np.ndarray) -> np.ndarray:
    """Whether points x (B, s, d) are at most so far, squared, from each other: bits of bytes, shape (B, s, s / 8)."""
    (_, s, d), exact = x.shape, backends.to_device(limits, xp)
    limit = xp.minimum(exact, float(np.finfo(x.dtype).max) / 2)  # beyond all distances, but a number of this dtype
    limit = limit.astype(x.dtype)[:, None, None]
    seen = x - x[:, :1]
    squares = backends.row_squares(xp, seen)
    gap = squares[:, :, None] + squares[:, None] - 2 * xp.matmul(seen, seen.swapaxes(1, 2)) - limit
    near = gap <= 0
    norms = xp.sqrt(squares)
    doubtful = abs(gap) <= rounding(x, norms[:, :, None] + norms[:, None], limit)
    pair, near, points = doubtful.ravel().nonzero()[0], near.ravel(), x.reshape(-1, d)
    if len(pair):
        problem = pair // (s * s)
        squares = squared_distances(points[pair // s], points[problem * s + pair % s])
        near[pair] = squares <= exact[problem]
    return backends.asnumpy(xp.packbits(near, bitorder="little")).reshape(*x.shape[:2], -1)


def rounding(x: Array, norms: Array, limit: Any = 0.0) -> Array:
    """Bound, and some, on the rounding of squared distances from a product of length d + 1, `norms` being |x| + |y|."""
    kind = np.finfo(x.dtype)
    return 4 * (x.shape[-1] + 4) * (float(kind.eps) * (norms**2 + limit) + float(kind.tiny))
