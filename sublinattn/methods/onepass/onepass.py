"""One-pass streaming attention in sublinear space: sketches of the keys and of the queries, and sparse recovery.

Source: Addanki, Li, Song, Yang, *One Pass Streaming Algorithm for Super Long Token Attention Approximation in Sublinear
Space*, arXiv 2311.14652 [ALSY23]: Algorithm 1, its main theorem, and its two building blocks, sparse recovery and
approximate matrix product. With the features of [AS23], attention is `y = D^-1 U1 U2^T V`. Keys and values are read
once, then queries once; no n rows are ever stored.

- *paper*: `Psi U2`, `Psi V` and the running sum `U2^T 1` while keys arrive; then `D_ii = <u1(q_i), U2^T 1>` and
  `Phi D^-1 U1` while queries do. Decoding: `Z = (Phi D^-1 U1) ((Psi U2)^T Psi V)` is `Phi y`, up to the error of `Psi`;
  sparse recovery of each column. `m1 t + m2 (t + d_v) + t` numbers.
- *fused*: keys come before queries, so `U2^T V` can be summed exactly, and each row `y_i` is known as its query
  arrives: sketch `Phi y` itself. `m1 d_v + t (d_v + 1)` numbers; no `Psi`, and none of its error.

`Psi` is a CountSketch with one table of `m2` buckets, `Phi` one with `r` tables of `w` buckets and bit counters in `b`
of them: `m1 = w (r + b log2 n)`, `w = 4 k / eps1`, `r = O(log n)`, `b = O(log k)`; see `countsketch.recovery`. Both are
implicit.

Differs from the paper in:

1. Sizes have constants: `m2 = 2 / (AMM_FAILURE eps2^2)`, from the explicit variance of CountSketch and Markov's
   inequality: `||(Psi U2)^T Psi V - U2^T V||_F <= eps2 ||U2||_F ||V||_F` fails with probability at most AMM_FAILURE.
   So `eps2` is relative: a column's error grows by up to `(2 + eps1) eps2 ||D^-1 U1|| ||U2||_F ||V||_F`.
2. The sparse recovery is CountSketch with bit counters, not [NS19]'s; either decoder keeps exactly k entries.
3. The features are plain monomials; their weights multiply the small product when decoding.
4. Rows may come in any order, each index once, and sketches of disjoint ranges merge.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from ...core import backends, checks
from ...core.backends import Array
from ...core.state import StreamingState
from ..countsketch.hashing import MAX_INDEX, IndexHash
from ..countsketch.recovery import SparseColumns, identify, scan
from ..polynomial.monomials import overflowing
from .variants import VARIANTS

Ranges = list[tuple[int, int]]
"""The indices that have been read: disjoint half-open ranges, in order, as few as there can be."""

DECODERS = {"identify": identify, "scan": scan}


class OnePassSketch(StreamingState):
    """Attention of n queries over n keys, each row read once, in space that hardly grows with n [ALSY23].

    Parameters
    ----------
    n, d, d_v : int
        Rows of Q, K and V; width of the keys; width of the values.
    degree : int
        Of the Taylor polynomial of `exp`; `t = C(d + degree, degree)` features.
    sparsity : int
        `k`, entries recovered in each of the d_v output columns: all others come back 0.
    eps1 : float
        Accuracy of the sparse recovery, in (0, 1].
    eps2 : float
        Relative accuracy of the product of sketches, in (0, 1]; the fused variant has no such product.
    variant : "paper" or "fused"
    scale : float, optional
        Factor of the logits; `1/sqrt(d)` by default.
    rng : Generator, int or None
        Source of the hashes. Sketches that are to be merged need the same seed.

    Attributes
    ----------
    keys_seen, queries_seen : int
        Rows absorbed.
    nbytes : int
        Bytes of all arrays that the sketch holds; those for the queries come with the first query.
    state : Variant
        The sums and sketches.

    Raises
    ------
    TypeError, ValueError
        Impossible parameters.

    Notes
    -----
    The paper's guarantee: with probability 0.99 each column of the result is within `(1 + eps1) min_{k-sparse y'} ||y'
    - y||_2 + eps2'` of `y`, the column of exact attention. Here `eps2'` is `2 + eps1` times the sum of the product's
    error (item 1 of this file's list) and the polynomial's, `2 eps max|v| sqrt(n)`. At these sizes it is
    measured, not proven, and near-ties between the k-th and the next entries break it: see `countsketch.recovery`. It
    is worth something only if `y` has few large entries.

    Time per row: `O(t)` multiplications and `O(t d_v)` (fused) or `O(t b log n)` (paper) operations.

    Examples
    --------
    >>> from sublinattn import OnePassSketch
    >>> from sublinattn.lab.workloads import make
    >>> n, k = 2**12, 16
    >>> x = make("compressible", n, 4, rng=0)  # a few rows of its output are large
    >>> sketch = OnePassSketch(n, 4, 4, degree=4, sparsity=k, eps1=0.5, eps2=0.5, variant="fused", rng=0)
    >>> for start in range(0, n, 1024):
    ...     sketch = sketch.absorb_keys(x.k[start : start + 1024], x.v[start : start + 1024])
    >>> columns = sketch.absorb_queries(x.q).decode()
    >>> columns.indices.shape
    (4, 16)
    """

    PARAMETERS = ("n", "d", "d_v", "degree", "sparsity", "eps1", "eps2", "variant", "scale")

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
        variant: str = "paper",
        scale: float | None = None,
        rng: np.random.Generator | int | None = None,
    ) -> None:
        super().__init__()
        self.n, self.d, self.d_v = (
            checks.integer(name, x, minimum=1) for name, x in (("n", n), ("d", d), ("d_v", d_v))
        )
        if n > MAX_INDEX:
            raise ValueError(f"n must be at most {MAX_INDEX}, got {n}")
        self.degree = checks.integer("degree", degree, minimum=0)
        self.sparsity = checks.integer("sparsity", sparsity, minimum=1)
        if sparsity > n:
            raise ValueError(f"sparsity must be at most n ({n}), got {sparsity}")
        for name, eps in (("eps1", eps1), ("eps2", eps2)):
            if not 0 < checks.real(name, eps) <= 1:
                raise ValueError(f"{name} must lie in (0, 1], got {eps}")
        checks.choice("variant", variant, VARIANTS)
        self.eps1, self.eps2, self.variant = float(eps1), float(eps2), variant
        self.scale = checks.resolve_scale(scale, d)
        parameters = {name: value for name, value in self.parameters().items() if name != "variant"}
        self.state = VARIANTS[variant](**parameters, rng=checks.generator(rng))
        self._ranges: dict[str, Ranges] = {"k": [], "q": []}
        self._next = {"k": 0, "q": 0}

    # ------------------------------------------------------------------------------------------------------ the stream
    @property
    def keys_seen(self) -> int:
        return sum(stop - start for start, stop in self._ranges["k"])

    @property
    def queries_seen(self) -> int:
        return sum(stop - start for start, stop in self._ranges["q"])

    @backends.on_device
    def absorb_keys(self, k: Array, v: Array, *, start: int | None = None, check_finite: bool = True) -> Self:
        """Absorb one key and value, `(d,)` and `(d_v,)`, or a chunk, `(c, d)` and `(c, d_v)`; returns self.

        Parameters
        ----------
        k, v : array
        start : int, optional
            Index of the first row; by default where the last chunk ended.
        check_finite : bool
            Refuse NaN and Inf.

        Raises
        ------
        TypeError, ValueError
            As `PolynomialState.update`; another dtype than before; rows past n; rows that were there before; queries
            have begun. The sketch is then as it was.
        """
        if self._ranges["q"]:
            raise ValueError(f"absorb_keys must come before all queries, got keys after {self.queries_seen} queries")
        xp, (k, v), start, ranges = self._enter(start, check_finite, k=k, v=v)
        self.state.absorb_keys(xp, start, k, v)
        self._ranges["k"], self._next["k"] = ranges, start + len(k)
        return self

    @backends.on_device
    def absorb_queries(self, q: Array, *, start: int | None = None, check_finite: bool = True) -> Self:
        """Absorb one query `(d,)` or a chunk `(c, d)`; returns self. Parameters and errors as `absorb_keys`.

        Raises
        ------
        TypeError, ValueError
            Also when keys are missing (the normaliser needs them all), and when a normaliser is not positive (the
            degree is too low for these logits).
        """
        if self.keys_seen < self.n:
            raise ValueError(f"absorb_queries needs all {self.n} keys first, got {self.keys_seen}")
        xp, (q,), start, ranges = self._enter(start, check_finite, q=q)
        self.state.absorb_queries(xp, start, q)
        self._ranges["q"], self._next["q"] = ranges, start + len(q)
        return self

    def _enter(self, start: int | None, check_finite: bool, **named: Array) -> tuple[Any, list[Array], int, Ranges]:
        """Checked rows, their first index, and the ranges with them; makes the tables that they need."""
        xp, arrays, _ = backends.enter(**named)
        wide = (x.astype(backends.working_dtype(x), copy=False) for x in arrays)
        width = {"k": self.d, "q": self.d, "v": self.d_v}
        rows = checks.rows(width, **dict(zip(named, wide, strict=True)))
        norm, *of_v = checks.largest_norms(xp, check_finite, **dict(zip(named, rows, strict=True)))
        side, dtype = next(iter(named)), np.dtype(rows[0].dtype)
        self.state.monomials.check(dtype, rows=self.n, **{side: norm})
        if of_v and of_v[0] > float(np.finfo(dtype).max) / self.n:
            raise ValueError(f"v must have rows whose sums are finite in {dtype}, got a norm of {of_v[0]:.3g}")
        self._check_dtype(side, dtype)
        if start is None:  # the first index after the last chunk that has not been read
            at = self._next[side]
            start = next((stop for first, stop in self._ranges[side] if first <= at < stop), at)
        start = checks.integer("start", start, minimum=0)
        ranges = _with_range(self._ranges[side], start, start + len(rows[0]), name=side, n=self.n)
        self._follow(xp, side)
        self.state.allocate(xp, dtype, queries=False)  # those of the queries when these have passed
        self._dtype = dtype
        return xp, rows, start, ranges

    # ------------------------------------------------------------------------------------------------------ the result
    @backends.on_device
    def decode(self, method: str = "identify") -> SparseColumns:
        """The k largest entries of every output column.

        Parameters
        ----------
        method : "identify" or "scan"
            Read the indices off the bit counters, in time that hardly grows with n; or estimate all n rows.

        Returns
        -------
        SparseColumns
            On the device of the rows, in their accumulation dtype.

        Raises
        ------
        ValueError
            Unknown method; queries are missing.
        """
        checks.choice("method", method, DECODERS)
        if self.queries_seen < self.n:
            raise ValueError(f"decode needs all {self.n} queries first, got {self.queries_seen}")
        xp = backends.namespace(self.state.sums)
        with overflowing():
            indices, values = DECODERS[method](xp, self.state.output(xp), self.sparsity)
        checks.representable(xp, values, *self.state.of_keys())
        return SparseColumns(indices, values, (self.n, self.d_v))

    @backends.on_device
    def merge(self, other: OnePassSketch) -> Self:
        """Add the rows that `other` absorbed, in place; returns self.

        Before the queries: sketches of disjoint key ranges. After: sketches with all the keys (copies of one, say) and
        disjoint query ranges.

        Raises
        ------
        TypeError, ValueError
            Not a sketch; other parameters or another seed; a range twice; queries on top of different keys.
        """
        self._check_mergeable(other)
        side = "q" if self._ranges["q"] or other._ranges["q"] else "k"
        if side == "q" and (both := {self.keys_seen, other.keys_seen}) != {self.n}:
            raise ValueError(f"other must have absorbed all {self.n} keys once there are queries, got {min(both)}")
        if side == "q" and not self._same_keys(other):
            raise ValueError("other must have absorbed the same keys once there are queries, got sums that differ")
        ranges = self._ranges[side]
        for start, stop in other._ranges[side]:
            ranges = _with_range(ranges, start, stop, name=side, n=self.n)
        if other._dtype is not None:
            self._dtype = other._dtype
            self.state.merge(self._meet(other), other.state, other._dtype, queries=side == "q")
        self._ranges[side] = ranges
        return self

    def _check_mergeable(self, other: Any) -> None:
        super()._check_mergeable(other)
        mine, theirs = self.state.sketches(), other.state.sketches()
        if any((mine[name].hash.coefficients != theirs[name].hash.coefficients).any() for name in mine):
            raise ValueError("other must have this sketch's hashes: make both with the same rng, an integer seed")

    def _same_keys(self, other: OnePassSketch) -> bool:
        """Whether what is stored of the keys agrees up to the rounding of a different order: to half of the digits."""
        tolerance = float(np.finfo(self._dtype or np.float64).eps) ** 0.5
        for pair in zip(self.state.of_keys(), other.state.of_keys(), strict=True):
            mine, theirs = backends.together(*pair)
            if not bool(backends.asnumpy(abs(mine - theirs).max() <= tolerance * abs(mine).max())):
                return False
        return True

    # --------------------------------------------------------------------------------------------- what it consists of
    def contents(self) -> dict[str, Array]:
        """The arrays that `save` writes: `sums`; hash, table and bit counters of each sketch, once they are there."""
        arrays = {"sums": self.state.sums}
        for name, sketch in self.state.sketches().items():
            arrays[f"{name}.hash"] = sketch.hash.coefficients
            if sketch.table is not None:
                arrays |= {f"{name}.table": sketch.table, f"{name}.bits": sketch.bits}
        return arrays

    def _arrays(self) -> list[Array]:
        return [*self.contents().values(), self.state.weights]

    def _follow(self, xp: Any, name: str) -> None:
        self.state.follow(xp, name)

    def _about(self) -> dict[str, Any]:
        dtype = self._dtype and str(self._dtype)
        return {**self.parameters(), "ranges": self._ranges, "next": self._next, "dtype": dtype}

    def _restore(self, about: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        self._ranges = {side: [(a, b) for a, b in pairs] for side, pairs in about["ranges"].items()}
        self._next, self._dtype = about["next"], None if about["dtype"] is None else np.dtype(about["dtype"])
        self.state.sums = arrays["sums"]
        for name, sketch in self.state.sketches().items():
            sketch.hash = IndexHash(arrays[f"{name}.hash"], sketch.hash.width)
            sketch.table, sketch.bits = arrays.get(f"{name}.table"), arrays.get(f"{name}.bits")


def _with_range(ranges: Ranges, start: int, stop: int, *, name: str, n: int) -> Ranges:
    """`ranges` and [start, stop); ValueError if it leaves [0, n) or has been read before."""
    if stop > n:
        raise ValueError(f"{name} must have its rows below n = {n}, got rows {start} to {stop - 1}")
    for a, b in ranges:
        if a < stop and start < b:
            raise ValueError(f"{name} must bring each index once, got rows {start} to {stop - 1} after {a} to {b - 1}")
    out: Ranges = []
    for a, b in sorted([*ranges, (start, stop)]):
        if out and out[-1][1] == a:
            out[-1] = (out[-1][0], b)
        else:
            out.append((a, b))
    return out
