"""The softmax matrix `P = D^{-1} A` as an operator: products, column norms and operator norm, without storing it.

`A = exp(s Q K^T)` and `D = diag(A 1)`. Every pass recomputes the entries tile by tile: `O(n_q n_k d)` operations,
`O(n)` memory plus a tile per thread. The order of every sum depends on the sizes alone, so that no result depends on
the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from . import backends
from .backends import Array, Scratch
from .exact import each_query_tile

STRIP = 128  # rows of P that a thread keeps at once
TILE = 2048  # columns of them that it makes at once
GROUPS = 16  # sums over strips of rows, each made by one thread, before they are added up in order


class SoftmaxMatrix:
    """`P` of `B` problems, q (B, n_q, d) and k (B, n_k, d): entry `(i, j)` is `exp(scale <q_i, k_j> - lse_i)`.

    It is 0 above the diagonal if `causal`. `lse` (B, n_q) is the log of every row's normaliser `D_ii`.
    """

    def __init__(self, xp: Any, q: Array, k: Array, *, scale: float, causal: bool) -> None:
        self.xp, self.q, self.k, self.scale, self.causal = xp, q, k, scale, causal
        self.lse = xp.empty(q.shape[:2], q.dtype)

        def finish(at: slice, rows: slice, p: Any) -> None:
            self.lse[at, rows] = p.lse()

        nothing = k[..., :0]
        each_query_tile(xp, q, k, nothing, scale=scale, causal=causal, shift=True, finish=finish)

    def _entries(self, scratch: Scratch, b: int, rows: slice, columns: slice) -> Array:
        """A tile of P of problem `b`, in scratch memory."""
        xp, q, k = self.xp, self.q[b, rows], self.k[b, columns]
        p = xp.matmul(q, k.T, out=scratch("p", len(q), len(k)))
        p *= self.scale
        p -= self.lse[b, rows, None]  # P_ij = exp(s <q_i, k_j> - lse_i)
        if self.causal and columns.start + len(k) > rows.start + 1:
            above = columns.start + xp.arange(len(k)) > rows.start + xp.arange(len(q))[:, None]
            p += xp.where(above, -np.inf, 0).astype(p.dtype)
        return xp.exp(p, out=p)

    def gram_times(self, x: Array) -> tuple[Array, Array]:
        """`x^T P^T P x` (B,) and `P^T P x` (B, n_k), for `x` (B, n_k), in one pass over the entries.

        A strip of rows is kept until its products with x are known: memory of `STRIP * n_k` numbers per thread. Strips
        are summed in `GROUPS` groups, each by one thread, and these in order.
        """
        xp, (b, n_q, _), n_k = self.xp, self.q.shape, self.k.shape[1]
        strips = [slice(s, s + STRIP) for s in range(0, n_q, STRIP)]
        groups = [strips[g::GROUPS] for g in range(min(GROUPS, len(strips)))]
        squares, sums = xp.zeros((len(groups), b)), xp.zeros((len(groups), b, n_k))
        x = x.astype(self.q.dtype)

        def make_worker() -> Callable[[tuple[int, int]], None]:
            scratch = Scratch(xp, self.q.dtype)

            def worker(where: tuple[int, int]) -> None:
                g, problem = where
                for rows in groups[g]:
                    seen = slice(0, min(n_k, rows.stop) if self.causal else n_k)
                    p = self._strip(scratch, problem, rows, seen)
                    y = p @ x[problem, seen]  # these rows' part of P x; x^T P^T P x sums its squares
                    squares[g, problem] += (y.astype(np.float64) ** 2).sum()
                    sums[g, problem, seen] += y @ p

            return worker

        backends.for_tiles(xp, [(g, problem) for g in range(len(groups)) for problem in range(b)], make_worker)
        return squares.sum(axis=0), sums.sum(axis=0)

    def _strip(self, scratch: Scratch, b: int, rows: slice, columns: slice) -> Array:
        """Entries of whole rows, tile by tile."""
        strip = scratch("strip", min(rows.stop, self.q.shape[1]) - rows.start, columns.stop)
        for start in range(0, columns.stop, TILE):
            part = slice(start, min(start + TILE, columns.stop))
            strip[:, part] = self._entries(scratch, b, rows, part)
        return strip

    def column_squares(self) -> Array:
        """Squared column norms `||P e_j||_2^2`, shape (B, n_k); one thread owns a range of columns."""
        (b, n_q, _), n_k = self.q.shape, self.k.shape[1]
        squares = self.xp.zeros((b, n_k), np.float64)
        _, t, c = backends.tile_shape(self.xp, b)

        def make_worker() -> Callable[[tuple[int, slice]], None]:
            scratch = Scratch(self.xp, self.q.dtype)

            def worker(where: tuple[int, slice]) -> None:
                problem, columns = where
                first = columns.start // t * t if self.causal else 0  # the tile of rows that the diagonal enters
                for rows in (slice(s, s + t) for s in range(first, n_q, t)):
                    p = self._entries(scratch, problem, rows, columns)
                    squares[problem, columns] += self.xp.einsum("ij,ij->j", p, p)

            return worker

        backends.for_tiles(self.xp, [(i, slice(s, s + c)) for s in range(0, n_k, c) for i in range(b)], make_worker)
        return squares

    def operator_norm(self, *, rtol: float = 1e-4, max_steps: int = 50) -> Array:
        """`||P||`, shape (B,), by Lanczos' method from below, to a relative error of `rtol`.

        `P^T P` has no negative entry, so its leading eigenvector has none either (Perron), and the constant start
        vector is never orthogonal to it. A step takes one pass over the entries.
        """
        return self.xp.sqrt(largest_eigenvalue(self.xp, self.gram_times, self.k.shape[:2], rtol, max_steps))


def largest_eigenvalue(
    xp: Any, times: Callable[[Array], tuple[Array, Array]], shape: tuple[int, ...], rtol: float, max_steps: int
) -> Array:
    """Largest eigenvalue (B,) of positive semi-definite matrices G (B, n, n), from below, by Lanczos' method.

    `times(x)` is `x^T G x` (B,) and `G x` (B, n), for `x` (B, n); `shape` is `(B, n)`. Starts from the constant vector.
    Stops when the largest Ritz value theta has grown by at most `2 rtol theta` in a step and its residual
    `||G x - theta x||` is at most that: an eigenvalue lies within the residual, and its root within `rtol`. (Little
    growth alone is no such sign: where two eigenvalues are near each other, theta may rest before it grows again.)
    """
    b, n = shape
    steps = min(n, max_steps)
    basis = [xp.full(shape, n**-0.5)]
    tridiagonal = np.zeros((b, steps, steps))  # basis^T G basis, of each problem
    largest: np.ndarray = np.zeros(b)
    for step in range(steps):
        diagonal, x = times(basis[-1])
        tridiagonal[:, step, step] = backends.asnumpy(diagonal)
        values, vectors = np.linalg.eigh(tridiagonal[:, : step + 1, : step + 1])
        before, largest = largest, values[:, -1]
        for _ in range(2):  # to make x orthogonal once loses its orthogonality to rounding
            for v in basis:
                x -= (x * v).sum(axis=1, keepdims=True) * v
        length = xp.sqrt((x * x).sum(axis=1))
        residual = backends.asnumpy(length) * abs(vectors[:, -1, -1])
        if step + 1 == steps or (np.maximum(residual, largest - before) <= 2 * rtol * largest).all():
            break
        tridiagonal[:, step, step + 1] = tridiagonal[:, step + 1, step] = backends.asnumpy(length)
        basis.append(x / xp.where(length == 0, 1, length)[:, None])
    return xp.asarray(largest)
