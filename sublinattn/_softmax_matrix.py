"""The softmax matrix `P = D^{-1} A` as an operator: products, column norms, operator norm, without its entries.

Every pass recomputes the entries tile by tile: `O(n_q n_k d)` operations, `O(n)` memory plus a tile per thread. Row
results are summed by the thread that owns the rows and column results by the one that owns the columns, so that no
result depends on the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from . import _xp
from ._xp import Array, Scratch
from .exact import each_query_tile


class SoftmaxMatrix:
    """`P` of `B` problems: entry `(i, j)` is `exp(scale <q_i, k_j> - lse_i)`, 0 above the diagonal if `causal`.

    Parameters
    ----------
    q, k : array, shapes (B, n_q, d) and (B, n_k, d)
    """

    def __init__(self, xp: Any, q: Array, k: Array, *, scale: float, causal: bool) -> None:
        self.xp, self.q, self.k, self.scale, self.causal = xp, q, k, scale, causal
        self.lse = xp.empty(q.shape[:2], q.dtype)

        def finish(at: slice, rows: slice, p: Any) -> None:
            self.lse[at, rows] = p.lse()

        nothing = k[..., :0]
        each_query_tile(xp, q, k, nothing, scale=scale, causal=causal, shift=True, finish=finish)

    def _entries(self, scratch: Scratch, b: int, rows: slice, columns: slice) -> Array:
        xp, q, k = self.xp, self.q[b, rows], self.k[b, columns]
        p = xp.matmul(q, k.T, out=scratch("p", len(q), len(k)))
        p *= self.scale
        p -= self.lse[b, rows, None]
        if self.causal and columns.start + len(k) > rows.start + 1:
            above = columns.start + xp.arange(len(k)) > rows.start + xp.arange(len(q))[:, None]
            p += xp.where(above, -np.inf, 0).astype(p.dtype)
        return xp.exp(p, out=p)

    def _sweep(self, by_rows: bool, add: Callable[[Array, int, slice, slice], None]) -> None:
        """Call `add(entries, problem, rows, columns)` on all tiles; one thread owns a row (or column) range."""
        n_q, n_k = self.q.shape[1], self.k.shape[1]
        _, t, c = _xp.tile_shape(self.xp, len(self.q))
        row_tiles = [slice(s, s + t) for s in range(0, n_q, t)]
        column_tiles = [slice(s, s + c) for s in range(0, n_k, c)]
        owned, others = (row_tiles, column_tiles) if by_rows else (column_tiles, row_tiles)

        def make_worker() -> Callable[[tuple[int, slice]], None]:
            scratch = Scratch(self.xp, self.q.dtype)

            def worker(where: tuple[int, slice]) -> None:
                b, mine = where
                for other in others:
                    rows, columns = (mine, other) if by_rows else (other, mine)
                    if self.causal and columns.start >= min(rows.stop, n_q):
                        continue
                    add(self._entries(scratch, b, rows, columns), b, rows, columns)

            return worker

        _xp.for_tiles(self.xp, [(b, mine) for mine in owned for b in range(len(self.q))], make_worker)

    def times(self, x: Array) -> Array:
        """`P x`, shape (B, n_q), for `x` (B, n_k); sums over tiles in float64."""
        y = self.xp.zeros(self.q.shape[:2], np.float64)

        def add(p: Array, b: int, rows: slice, columns: slice) -> None:
            y[b, rows] += p @ x[b, columns].astype(p.dtype)

        self._sweep(True, add)
        return y

    def transposed_times(self, y: Array) -> Array:
        """`P^T y`, shape (B, n_k), for `y` (B, n_q)."""
        x = self.xp.zeros(self.k.shape[:2], np.float64)

        def add(p: Array, b: int, rows: slice, columns: slice) -> None:
            x[b, columns] += y[b, rows].astype(p.dtype) @ p

        self._sweep(False, add)
        return x

    def column_squares(self) -> Array:
        """Squared column norms `||P e_j||_2^2`, shape (B, n_k)."""
        squares = self.xp.zeros(self.k.shape[:2], np.float64)

        def add(p: Array, b: int, rows: slice, columns: slice) -> None:
            squares[b, columns] += self.xp.einsum("ij,ij->j", p, p)

        self._sweep(False, add)
        return squares

    def operator_norm(self, *, rtol: float = 1e-4, max_steps: int = 50) -> Array:
        """`||P||`, shape (B,), by power iteration from below, until it grows by less than `rtol` in a step.

        `P^T P` has no negative entry, so its leading eigenvector has none either (Perron), and the constant start
        vector is never orthogonal to it.
        """
        xp = self.xp
        return power_iteration(xp, self.times, self.transposed_times, self.k.shape[:2], rtol=rtol, max_steps=max_steps)


def power_iteration(
    xp: Any,
    times: Callable[[Array], Array],
    transposed_times: Callable[[Array], Array],
    shape: tuple[int, ...],
    *,
    rtol: float,
    max_steps: int,
) -> Array:
    """Largest singular value of `B` operators, from the constant vector of `shape` (B, n)."""
    x = xp.full(shape, shape[-1] ** -0.5)
    norm = xp.zeros(shape[0])
    for _ in range(max_steps):
        y = times(x)
        grown = xp.sqrt((y * y).sum(axis=1))
        if bool(_xp.asnumpy((grown - norm <= rtol * grown).all())):
            return xp.maximum(grown, norm)
        norm = grown
        x = transposed_times(y)
        x /= xp.sqrt((x * x).sum(axis=1, keepdims=True))
    return norm
