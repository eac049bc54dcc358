"""The softmax matrix `P = D^{-1} A` as an operator: products, column norms and operator norm, without storing it.

`A = exp(s Q K^T)` and `D = diag(A 1)`. Every pass recomputes the entries strip by strip of rows: `O(n_q n_k d)`
operations, `O(n)` memory plus a strip per thread. The order of every sum depends on the sizes alone, so that no result
depends on the number of threads.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from . import backends
from .backends import Array, Scratch
from .exact import each_query_tile

STRIP = 128  # rows of P that a thread of the CPU keeps at once
TILE = 2048  # columns of them that it makes at once
GROUPS = 16  # sums over strips of rows, each made by one thread, before they are added up in order
DIAGONAL = 1024  # rows of a causal strip on a GPU at most: half of the square on the diagonal is made in vain

INVARIANT = 1e-10  # of the eigenvalue: what is left of G x, if shorter, is rounding, which is orthogonal to nothing


class SoftmaxMatrix:
    """`P` of `B` problems, q (B, n_q, d) and k (B, n_k, d): entry `(i, j)` is `exp(scale <q_i, k_j> - lse_i)`.

    It is 0 above the diagonal if `causal`. `lse` (B, n_q) is the log of every row's normaliser `D_ii`.
    """

    def __init__(self, xp: Any, q: Array, k: Array, *, scale: float, causal: bool) -> None:
        (b, n_q, d), n_k = q.shape, k.shape[1]
        self.xp, self.dtype, self.causal, self.shape = xp, q.dtype, causal, (b, n_q, n_k)
        rows = min(n_q, DIAGONAL) if causal else n_q
        self._problems, self._strip, self._step = backends.strip_shape(xp, b, rows, n_k, q.dtype, (STRIP, TILE))
        self._masks: dict[int, Array] = {}
        # One more coordinate, (s q_i, lse_i) times (k_j, -1), subtracts the normaliser within the product; zeros after
        # it let a GPU load four numbers at once. The keys are transposed once, which CuPy does at every product else.
        self._rows = xp.zeros((b, n_q, (d + 4) // 4 * 4), q.dtype)
        self._columns = xp.zeros((b, self._rows.shape[2], n_k), q.dtype)
        self._rows[..., :d] = q
        self._rows *= scale
        self._columns[:, :d] = k.swapaxes(1, 2)
        self._columns[:, d] = -1
        self.lse = xp.empty((b, n_q), q.dtype)
        if xp is np:
            self._lse_by_tiles(q, k, scale)
        else:
            self._lse_by_strips()
        self._rows[..., d] = self.lse

    def _lse_by_tiles(self, q: Array, k: Array, scale: float) -> None:
        def finish(at: slice, rows: slice, p: Any) -> None:
            self.lse[at, rows] = p.lse()

        nothing = k[..., :0]
        each_query_tile(self.xp, q, k, nothing, scale=scale, causal=self.causal, shift=True, finish=finish)

    def _lse_by_strips(self) -> None:
        """Whole rows of logits fit a strip on a GPU: no running maximum, and a third of the launches."""
        sums = self.xp.empty(self.lse.shape, self.dtype)

        def add(scratch: Scratch, at: slice, rows: slice, total: Array) -> None:
            for _, logits in self._tiles(scratch, at, rows):
                logits.max(axis=2, out=self.lse[at, rows])
                logits -= self.lse[at, rows, None]
                self.xp.exp(logits, out=logits).sum(axis=2, out=sums[at, rows])

        self._sum_over_strips(0, add)
        self.lse += self.xp.log(sums)

    # ------------------------------------------------------------------------------------------------ strips of rows
    def _sum_over_strips(self, count: int, add: Callable[[Scratch, slice, slice, Array], None]) -> Array:
        """`count` sums (count, B, n_k), in float64, of what `add(scratch, problems, rows, total)` adds to `total` for
        every strip. Strips are summed in groups, each by one thread, and these in order.
        """
        xp, (b, n_q, n_k) = self.xp, self.shape
        batches = backends.cut(b, self._problems)
        strips = backends.cut(n_q, self._strip)[::-1]  # a causal strip fits into the memory of those before it
        wanted = max(1, GROUPS // len(batches)) if xp is np else 1
        groups = [strips[g::wanted] for g in range(min(wanted, len(strips)))]
        totals = xp.zeros((len(groups), count, b, n_k))

        def worker(where: tuple[int, slice], scratch: Scratch) -> None:
            g, at = where
            for rows in groups[g]:
                add(scratch, at, rows, totals[g][:, at])

        tiles = [(g, at) for g in range(len(groups)) for at in batches]
        backends.for_tiles(xp, tiles, worker, lambda: Scratch(xp, self.dtype))
        return totals.sum(axis=0) if len(groups) > 1 else totals[0]

    def _tiles(self, scratch: Scratch, at: slice, rows: slice) -> Iterator[tuple[slice, Array]]:
        """Logits less `lse` of a strip, tile by tile of columns, each in scratch memory of its own."""
        xp, n_k, q = self.xp, self.shape[2], self._rows[at, rows]
        seen = min(n_k, rows.stop) if self.causal else n_k
        for columns in backends.cut(seen, self._step):
            start, k = columns.start, self._columns[at, :, columns]
            p = xp.matmul(q, k, out=scratch(f"tile {start}", *q.shape[:2], k.shape[2]))
            if self.causal and columns.stop > rows.start + 1:
                first = max(start, rows.start)
                corner = p[..., first - start :]
                corner += self._above(rows.stop - rows.start)[:, first - rows.start : columns.stop - rows.start]
            yield columns, p

    def _entries(self, scratch: Scratch, at: slice, rows: slice) -> Iterator[tuple[slice, Array]]:
        """Entries of P of a strip, likewise."""
        for columns, p in self._tiles(scratch, at, rows):
            yield columns, self.xp.exp(p, out=p)  # P_ij = exp(s <q_i, k_j> - lse_i)

    def _above(self, t: int) -> Array:
        """`-inf` above the diagonal and 0 elsewhere, shape (t, t); made once."""
        if t not in self._masks:
            i = self.xp.arange(t)
            self._masks[t] = self.xp.where(i > i[:, None], -np.inf, 0).astype(self.dtype)
        return self._masks[t]

    # ------------------------------------------------------------------------------------------------ what is asked
    def gram_times(self, x: Array) -> tuple[Array, Array]:
        """`x^T P^T P x` (B,) and `P^T P x` (B, n_k), for `x` (B, n_k), in one pass over the entries.

        A strip of rows is kept until its products with x are known: memory of `STRIP * n_k` numbers per thread.
        """
        xp = self.xp
        x = x.astype(self.dtype)[..., None]
        y = xp.empty((*self.shape[:2], 1), self.dtype)  # P x; x^T P^T P x sums its squares

        def add(scratch: Scratch, at: slice, rows: slice, total: Array) -> None:
            strip = list(self._entries(scratch, at, rows))
            part = y[at, rows]
            for columns, p in strip:
                if columns.start:
                    part += backends.product(xp, p, x[at, columns])
                else:
                    backends.product(xp, p, x[at, columns], part)
            row = part.swapaxes(1, 2)
            for columns, p in strip:
                total[0][:, columns] += xp.matmul(row, p)[:, 0]

        product = self._sum_over_strips(1, add)[0]
        return backends.row_squares(xp, y[..., 0].astype(np.float64)), product

    @functools.cached_property
    def column_sums_and_squares(self) -> tuple[Array, Array]:
        """`P^T 1` and the squared column norms `||P e_j||_2^2`, (B, n_k) each, in one pass over the entries."""
        xp = self.xp
        ones = xp.ones((self._problems, 1, self._strip), self.dtype)

        def add(scratch: Scratch, at: slice, rows: slice, total: Array) -> None:
            one = ones[: at.stop - at.start, :, : rows.stop - rows.start]
            for columns, p in self._entries(scratch, at, rows):
                total[0][:, columns] += xp.matmul(one, p)[:, 0]
                p *= p
                total[1][:, columns] += xp.matmul(one, p)[:, 0]

        sums = self._sum_over_strips(2, add)
        return sums[0], sums[1]

    def column_squares(self) -> Array:
        """Squared column norms `||P e_j||_2^2`, shape (B, n_k)."""
        return self.column_sums_and_squares[1]

    def operator_norm(self, *, rtol: float = 1e-4, max_steps: int = 50) -> Array:
        """`||P||`, shape (B,), by Lanczos' method from below, to a relative error of `rtol`.

        `P^T P` has no negative entry, so its leading eigenvector has none either (Perron), and the constant start
        vector is never orthogonal to it. A step takes one pass over the entries; the first none, since `P 1 = 1`.
        """
        b, n_q, n_k = self.shape
        unit = n_k**-0.5
        start = self.xp.full(b, n_q / n_k), self.column_sums_and_squares[0] * unit
        return self.xp.sqrt(largest_eigenvalue(self.xp, self.gram_times, start, rtol, max_steps))


def largest_eigenvalue(
    xp: Any, times: Callable[[Array], tuple[Array, Array]], start: tuple[Array, Array], rtol: float, max_steps: int
) -> Array:
    """Largest eigenvalue (B,) of positive semi-definite matrices G (B, n, n), from below, by Lanczos' method.

    `times(x)` is `x^T G x` (B,) and `G x` (B, n), for `x` (B, n); `start` is that of the constant unit vector, from
    which the method starts. Stops when the largest Ritz value theta has grown by at most `2 rtol theta` in a step and
    its residual `||G x - theta x||` is at most that: an eigenvalue lies within the residual, and its root within
    `rtol`. (Little growth alone is no such sign: where two eigenvalues are near each other, theta may rest before it
    grows again.) One transfer to the host per step, for all problems.
    """
    b, n = start[1].shape
    steps = min(n, max_steps)
    basis = xp.full((b, 1, n), n**-0.5)
    tridiagonal = np.zeros((b, steps, steps))  # basis^T G basis, of each problem
    largest: np.ndarray = np.zeros(b)
    for step in range(steps):
        diagonal, x = times(basis[:, -1]) if step else start
        for _ in range(2):  # to make x orthogonal once loses its orthogonality to rounding
            x = x - ((basis * x[:, None]).sum(axis=2)[..., None] * basis).sum(axis=1)
        length = xp.sqrt(backends.row_squares(xp, x))
        tridiagonal[:, step, step], off_diagonal = backends.asnumpy(xp.stack([diagonal, length]))
        values, vectors = np.linalg.eigh(tridiagonal[:, : step + 1, : step + 1])
        before, largest = largest, values[:, -1]
        off_diagonal = np.where(off_diagonal > INVARIANT * largest, off_diagonal, 0)  # invariant: x is 0
        residual = off_diagonal * abs(vectors[:, -1, -1])
        if step + 1 == steps or (np.maximum(residual, largest - before) <= 2 * rtol * largest).all():
            break
        tridiagonal[:, step, step + 1] = tridiagonal[:, step + 1, step] = off_diagonal
        length = backends.to_device(np.where(off_diagonal > 0, off_diagonal, np.inf), xp)
        basis = xp.concatenate([basis, (x / length[:, None])[:, None]], axis=1)
    return xp.asarray(largest)
