"""What the two variants of the one-pass algorithm store, and how the output follows [ALSY23, Algorithm 1]."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ...core import backends, checks
from ...core.backends import Array
from ..countsketch.countsketch import PIECE, CountSketch
from ..countsketch.recovery import WIDTH, bit_tables_for, tables_for, width_for
from ..polynomial.approximants import approximant
from ..polynomial.monomials import Monomials, divided, evaluate, feature_matrix, moments, positive, with_ones

AMM_FAILURE = 0.005
"""Part of the failure probability 0.01 that the matrix product may use."""


def product_width(eps2: float) -> int:
    """Rows `m2 = 2 / (AMM_FAILURE eps2^2)` of `Psi`, rounded up."""
    return math.ceil(2 / (AMM_FAILURE * eps2**2))


class Variant:
    """What both variants store: `sums`, `U2^T` times some columns in float64, and `phi`, a sketch of n rows."""

    def __init__(
        self,
        n: int,
        d: int,
        d_v: int,
        *,
        degree: int,
        sparsity: int,
        eps1: float,
        eps2: float,
        scale: float,
        rng: np.random.Generator,
    ) -> None:
        self.n, self.d_v, self.degree = n, d_v, degree
        self.monomials = Monomials(d, degree)
        self.weights: Array = self.monomials.weights(approximant("taylor", degree, 0.0).coefficients, scale)
        sum_columns, phi_columns = self._columns()
        checks.fits_memory("d_v", d_v, 8 * self.monomials.rank * max(sum_columns, d_v))
        checks.fits_memory("eps1", eps1, 8 * phi_columns * WIDTH * sparsity / eps1)
        self.sums: Array = np.zeros((self.monomials.rank, sum_columns))
        self.phi = CountSketch.seeded(
            n,
            phi_columns,
            tables=tables_for(n * d_v, eps1),
            width=width_for(sparsity, eps1),
            bit_tables=bit_tables_for(sparsity * d_v, eps1),
            rng=rng,
        )

    # ------------------------------------------------------------------------------------------ what a variant is
    def _columns(self) -> tuple[int, int]:
        """Columns of `sums`, and of what `Phi` is applied to."""
        raise NotImplementedError

    def absorb_keys(self, xp: Any, start: int, k: Array, v: Array) -> None:
        """Take keys (c, d) and values (c, d_v) of the indices from `start`."""
        raise NotImplementedError

    def absorb_queries(self, xp: Any, start: int, q: Array) -> None:
        """Take queries (c, d) of the indices from `start`."""
        raise NotImplementedError

    def output(self, xp: Any) -> CountSketch:
        """The sketch `Phi y` of the output."""
        raise NotImplementedError

    def sketches(self) -> dict[str, CountSketch]:
        return {"phi": self.phi}

    def of_keys(self) -> list[Array]:
        """The arrays that depend on the keys alone."""
        return [self.sums]

    # ---------------------------------------------------------------------------------------------- the same for both
    def allocate(self, xp: Any, dtype: Any, *, queries: bool) -> None:
        """Make the tables that the next rows need, on their device; move there what is on the host."""
        for name, sketch in self.sketches().items():
            if queries or name != "phi" or sketch.table is not None:
                sketch.allocate(xp, dtype)

    def follow(self, xp: Any, name: str) -> None:
        """Move the sums to the device of the rows `name`; `allocate` moves the tables."""
        self.sums, self.weights = backends.follow(xp, name, self.sums, self.weights)

    def merge(self, xp: Any, other: Variant, dtype: Any, *, queries: bool) -> None:
        """Add what `other` stores of other keys, or of other queries of the same keys: tables of `dtype`."""
        if not queries:
            self.sums += backends.to_device(other.sums, xp)
        self.allocate(xp, dtype, queries=queries)
        theirs = other.sketches()
        for name, sketch in self.sketches().items():
            if theirs[name].table is not None and (name == "phi") == queries:
                sketch.merge(theirs[name])


class Fused(Variant):
    """`U2^T [V, 1]` exactly, and `Phi y`: keys come before queries, so each output row is known with its query."""

    def _columns(self) -> tuple[int, int]:
        return self.d_v + 1, self.d_v

    def absorb_keys(self, xp: Any, start: int, k: Array, v: Array) -> None:
        added = moments(xp, self.monomials, k, with_ones(xp, v))  # U2^T [V, 1]
        checks.representable(xp, added, k, v, name="sums of the monomials times v")
        self.sums += added

    def absorb_queries(self, xp: Any, start: int, q: Array) -> None:
        # y_i = <u1(q_i), U2^T V> / <u1(q_i), U2^T 1>; index i is `start` plus the row.
        weighted = self.weights[:, None] * self.sums / self.n
        y = divided(xp, evaluate(xp, self.monomials, q, weighted), self.degree)
        checks.representable(xp, y, q, self.sums)
        self.phi.allocate(xp, q.dtype)  # after what may be refused
        self.phi.add(start, y)

    def output(self, xp: Any) -> CountSketch:
        return self.phi


class ThreeSketches(Variant):
    """`U2^T 1` exactly, `Psi [U2, V]` in one table of `m2` buckets, and `Phi D^-1 U1`: the paper's three sketches.

    U1 and U2 are plain monomials: the weights of the polynomial multiply the small product in `output`.
    """

    def __init__(self, n: int, d: int, d_v: int, *, eps2: float, rng: np.random.Generator, **parameters: Any) -> None:
        super().__init__(n, d, d_v, eps2=eps2, rng=rng, **parameters)
        checks.fits_memory("eps2", eps2, 8 * (self.monomials.rank + d_v) * 2 / AMM_FAILURE / eps2 / eps2)
        self.psi = CountSketch.seeded(n, self.monomials.rank + d_v, tables=1, width=product_width(eps2), rng=rng)

    def _columns(self) -> tuple[int, int]:
        return 1, self.monomials.rank

    def absorb_keys(self, xp: Any, start: int, k: Array, v: Array) -> None:
        self.sums += moments(xp, self.monomials, k, xp.ones((len(k), 1), dtype=k.dtype))  # U2^T 1
        for at, rows in self._pieces(k):  # Psi [U2, V]
            u2 = feature_matrix(xp, self.monomials, rows)
            self.psi.add(start + at, xp.concatenate([u2, v[at : at + len(rows)]], axis=1))

    def absorb_queries(self, xp: Any, start: int, q: Array) -> None:
        normaliser = evaluate(xp, self.monomials, q, self.weights[:, None] * self.sums)  # D_ii = <u1(q_i), U2^T 1>
        positive(xp, normaliser, self.degree)
        self.phi.allocate(xp, q.dtype)  # after what may be refused
        for at, rows in self._pieces(q):  # Phi D^-1 U1
            self.phi.add(start + at, feature_matrix(xp, self.monomials, rows) / normaliser[at : at + len(rows)])

    def output(self, xp: Any) -> CountSketch:
        # Z = (Phi D^-1 U1) ((Psi U2)^T Psi V), which is Phi y up to the error of Psi.
        psi, rank = self.psi.table[0].astype(np.float64), self.monomials.rank
        product = self.weights[:, None] * xp.matmul(psi[:, :rank].T, psi[:, rank:])
        return self.phi.times(product.astype(self.phi.table.dtype))

    def sketches(self) -> dict[str, CountSketch]:
        return {"psi": self.psi, "phi": self.phi}

    def of_keys(self) -> list[Array]:
        return [self.sums, self.psi.table]

    def _pieces(self, rows: Array) -> list[tuple[int, Array]]:
        """Rows whose features are made at once, with the place of the first."""
        step = max(1, PIECE // self.monomials.rank)
        return [(at, rows[at : at + step]) for at in range(0, len(rows), step)]


VARIANTS: Mapping[str, type[Variant]] = {"paper": ThreeSketches, "fused": Fused}
