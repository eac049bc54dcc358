"""What the one-pass algorithm's variants keep of the keys and of the queries, and how the output's sketch comes of it
[ALSY23, Algorithm 1]. Checks, order and bookkeeping are in `onepass`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ...core import backends
from ...core.backends import Array
from ..countsketch.countsketch import PIECE, CountSketch
from ..countsketch.recovery import bit_tables_for, tables_for, width_for
from ..polynomial.approximants import approximant
from ..polynomial.monomials import Monomials, divided, evaluate, feature_matrix, moments, positive, with_ones

AMM_FAILURE = 0.005
"""Share of the failure probability 0.01 that the matrix product may use."""


def product_width(eps2: float) -> int:
    """Rows `m2 = 2 / (AMM_FAILURE eps2^2)` of `Psi`, rounded up."""
    return math.ceil(2 / (AMM_FAILURE * eps2**2))


class Fused:
    """`U2^T [V, 1]` exactly, and `Phi y`.

    Attributes
    ----------
    sums : array, shape (t, d_v + 1), float64
    phi : CountSketch
        Of `y`, n x d_v.
    """

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
        self.sums: Array = np.zeros((self.monomials.rank, self.sums_kept()))
        self.phi = CountSketch.seeded(
            n,
            self.phi_columns(),
            tables=tables_for(n * d_v, eps1),
            width=width_for(sparsity, eps1),
            bit_tables=bit_tables_for(sparsity * d_v, eps1),
            rng=rng,
        )

    def sums_kept(self) -> int:
        """Columns of `sums`."""
        return self.d_v + 1

    def phi_columns(self) -> int:
        """Columns of what `Phi` is applied to."""
        return self.d_v

    def keys(self, xp: Any, start: int, k: Array, v: Array) -> None:
        """Keys (c, d) and values (c, d_v) of indices from `start`."""
        self.sums += moments(xp, self.monomials, k, with_ones(xp, v))

    def queries(self, xp: Any, start: int, q: Array) -> None:
        """Queries (c, d) of indices from `start`: their output rows, sketched."""
        weighted = self.weights[:, None] * self.sums / self.n
        y = divided(xp, evaluate(xp, self.monomials, q, weighted), self.degree)
        self.phi.allocate(xp, q.dtype)  # after what may be refused
        self.phi.add(start, y)

    def output(self, xp: Any) -> CountSketch:
        """The sketch of `y`."""
        return self.phi

    def sketches(self) -> Mapping[str, CountSketch]:
        """The sketches of the keys and of the queries, by name."""
        return {"phi": self.phi}

    def of_keys(self) -> list[Array]:
        """What is kept of the keys."""
        return [self.sums]

    def allocate(self, xp: Any, dtype: Any, *, queries: bool) -> None:
        """Make the tables that the next rows need, on their device; move there what is on the host."""
        for name, sketch in self.sketches().items():
            if queries or name != "phi" or sketch.table is not None:
                sketch.allocate(xp, dtype)

    def merge(self, other: Fused, dtype: Any, *, queries: bool) -> None:
        """Add what `other` keeps of other keys, or of other queries of the same keys: tables of `dtype`."""
        self.sums, its_sums = backends.together(self.sums, other.sums)
        self.weights, _ = backends.together(self.weights, self.sums)
        if not queries:
            self.sums += its_sums
        self.allocate(backends.namespace(self.sums), dtype, queries=queries)
        its = other.sketches()
        for name, sketch in self.sketches().items():
            if its[name].table is not None and (name == "phi") == queries:
                sketch.merge(its[name])

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        sketches = sum(sketch.nbytes for sketch in self.sketches().values())
        return int(self.sums.nbytes + self.weights.nbytes + sketches)


class Paper(Fused):
    """`U2^T 1` exactly, `Psi [U2, V]`, and `Phi D^-1 U1`: the paper's three sketches.

    Attributes
    ----------
    sums : array, shape (t, 1), float64
    psi : CountSketch
        Of `[U2, V]`, n x (t + d_v), with one table of `m2` buckets.
    phi : CountSketch
        Of `D^-1 U1`, n x t. The features' weights are left to `output`.
    """

    def __init__(self, n: int, d: int, d_v: int, *, eps2: float, rng: np.random.Generator, **parameters: Any) -> None:
        super().__init__(n, d, d_v, eps2=eps2, rng=rng, **parameters)
        self.psi = CountSketch.seeded(n, self.monomials.rank + d_v, tables=1, width=product_width(eps2), rng=rng)

    def sums_kept(self) -> int:
        return 1

    def phi_columns(self) -> int:
        return self.monomials.rank

    def keys(self, xp: Any, start: int, k: Array, v: Array) -> None:
        self.sums += moments(xp, self.monomials, k, xp.ones((len(k), 1), dtype=k.dtype))
        for at, rows in self._pieces(k):
            u2 = feature_matrix(xp, self.monomials, rows)
            self.psi.add(start + at, xp.concatenate([u2, v[at : at + len(rows)]], axis=1))

    def queries(self, xp: Any, start: int, q: Array) -> None:
        normaliser = evaluate(xp, self.monomials, q, self.weights[:, None] * self.sums)  # D_ii = <u1(q_i), U2^T 1>
        positive(xp, normaliser, self.degree)
        self.phi.allocate(xp, q.dtype)  # after what may be refused
        for at, rows in self._pieces(q):
            self.phi.add(start + at, feature_matrix(xp, self.monomials, rows) / normaliser[at : at + len(rows)])

    def output(self, xp: Any) -> CountSketch:
        """`Z = (Phi D^-1 U1) ((Psi U2)^T Psi V)`: the sketch of `y`, up to the error of `Psi`."""
        psi, rank = self.psi.table[0].astype(np.float64), self.monomials.rank
        product = self.weights[:, None] * xp.matmul(psi[:, :rank].T, psi[:, rank:])
        return self.phi.times(product.astype(self.phi.table.dtype))

    def sketches(self) -> Mapping[str, CountSketch]:
        return {"psi": self.psi, "phi": self.phi}

    def of_keys(self) -> list[Array]:
        return [self.sums, self.psi.table]

    def _pieces(self, rows: Array) -> list[tuple[int, Array]]:
        """Rows whose features are held at once, with the place of the first."""
        step = max(1, PIECE // self.monomials.rank)
        return [(at, rows[at : at + step]) for at in range(0, len(rows), step)]


VARIANTS: Mapping[str, type[Fused]] = {"paper": Paper, "fused": Fused}
