"""Which rows each part of the causal recursion holds: [HA24] Han et al., arXiv 2310.05869, Algorithm 4.

The causal square of n rows is halved, `levels` times, down to leaves. Each node on the way leaves one square `A21`
without a mask: the queries of its later half over the keys of its earlier half.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ...core.backends import Array


@dataclass(frozen=True)
class Nodes:
    """Nodes, or leaves, of `size` rows that follow one another from row `start` on, in each of `B` problems.

    A node's first `half` rows are the keys of its `A21`, the others its queries.
    """

    start: int
    count: int
    size: int
    half: int = 0

    def of(self, x: Array) -> Array:
        """Rows (B count, size, ...) of each node, for `x` (B, n, ...)."""
        part = x[:, self.start : self.start + self.count * self.size]
        return part.reshape(len(x) * self.count, self.size, *x.shape[2:])

    def rows(self, b: int, n: int) -> np.ndarray:
        """Row number (B count,) of the first row of each node, among the `b n` rows of all problems."""
        return (np.arange(b)[:, None] * n + self.start + np.arange(self.count) * self.size).ravel()

    def most_keys(self, positions: np.ndarray) -> int:
        """The largest number of `positions` (B, c) that are keys of one node's `A21`."""
        node, place = np.divmod(positions - self.start, self.size)
        inside = (node >= 0) & (node < self.count) & (place < self.half)
        node += np.arange(len(positions))[:, None] * self.count
        return int(np.bincount(node[inside], minlength=1).max())


def leaves(first: int, n: int, leaf: int) -> Iterator[Nodes]:
    """Leaves of rows `first..n - 1`; the last one has what remains."""
    full = (n - first) // leaf
    for start, count, size in ((first, full, leaf), (first + full * leaf, 1, (n - first) % leaf)):
        if count and size:
            yield Nodes(start, count, size)


def inner_nodes(first: int, n: int, leaf: int, levels: int) -> Iterator[Nodes]:
    """Nodes above the leaves of rows `first..n - 1`, level by level from these upwards."""
    for level in range(levels):
        half = leaf * 2**level  # keys of a node, and queries after them: the last node may have fewer queries
        full = (n - first) // (2 * half)  # nodes with `half` queries
        rest = first + full * 2 * half  # first row of the node with fewer
        for start, count, n_q in ((first, full, half), (rest, 1, n - rest - half)):
            if count and n_q > 0:
                yield Nodes(start, count, half + n_q, half)
