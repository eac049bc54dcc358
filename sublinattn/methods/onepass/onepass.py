"""One-pass streaming attention in sublinear space: sketches of the keys and of the queries, and sparse recovery.

Source: Addanki, Li, Song, Yang, *One Pass Streaming Algorithm for Super Long Token Attention Approximation in Sublinear
Space*, arXiv 2311.14652 [ALSY23]: Algorithm 1, its main theorem, and its two building blocks, sparse recovery and
approximate matrix product. With the features of [AS23], attention is `y = D^-1 U1 U2^T V`. Keys and values are read
once, then queries once; no n rows are ever held.

- *paper*: `Psi U2`, `Psi V` and the running sum `U2^T 1` while keys arrive; then `D_ii = <u1(q_i), U2^T 1>` and
  `Phi D^-1 U1` while queries do. Decoding: `Z = (Phi D^-1 U1) ((Psi U2)^T Psi V)` is `Phi y`, up to the error of `Psi`;
  sparse recovery of each column. `m1 t + m2 (t + d_v) + t` numbers.
- *fused*: keys come before queries, so `U2^T V` can be kept exactly, and each row `y_i` is known as its query arrives:
  sketch `Phi y` itself. `m1 d_v + t (d_v + 1)` numbers; no `Psi`, and none of its error.

`Psi` is a CountSketch with one table of `m2` buckets, `Phi` one with `r` tables of `w` buckets and bit counters in `b`
of them: `m1 = w (r + b log2 n)`, `w = 4 k / eps1`, `r = O(log n)`, `b = O(log k)`; see `primitives.recovery`. Both are
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

import os
from typing import Any, Self

import numpy as np

from ...core import backends, checkpoint, checks
from ...core.backends import Array
from ..countsketch.hashing import MAX_INDEX, IndexHash
from ..countsketch.recovery import SparseColumns, identify, scan
from .ranges import Ranges, size, union, with_range
from .variants import VARIANTS

DECODERS = {"identify": identify, "scan": scan}


class OnePassSketch:
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

    Raises
    ------
    TypeError, ValueError
        Impossible parameters.

    Notes
    -----
    The paper's guarantee: with probability 0.99 each column of the result is within `(1 + eps1) min_{k-sparse y'} ||y'
    - y||_2 + eps2'` of `y`, the column of exact attention. Here `eps2'` is `2 + eps1` times the sum of the product's
    error (item 1 of this file's list) and the polynomial's, `2 eps max|v| sqrt(n)`. At these sizes it is
    measured, not proven, and near-ties between the k-th and the next entries break it: see `primitives.recovery`. It
    is worth something only if `y` has few large entries.

    Time per row: `O(t)` multiplications and `O(t d_v)` (fused) or `O(t b log n)` (paper) operations.

    Examples
    --------
    >>> sketch = OnePassSketch(n, 8, 8, degree=4, sparsity=64, eps1=0.5, eps2=0.5, variant="fused", rng=0)
    >>> for k, v in key_chunks: sketch.absorb_keys(k, v)
    >>> for q in query_chunks: sketch.absorb_queries(q)
    >>> columns = sketch.decode()
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
        variant: str = "paper",
        scale: float | None = None,
        rng: np.random.Generator | int | None = None,
    ) -> None:
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
        if variant not in VARIANTS:
            raise ValueError(f"variant must be one of {tuple(VARIANTS)}, got {variant!r}")
        self.eps1, self.eps2, self.variant = float(eps1), float(eps2), variant
        self.scale = checks.resolve_scale(scale, d)
        parameters = {name: value for name, value in self._about().items() if name != "variant"}
        self._kept = VARIANTS[variant](**parameters, rng=checks.generator(rng))
        self._dtype: np.dtype | None = None  # of the tables: that of the first rows
        self._ranges: dict[str, Ranges] = {"k": [], "q": []}
        self._next = {"k": 0, "q": 0}

    # ------------------------------------------------------------------------------------------------------ the stream
    @property
    def keys_seen(self) -> int:
        """Keys absorbed so far."""
        return size(self._ranges["k"])

    @property
    def queries_seen(self) -> int:
        """Queries absorbed so far."""
        return size(self._ranges["q"])

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays that the sketch holds."""
        return self._kept.nbytes

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
        self._kept.keys(xp, start, k, v)
        self._ranges["k"], self._next["k"] = ranges, start + len(k)
        return self

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
        self._kept.queries(xp, start, q)
        self._ranges["q"], self._next["q"] = ranges, start + len(q)
        return self

    def _enter(self, start: int | None, check_finite: bool, **named: Array) -> tuple[Any, list[Array], int, Ranges]:
        """Checked rows, their first index, and the ranges with them; makes the tables that they need."""
        xp, arrays, _ = backends.enter(**named)
        wide = (x.astype(backends.working_dtype(x), copy=False) for x in arrays)
        width = {"k": self.d, "q": self.d, "v": self.d_v}
        rows = checks.rows(width, **dict(zip(named, wide, strict=True)))
        norm, *_ = checks.largest_norms(xp, check_finite, **dict(zip(named, rows, strict=True)))
        side, dtype = next(iter(named)), np.dtype(rows[0].dtype)
        self._kept.monomials.check(dtype, **{side: norm})
        if self._dtype is not None and self._dtype != dtype:
            raise TypeError(f"{side} must have the dtype of the rows before it ({self._dtype}), got {dtype}")
        start = self._following(side) if start is None else checks.integer("start", start, minimum=0)
        ranges = with_range(self._ranges[side], start, start + len(rows[0]), name=side, n=self.n)
        kept = self._kept
        kept.sums, kept.weights = backends.follow(xp, side, kept.sums, kept.weights)
        kept.allocate(xp, dtype, queries=False)  # those of the queries when these have passed
        self._dtype = dtype
        return xp, rows, start, ranges

    def _following(self, side: str) -> int:
        """The first index after the last chunk that has not been read."""
        at = self._next[side]
        return next((stop for start, stop in self._ranges[side] if start <= at < stop), at)

    # ------------------------------------------------------------------------------------------------------ the result
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
        if method not in DECODERS:
            raise ValueError(f"method must be one of {tuple(DECODERS)}, got {method!r}")
        if self.queries_seen < self.n:
            raise ValueError(f"decode needs all {self.n} queries first, got {self.queries_seen}")
        xp = backends.namespace(self._kept.sums)
        indices, values = DECODERS[method](xp, self._kept.output(xp), self.sparsity)
        return SparseColumns(indices, values, (self.n, self.d_v))

    def merge(self, other: OnePassSketch) -> Self:
        """Add the rows that `other` absorbed, in place; returns self.

        Before the queries: sketches of disjoint key ranges. After: sketches with all the keys (copies of one, say) and
        disjoint query ranges.

        Raises
        ------
        TypeError, ValueError
            Not a sketch; other parameters or another seed; a range twice; queries on top of different keys.
        """
        if not isinstance(other, OnePassSketch):
            raise TypeError(f"other must be a OnePassSketch, got {type(other).__name__}")
        if self._about() != other._about():
            raise ValueError(f"other must have this sketch's parameters {self._about()}, got {other._about()}")
        mine, its = self._kept.sketches(), other._kept.sketches()
        if any((mine[name].hash.coefficients != its[name].hash.coefficients).any() for name in mine):
            raise ValueError("other must have this sketch's hashes: make both with the same rng, an integer seed")
        if self._dtype is not None and other._dtype is not None and self._dtype != other._dtype:
            raise TypeError(f"other must have rows of dtype {self._dtype}, got {other._dtype}")
        side = "q" if self._ranges["q"] or other._ranges["q"] else "k"
        if side == "q" and (both := {self.keys_seen, other.keys_seen}) != {self.n}:
            raise ValueError(f"other must have absorbed all {self.n} keys once there are queries, got {min(both)}")
        if side == "q" and not self._same_keys(other):
            raise ValueError("other must have absorbed the same keys once there are queries, got sums that differ")
        ranges = union(self._ranges[side], other._ranges[side], name=side, n=self.n)
        if other._dtype is not None:
            self._dtype = other._dtype
            self._kept.merge(other._kept, other._dtype, queries=side == "q")
        self._ranges[side] = ranges
        return self

    def _same_keys(self, other: OnePassSketch) -> bool:
        """Whether what is kept of the keys agrees up to the rounding of a different order: to half of the digits."""
        tolerance = float(np.finfo(self._dtype or np.float64).eps) ** 0.5
        for pair in zip(self._kept.of_keys(), other._kept.of_keys(), strict=True):
            mine, its = backends.together(*pair)
            if not bool(backends.asnumpy(abs(mine - its).max() <= tolerance * abs(mine).max())):
                return False
        return True

    # --------------------------------------------------------------------------------------------------- checkpointing
    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the sketch to a file, whole or not at all: what has been absorbed so far is safe there."""
        about = {**self._about(), "ranges": self._ranges, "next": self._next, "dtype": self._dtype and str(self._dtype)}
        arrays = {"sums": self._kept.sums}
        for name, sketch in self._kept.sketches().items():
            arrays[f"{name}.hash"] = sketch.hash.coefficients
            if sketch.table is not None:
                arrays |= {f"{name}.table": sketch.table, f"{name}.bits": sketch.bits}
        checkpoint.write(path, "OnePassSketch", about, {key: backends.asnumpy(x) for key, x in arrays.items()})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote: the sketch continues on the device of the next rows.

        Raises
        ------
        FileNotFoundError, ValueError
            No such file, or not a whole sketch.
        """
        about, arrays = checkpoint.read(path, "OnePassSketch")
        ranges, following, dtype = (about.pop(key) for key in ("ranges", "next", "dtype"))
        sketch = cls(**about, rng=0)
        sketch._ranges = {side: [(a, b) for a, b in pairs] for side, pairs in ranges.items()}
        sketch._next, sketch._dtype = following, None if dtype is None else np.dtype(dtype)
        sketch._kept.sums = arrays["sums"]
        for name, part in sketch._kept.sketches().items():
            part.hash = IndexHash(arrays[f"{name}.hash"], part.hash.width)
            part.table, part.bits = arrays.get(f"{name}.table"), arrays.get(f"{name}.bits")
        return sketch

    def _about(self) -> dict[str, Any]:
        names = ("n", "d", "d_v", "degree", "sparsity", "eps1", "eps2", "variant", "scale")
        return {name: getattr(self, name) for name in names}
