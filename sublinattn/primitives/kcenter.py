"""Clusters of a set of points that is there as a whole: the greedy k-center, and how wide clusters are."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..core import backends
from ..core.backends import Array


def greedy_k_center(xp: Any, k: Array, m: int, *, start: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Centers each of which is the point farthest from those before it [Gonzalez 1985].

    Of points k (n, d), at most m; fewer where the points are fewer without their repetitions. `start` is the first.

    Returns
    -------
    indices : numpy array of int64, shape (m',)
    radii : numpy array of float64, shape (m',)
        Largest distance of a point to the nearest of the first i + 1 centers: at most twice the least possible for so
        many. `2 n m d` operations; memory O(n) and a tile per thread.
    """
    if xp is not np:
        return each_greedy_k_center(xp, k[None], m, start=start)[0]
    n = len(k)
    nearest = np.full(n, np.inf, dtype=k.dtype)  # squared distances to the nearest center so far
    tiles = backends.cut(n, 8192)
    indices, radii = [start], []
    farthest = [0] * len(tiles)

    def worker(number: int) -> None:
        tile, center = tiles[number], indices[-1]
        difference = k[tile] - k[center]
        xp.minimum(nearest[tile], backends.row_squares(xp, difference), out=nearest[tile])
        farthest[number] = int(nearest[tile].argmax())

    while True:
        backends.for_tiles(np, range(len(tiles)), worker)
        peaks = np.array([nearest[tile][at] for tile, at in zip(tiles, farthest, strict=True)])
        best = int(peaks.argmax())
        radii.append(float(np.sqrt(peaks[best])))
        if len(indices) == m or radii[-1] == 0:
            return np.array(indices), np.array(radii)
        indices.append(tiles[best].start + farthest[best])


def each_greedy_k_center(xp: Any, k: Array, m: int, *, start: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    """`greedy_k_center` of each of several sets of points k (B, n, d): on a device a step is one for all of them."""
    if xp is np:
        return [greedy_k_center(np, points, m, start=start) for points in k]
    b, n, d = k.shape
    flat, first = k.reshape(-1, d), xp.arange(0, b * n, n)
    nearest = xp.full((b, n), np.inf, dtype=k.dtype)
    at, indices, squares = first + start, [], []
    for _ in range(min(m, n)):  # the index stays on the device, and a set may be exhausted before: no step waits
        indices.append(at)
        xp.minimum(nearest, backends.row_squares(xp, k - flat[at][:, None]), out=nearest)
        at = first + nearest.argmax(axis=1)
        squares.append(nearest.ravel()[at])
    found = xp.concatenate([(xp.stack(indices) - first).astype(np.float64), xp.stack(squares).astype(np.float64)])
    index, radii = np.split(backends.asnumpy(found), 2)
    index, radii = index.astype(np.int64), np.sqrt(radii)
    stops = [len(its) if its.all() else int(its.argmin()) + 1 for its in radii.T]  # at radius 0 all points are centers
    return [(index[:stop, i], radii[:stop, i]) for i, stop in enumerate(stops)]


def diameters(xp: Any, k: Array, labels: np.ndarray) -> np.ndarray:
    """Largest distance between two points of each cluster.

    Points k (n, d) with the numbers of their clusters, labels (n,) from 0; float64, 0 for a cluster of one point or
    none. `2 d` operations for each pair of a cluster's points; memory O(n d) and a tile per thread.
    """
    order = np.argsort(labels, kind="stable")
    sizes = np.bincount(labels)
    ends = np.cumsum(sizes)
    at, first = (backends.to_device(x, xp) for x in (order, order[np.repeat(ends - sizes, sizes)]))
    sorted_k = k[at] - k[first]  # a common offset would cost digits
    squares = backends.row_squares(xp, sorted_k)
    problems, rows, keys = backends.tile_shape(xp, 1)
    tiles = [
        (group, slice(i, min(i + rows, end)), slice(j, min(j + keys, end)))
        for group, (begin, end) in enumerate(zip(ends - sizes, ends, strict=True))
        for i in range(begin, end, rows)
        for j in range(i, end, keys)
    ]
    largest: list[tuple[int, Array]] = []

    def worker(tile: tuple[int, slice, slice]) -> None:
        group, i, j = tile
        products = xp.matmul(sorted_k[i], sorted_k[j].T)
        largest.append((group, (squares[i, None] + squares[j] - 2 * products).max()))

    backends.for_tiles(xp, tiles, worker)
    out = np.zeros(len(sizes))
    values = backends.asnumpy(xp.stack([value for _, value in largest]))
    np.maximum.at(out, [group for group, _ in largest], values)
    return np.sqrt(out)


def greedy_radii(xp: Any, x: Array, m: int) -> np.ndarray:
    """Covering radii with 1 to m greedy centers, shape (m,): 0 once every point is one."""
    _, radii = greedy_k_center(xp, x, m)
    return np.pad(radii, (0, m - len(radii)))


def largest_distance(xp: Any, x: Array) -> float:
    """Largest distance of two points."""
    return float(diameters(xp, x, np.zeros(len(x), np.int64))[0])
