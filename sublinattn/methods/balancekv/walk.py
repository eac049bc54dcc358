"""Softmax balancing: keys and values divided into two parts with nearly the same softmax sums, for every query.

Source: [BKV25] Kochetkova, Sheth, Han, Zandieh, Kapralov, *Streaming Attention Approximation via Discrepancy Theory*,
arXiv 2502.07861, NeurIPS 2025: Algorithm 2 (SoftmaxBalance) and Theorem 3.3, on the self-balancing walk [ALS20]. The
main text was read, the appendices were not.

Token j is the vector `f_j = phi(k_j) (x) (v_j, 1)`, where `<phi(k), phi(k')> = exp(s <k, k'>)`. With `R` the longest of
them, `w` the signed sum so far and `y = <w, f_j> / R^2`, the walk adds `f_j` with probability `1/2 - y/(2c)` and
subtracts it otherwise. A query's numerator and normaliser are `<phi(q) (x) u, sum_j f_j>` for unit vectors `u`, so that
a small `<phi(q) (x) u, w>` makes twice the sum of one part as good as the sum of both.

Constants. The step's mean is `-y/c`, which makes `w` sub-Gaussian: `E exp <w, u> <= exp(sigma^2 |u|^2 / 2)` with
`sigma^2 = R^2 c^2 / (2c - 1)` as long as the walk stays within `|y| <= c`; it leaves with probability at most `2 n
exp(1/2 - c)`. By induction, as for the self-balancing Hilbert walk of [DM21]: with `t = <f, u>`, Hoeffding's lemma
turns `sigma^2 |u|^2` into `sigma^2 |u - f t/(c R^2)|^2 + t^2`, which is no larger once `sigma^2` is that. The paper has
`c = 30 log(n/delta)`; `half_width` is what this proof needs.

Cost: `O(n^2 (d + d_v))` operations and `n^2` numbers for each problem, in n steps one after the other, which all
problems take together.

Differs from the paper in:

1. One walk for both sums, by the value `(v, 1)`. Algorithm 1 runs one for the normaliser and one for each group of
   values of about the same norm, each of which keeps tokens of its own: `buckets` does so, with `normaliser=False`.
2. `R` is that of the given tokens, where Algorithm 2 is told a bound.
3. Where Algorithm 2 fails, at `y > c`, the sign is the one that makes the sum smaller.
4. By choice `pairs`: the walk is over the differences of neighbours, and of each pair one token is kept (the walk of
   [DM21]'s kernel halving, with constant thresholds). The part is then exactly one half, and twice its sum is unbiased.
   The smaller part, which Algorithm 2 keeps, is biased: it never counts more than there are.
5. By choice `centred`: keys less their mean, which changes no softmax. The authors' public code does so.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ...core import backends
from ...core.backends import Array

Walk = Callable[[Any, Array, Array, float], Array]
"""`walk(xp, kernel, uniform, c)`, as `self_balancing_walk`."""
STEPS = 32
"""Of the walk, after which all later sums are brought up to date by one product."""


def half_width(n: int, delta: float) -> float:
    """`c` at which a walk of n steps leaves `|y| <= c` with probability at most `delta`."""
    return 0.5 + math.log(2 * n / delta)


def softmax_kernel(
    xp: Any, k: Array, v: Array, filled: Array, *, scale: float, centred: bool = False, normaliser: bool = True
) -> Array:
    """`exp(s <k, k'>) (<v, v'> + 1)` of P problems (P, n, d), (P, n, d_v), up to a factor: (P, n, n).

    Without `normaliser` the last factor is `<v, v'>`, as in Algorithm 2. 0 where a slot is not `filled` (P, n). The
    factor keeps the entries at 1 or below. `centred`, each query's products with all tokens change by one factor.
    """
    weight = filled.astype(k.dtype)[..., None]
    if centred:
        count = xp.maximum(weight.sum(axis=1), 1)[..., None]
        k = (k - xp.matmul(weight.swapaxes(-1, -2), k) / count) * weight
    largest = scale * backends.row_squares(xp, k).max(axis=1)
    kernel = xp.matmul(scale * k, k.swapaxes(-1, -2))
    kernel -= largest[:, None, None]
    xp.minimum(kernel, 0, out=kernel)  # by Cauchy-Schwarz, but for rounding, which is not small where logits are large
    xp.exp(kernel, out=kernel)
    squares = backends.row_squares(xp, v).max(axis=1)
    if normaliser:
        values = xp.concatenate([v, weight], axis=-1)  # (v, 1), or 0 in an empty slot
        values /= xp.sqrt(squares + 1)[:, None, None]
    else:
        values = v / xp.sqrt(xp.where(squares > 0, squares, 1))[:, None, None]  # 0 if no slot is filled
    kernel *= xp.matmul(values, values.swapaxes(-1, -2))
    return kernel


def pair_kernel(kernel: Array) -> Array:
    """The kernel (P, n/2, n/2) of the differences of neighbours, the first less the second."""
    rows = kernel[:, ::2] - kernel[:, 1::2]
    return rows[..., ::2] - rows[..., 1::2]


def self_balancing_walk(xp: Any, kernel: Array, uniform: Array, c: float) -> Array:
    """Signs (P, n) of P walks with these kernels (P, n, n), from numbers (P, n) in (0, 1).

    Sign i is +1 where `uniform < 1/2 - y/(2c)`, y the signed sum of row i over the steps before in units of the largest
    diagonal entry: where `y < c (1 - 2 uniform)`.
    """
    problems, n, _ = kernel.shape
    place = xp.arange(n)
    largest = kernel[:, place, place].max(axis=1)
    unit = xp.where(largest > 0, largest, 1)[:, None]
    c = min(c, float(np.finfo(kernel.dtype).max) / 8)  # the coins of a larger one are as fair; no entry is above 4
    margin = ((1 - 2 * uniform) * (c * unit)).astype(kernel.dtype)  # less y, as the sum goes on
    signs = xp.empty((problems, n), kernel.dtype)
    for start in range(0, n, STEPS):
        now = slice(start, min(start + STEPS, n))
        # With the steps first: each is then contiguous.
        corner, left = xp.ascontiguousarray(kernel[:, now, now].transpose(1, 2, 0)), margin[:, now].T.copy()
        sign = xp.empty(left.shape, left.dtype)
        for i in range(len(left)):
            xp.copysign(1, left[i], out=sign[i])
            left[i + 1 :] -= corner[i, i + 1 :] * sign[i]
        signs[:, now] = sign.T
        margin[:, now.stop :] -= xp.matmul(signs[:, None, now], kernel[:, now, now.stop :])[:, 0]
    return signs


def smaller_part(xp: Any, signs: Array, filled: Array) -> tuple[Array, Array]:
    """Of n slots n/2 (P, n/2) that hold the part with fewer tokens, in order; and which of them do (P, n/2)."""
    n = signs.shape[1]
    signed = xp.where(filled, signs, 0)
    fewer = xp.where(signed.sum(axis=1) <= 0, 1, -1)  # Algorithm 2: +1 where they are at most as many
    place = xp.arange(n)
    others_last = xp.where(signed == fewer[:, None], place, place + n)
    order = xp.sort(others_last, axis=1)[:, : n // 2]
    return order % n, order < n


def one_of_each_pair(xp: Any, signs: Array) -> tuple[Array, Array]:
    """Of the slots of n/2 pairs the first where the sign is +1, else the second (P, n/2); all hold a token."""
    kept = 2 * xp.arange(signs.shape[1]) + (signs < 0)
    return kept, kept >= 0


def halve(
    xp: Any,
    k: Array,
    v: Array,
    filled: Array,
    uniform: Array,
    *,
    scale: float,
    c: float,
    pairs: bool = False,
    centred: bool = False,
    normaliser: bool = True,
    walk: Walk | None = None,
) -> tuple[Array, Array]:
    """Which n/2 of n slots (n even) are kept in each of P problems, and whether a token is there: (P, n/2) each.

    Parameters
    ----------
    k, v : arrays, shapes (P, n, d), (P, n, d_v)
        In the working dtype.
    filled : array of bool, shape (P, n)
        Slots with a token; with `pairs` all of them.
    uniform : array, shape (P, n), or (P, n/2) with `pairs`
        Numbers in (0, 1).
    scale : float
        At least 0.
    c : float
        Half-width of the walk, in units of the largest kernel entry.
    pairs, centred : bool
        As at the head of this file.
    normaliser : bool
        Whether the parts agree in the normaliser, too; without it their sums of values are balanced alone.
    walk : callable, optional
        In place of `self_balancing_walk`.
    """
    walk = walk or self_balancing_walk
    kernel = softmax_kernel(xp, k, v, filled, scale=scale, centred=centred, normaliser=normaliser)
    if not pairs:
        return smaller_part(xp, walk(xp, kernel, uniform, c), filled)
    signs = walk(xp, pair_kernel(kernel), uniform, c)
    return one_of_each_pair(xp, signs)
