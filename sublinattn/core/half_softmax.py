"""The softmax matrix of float16 or bfloat16 queries and keys on a GPU: every pass over it is one call of the kernel.

`P x` is attention with values x. For `P^T y` roles are exchanged: keys ask, queries answer at weight `exp(-lse_i)`, and
the sum over all of them is not normalised; twice the exponents and no values make it the squared column norms. Under a
causal mask key j is seen by the queries `i >= j`, where the kernel's mask lets row i see rows up to i: both orders are
reversed, and what queries there are past the last key is added to all keys without a mask.

Precision: `lse` and the sums of columns and of their squares are float32 sums of float32 exponentials of exact
products. Vectors pass through the tensor cores as two columns in half precision, which together lose nothing that
matters; but there P itself is rounded to half precision, entry by entry. On 1024 x 1024 entries, against float64 on the
same numbers:

- `lse` to 4e-5 (absolute), sums and squares of columns to 7e-5, for logits near 100; both to 2e-6 for logits near 4;
- `P^T P x` to 1.5e-4 of its length in float16 and 1.2e-3 in bfloat16;
- `||P||` to 7e-5 in float16 and 8e-4 in bfloat16, after as many steps of Lanczos' method.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from . import backends
from .attend import attend, serves
from .backends import Array
from .exact import Partial
from .softmax_matrix import SoftmaxMatrix

FACTOR = 2.0**11  # of what a half-precision number leaves of a float32: as large as that number, no subnormal one


def softmax_matrix(xp: Any, q: Array, k: Array, *, scale: float, causal: bool) -> SoftmaxMatrix:
    """`P` of q (B, n_q, d) and k (B, n_k, d): by the kernel where it serves them, else in the working dtype."""
    if serves(xp, q, k):
        return HalfSoftmaxMatrix(xp, q, k, scale=scale, causal=causal)
    dtype = backends.working_dtype(q)
    q, k = (x.astype(dtype, copy=False) for x in (q, k))
    return SoftmaxMatrix(xp, q, k, scale=scale, causal=causal)


class HalfSoftmaxMatrix(SoftmaxMatrix):
    """`SoftmaxMatrix` through the kernel, a few problems at a time: partials over all rows are float32."""

    def __init__(self, xp: Any, q: Array, k: Array, *, scale: float, causal: bool) -> None:
        self.xp, self.q, self.k, self.scale, self.causal = xp, q, k, scale, causal
        self.shape = (*q.shape[:2], k.shape[1])
        self.lse = xp.empty(q.shape[:2], np.float32)
        for at in self.batches():
            self.lse[at] = self._over_keys(at, k[at]).lse().reshape(-1, q.shape[1])

    def batches(self) -> list[slice]:
        """Problems that are taken together, so that a partial over all their rows holds `STRIP_BYTES`."""
        b, n_q, n_k = self.shape
        step = max(1, backends.STRIP_BYTES // (4 * max(n_q, n_k) * self.q.shape[2]))
        return backends.cut(b, step)

    def _over_keys(self, at: slice, values: Array) -> Partial:
        """Queries ask: with values (g, n_k, d), `P x` is `o / l`, one row after the other for all problems."""
        q, k = self.q[at], self.k[at]
        total = Partial.unwritten(self.xp, len(q) * q.shape[1], q.shape[2])
        attend(self.xp, q, k, values, scale=self.scale, causal=self.causal, total=total)
        return total

    def _over_queries(self, at: slice, values: Array, power: float) -> Partial:
        """Keys ask: `exp(m) l` sums the powers of each column of P, `exp(m) o` those times the values (g, n_q, d)."""
        xp, (_, n_q, n_k), d = self.xp, self.shape, self.q.shape[2]
        q, k, weights = self.q[at], self.k[at], -power * self.lse[at]
        total, scale = Partial.unwritten(xp, len(q) * n_k, d), power * self.scale
        if not self.causal:
            attend(xp, k, q, values, scale=scale, log_weights=weights, total=total)
            return total
        if n_k > n_q:  # no query sees the last keys
            total = Partial.empty(xp, (len(q) * n_k,), d, np.float32)
        problem, square = xp.arange(len(q))[:, None], min(n_q, n_k)
        last_first = xp.arange(square - 1, -1, -1)
        flat = {
            "q": k.reshape(-1, d),
            "k": q.reshape(-1, d),
            "v": values.reshape(-1, d),
            "scale": scale,
            "total": total,
        }
        asking, answering = problem * n_k + last_first, problem * n_q + last_first
        attend(xp, **flat, q_rows=asking, k_rows=answering, log_weights=weights[:, :square][:, ::-1], causal=True)
        if n_q > n_k:
            answering = problem * n_q + xp.arange(n_k, n_q)
            attend(xp, **flat, q_rows=asking, k_rows=answering, log_weights=weights[:, n_k:], resume=True)
        return total

    def _split(self, x: Array) -> Array:
        """Values (g, n, d) that stand for vectors (g, n) of lengths near 1."""
        x = x.astype(np.float32)
        values = self.xp.zeros((*x.shape, self.q.shape[2]), self.q.dtype)
        values[..., 0] = x
        values[..., 1] = (x - values[..., 0].astype(np.float32)) * FACTOR
        return values

    def gram_times(self, x: Array) -> tuple[Array, Array]:
        """`x^T P^T P x` (B,) and `P^T P x` (B, n_k), for `x` (B, n_k) of lengths near 1."""
        xp, (b, n_q, n_k) = self.xp, self.shape
        squares, product = xp.empty(b), xp.empty((b, n_k))
        for at in self.batches():
            p = self._over_keys(at, self._split(x[at]))
            y = (_joined(p.o) / p.l).reshape(-1, n_q)  # P x, whose entries are means of those of x
            squares[at] = backends.row_squares(xp, y.astype(np.float64))
            p = self._over_queries(at, self._split(y), 1.0)
            product[at] = (_factor(xp, p) * _joined(p.o)).reshape(-1, n_k)
        return squares, product

    @functools.cached_property
    def column_sums_and_squares(self) -> tuple[Array, Array]:
        """`P^T 1` and the squared column norms `||P e_j||_2^2`, (B, n_k) each, in float64."""
        sums = self.xp.empty((2, self.shape[0], self.shape[2]))
        for at in self.batches():
            for power in (1, 2):
                p = self._over_queries(at, self.q[at], power)
                sums[power - 1, at] = (_factor(self.xp, p) * p.l).reshape(-1, self.shape[2])
        return sums[0], sums[1]


def _factor(xp: Any, p: Partial) -> Array:
    """What a partial's sums are relative to, in float64: `exp(m)` may be below the least float32."""
    return xp.exp(p.m.astype(np.float64))


def _joined(o: Array) -> Array:
    """The product with the vector that `_split` took apart."""
    return o[:, 0] + o[:, 1] / FACTOR
