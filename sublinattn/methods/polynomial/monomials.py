"""Monomial features: a polynomial of a scalar product, written as a scalar product of features.

Source: [AS23] Alman, Song, *Fast Attention Requires Bounded Entries*, NeurIPS 2023, arXiv 2302.13214, Lemma 3.2.
`<x, y>^l = sum_{|a|=l} (l!/a!) x^a y^a`, so `p(s <q, k>) = sum_a w_a q^a k^a = <u1(q), u2(k)>` with one feature per
monomial `x^a` of degree at most `g` in `d` variables, and `w_a = c_|a| s^|a| |a|!/a!` (`c_l` the coefficients of `p`).

A monomial of degree `l` whose first variable is `x_j` is `x_j` times one of degree `l - 1` in `x_j, ..., x_{d-1}`. Kept
in that order, the second factors are the tail of the level before.

Cost: one multiplication per feature and row, in `d g` array operations.

Differs from the paper in:

1. The rank is `t = C(d+g, g)`, one feature per monomial in d variables; the paper's bound `C(2(g+d), 2g)` counts
   those of degree at most 2g in the 2d variables of q and k together.
2. The weights `w_a` are not part of the features: they multiply the sums over keys once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from decimal import Decimal
from math import comb
from typing import Any

import numpy as np

from ...core import backends
from ...core.backends import Array, Scratch

MAX_RANK = 2**22
"""Largest number of features that is built: 4 million of them, with d_v = 64 values each in float64, are 2 GB."""

LANES = 16  # parts of a stream that are summed at once; fixed, so that the number of threads changes no result
LANE_BYTES = 2**24  # memory that their sums may take together


class Monomials:
    """The `rank = C(d + degree, degree)` monomials of degree at most `degree` in `d` variables, level by level."""

    def __init__(self, d: int, degree: int) -> None:
        logarithm = (math.lgamma(d + degree + 1) - math.lgamma(d + 1) - math.lgamma(degree + 1)) / math.log(10)
        # Exactly where it is small: others have millions of digits.
        self.d, self.degree, self.rank = d, degree, comb(d + degree, degree) if logarithm < 5000 else MAX_RANK + 1
        if self.rank > MAX_RANK:
            count = f"{Decimal(self.rank):.3g}" if logarithm < 5000 else f"10^{logarithm:.0f}"
            raise ValueError(
                f"degree {degree} in d = {d} variables has {count} monomials, at most {MAX_RANK} are built: the "
                "polynomial method needs a small d or small entries"
            )
        # Block j of level l, as (first feature, last + 1, first of its factors): x_j times the tail of level l - 1 that
        # begins with the monomials whose first variable is x_j. There are C(d - j + l - 2, l - 1) of them.
        self._blocks: list[list[tuple[int, int, int]]] = []
        tails, end = [0] * d, 1
        for level in range(1, degree + 1):
            blocks = []
            for j in range(d):
                size = comb(d - j + level - 2, level - 1)
                blocks.append((end, end + size, tails[j]))
                end += size
            self._blocks.append(blocks)
            tails = [start for start, _, _ in blocks]

    def check(self, dtype: Any, *, rows: int = 1, **norms: float) -> None:
        """Refuse rows of these largest norms if a sum of `rows` of their monomials could overflow."""
        largest = float(np.finfo(dtype).max) / rows
        for name, norm in norms.items():
            if norm > 1 and self.degree * math.log(norm) > math.log(largest):
                raise ValueError(
                    f"{name} must have rows whose norm to the power of the degree ({self.degree}) is below "
                    f"{largest:.2g}, the largest {dtype}, got a norm of {norm:.3g}: use float64 or shorter rows"
                )

    def fill(self, xp: Any, x: Array, out: Array) -> Array:
        """Monomials of the columns of `x` (..., d, c), in `out` (..., rank, c); `rank` multiplications per column."""
        x, by_feature = x.swapaxes(0, -2), out.swapaxes(0, -2)
        variables = [x[j] for j in range(self.d)]
        by_feature[0] = 1  # the monomial of degree 0
        for blocks in self._blocks:
            for (start, stop, tail), variable in zip(blocks, variables, strict=True):
                xp.multiply(by_feature[tail : tail + stop - start], variable, out=by_feature[start:stop])
        return out

    def weights(self, coefficients: Sequence[float], scale: float) -> np.ndarray:
        """`c_|a| s^|a| |a|!/a!` of every monomial, shape (rank,), float64 on the host.

        From one level to the next: `l!/a! = (l / a_j) (l-1)!/a'!`, where `x_j` is the monomial's first variable and
        `a_j` how often it occurs, once more than in the factor `a'`.
        """
        multinomial, leading = np.ones(self.rank), np.zeros(self.rank)  # l!/a!, and a_j
        out = np.full(self.rank, float(coefficients[0]))
        before = [(0, 0, 0)] * self.d  # the blocks of the level before: no variable in that of degree 0
        for level, blocks in enumerate(self._blocks, start=1):
            for j, (start, stop, tail) in enumerate(blocks):
                factors = slice(tail, tail + stop - start)
                again = before[j][1] - before[j][0]  # so many of the factors begin with x_j, too
                leading[start:stop] = 1
                leading[start : start + again] += leading[tail : tail + again]
                multinomial[start:stop] = level / leading[start:stop] * multinomial[factors]
            whole = slice(blocks[0][0], blocks[-1][1])
            with np.errstate(over="ignore", invalid="ignore"):
                out[whole] = coefficients[level] * np.float64(scale) ** level * multinomial[whole]
            before = blocks
        if not np.isfinite(out).all():
            raise ValueError(f"scale must have a finite power of the degree ({self.degree}), got {scale:.3g}")
        return out


# -------------------------------------------------------------------------------------------------- sums over features
def overflowing() -> np.errstate:
    """What overflows is looked for in the result, not warned of; NumPy keeps this for each thread."""
    return np.errstate(over="ignore", invalid="ignore")


def moments(xp: Any, monomials: Monomials, k: Array, v: Array) -> Array:
    """`U2^T V`, shape (..., t, c), float64, of keys (..., n, d), values (..., n, c): `n t (2c + 1)` operations each."""
    return lane_moments(xp, monomials, k, v, lanes(xp, monomials, k, v)).sum(axis=0)


def lanes(xp: Any, monomials: Monomials, k: Array, v: Array) -> list[slice]:
    """The rows in up to LANES parts of whole chunks; they depend on the shapes only, never on the threads."""
    rows = backends.feature_rows(xp, monomials.rank, k.dtype)
    maximum = 1 if xp is not np else min(LANES, max(1, LANE_BYTES // (8 * monomials.rank * v.shape[-1])))
    n = k.shape[-2]
    return backends.cut(n, rows * -(-n // (rows * maximum)))


def lane_moments(xp: Any, monomials: Monomials, k: Array, v: Array, parts: list[slice]) -> Array:
    """`U2^T V` of each part, shape (parts, ..., t, c), float64."""
    out = xp.zeros((len(parts), *k.shape[:-2], monomials.rank, v.shape[-1]))
    rows = backends.feature_rows(xp, monomials.rank, k.dtype)

    def worker(lane: int, features: Features) -> None:
        for chunk in backends.cut(parts[lane].stop, rows, parts[lane].start):
            with overflowing():
                out[lane] += xp.matmul(features(k[..., chunk, :]), v[..., chunk, :])

    backends.for_tiles(xp, range(len(parts)), worker, lambda: Features(xp, monomials, k.dtype))
    return out


class Features:
    """Makes the features of a chunk of rows, (..., c, d) -> (..., t, c), in memory that the next chunk reuses."""

    def __init__(self, xp: Any, monomials: Monomials, dtype: Any) -> None:
        self.xp, self.monomials, self.scratch = xp, monomials, Scratch(xp, dtype)

    def __call__(self, x: Array) -> Array:
        *lead, c, d = x.shape
        columns = self.scratch("columns", *lead, d, c)
        columns[...] = x.swapaxes(-1, -2)
        return self.monomials.fill(self.xp, columns, self.scratch("features", *lead, self.monomials.rank, c))


def feature_matrix(xp: Any, monomials: Monomials, x: Array) -> Array:
    """`U`, shape (n, t), of rows (n, d)."""
    out = xp.empty((len(x), monomials.rank), dtype=x.dtype)

    def store(chunk: slice, u: Array) -> None:
        out[chunk] = u.T

    _each_chunk(xp, monomials, x, store)
    return out


def evaluate(xp: Any, monomials: Monomials, q: Array, weighted: Array) -> Array:
    """`u(q) W`, shape (..., n, c), for queries (..., n, d) and `W` (..., t, c) = weights times moments."""
    out = xp.empty((*q.shape[:-1], weighted.shape[-1]), dtype=q.dtype)
    with overflowing():
        weighted = weighted.astype(q.dtype)

    def store(chunk: slice, u: Array) -> None:
        out[..., chunk, :] = xp.matmul(u.swapaxes(-1, -2), weighted)

    _each_chunk(xp, monomials, q, store)
    return out


def _each_chunk(xp: Any, monomials: Monomials, x: Array, use: Callable[[slice, Array], None]) -> None:
    """`use(chunk, features)` for the rows (..., n, d), chunk by chunk."""

    def worker(chunk: slice, features: Features) -> None:
        with overflowing():
            use(chunk, features(x[..., chunk, :]))

    rows = backends.feature_rows(xp, monomials.rank, x.dtype)
    backends.for_tiles(xp, backends.cut(x.shape[-2], rows), worker, lambda: Features(xp, monomials, x.dtype))


def with_ones(xp: Any, v: Array) -> Array:
    """`[V, 1]`: its weighted sums over the keys are numerator and normaliser."""
    return xp.concatenate([v, xp.ones((*v.shape[:-1], 1), dtype=v.dtype)], axis=-1)


def divided(xp: Any, sums: Array, degree: int) -> Array:
    """Numerators (..., n, d_v) over the normalisers in the last column, which are checked: one host sync."""
    with overflowing():
        return sums[..., :-1] / positive(xp, sums[..., -1:], degree)


def positive(xp: Any, normaliser: Array, degree: int) -> Array:
    """The row sums, or ValueError if one is not positive, or has overflowed."""
    minimum, maximum = map(float, backends.asnumpy(xp.stack([normaliser.min(), normaliser.max()])))
    if not (math.isfinite(minimum) and math.isfinite(maximum)):
        raise ValueError(f"q and k must have shorter rows (or be float64): the row sums overflow in {normaliser.dtype}")
    if not minimum > 0:
        raise ValueError(
            f"degree must be high enough that the polynomial's row sums are positive, got {degree} and a row sum of "
            f"{minimum:.3g}: raise it, or make it even (Taylor's is then positive)"
        )
    return normaliser
