"""The polynomial method: attention through a polynomial of the logits, in linear time and from a fixed state.

Source: [AS23] Alman, Song, *Fast Attention Requires Bounded Entries*, NeurIPS 2023, arXiv 2302.13214: Corollary 2.2
(the polynomial), Lemma 3.2 (features and their number), Lemmas 3.5 and 3.6 (the error), Theorem 3.8 (the algorithm).
With `p(x) = exp(x) (1 +- eps)` on `[-R, R]`, `R >= |s <q, k>|`, and `p(s <q, k>) = <u1(q), u2(k)>`, attention is
`u1(q) (U2^T V) / (u1(q) U2^T 1)`: every output entry is off by at most `2 eps ||V||_max`.

Cost: rank `t = C(d+g, g)` multiplications and `2 t (d_v + 1)` operations per row, twice (keys, then queries); memory
`t (d_v + 1)` numbers, whatever n is. With a causal mask the keys' half is done twice (prefix sums over 16 lanes of
rows, then inside each lane), and inside a chunk of up to CAUSAL_ROWS rows the polynomial is evaluated entry by entry.

Differs from the paper in:

1. Taylor, Chebyshev and relative-minimax polynomials are offered; the paper takes the last, from Aggarwal and Alman.
2. The rank is that of the monomials, `C(d+g, g)`; the paper's bound is `C(2(g+d), 2g)`.
3. Chunks of keys are summed up in float64; monomials and products are made in the input's dtype (float32 for half
   precision), whose rounding alone costs a relative error of about `exp(2R)` times its unit roundoff.
4. The paper has no causal mask and no state; both follow from the factorisation, which needs prefix sums only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from ...core import backends, checks
from ...core.backends import Array
from ...core.state import StreamingState
from .approximants import approximant, check_basis, minimal_degree
from .monomials import (
    Features,
    Monomials,
    divided,
    evaluate,
    lane_moments,
    lanes,
    moments,
    overflowing,
    with_ones,
)

CAUSAL_ROWS = 512  # inside a chunk of so many rows the polynomial is evaluated entry by entry


class PolynomialState(StreamingState):
    """Attention over a growing set of keys from a state of fixed size: the streaming corollary of [AS23].

    The state is `U2^T [V, 1]`, `t (d_v + 1)` numbers in float64, `t = C(d+g, g)`. It answers any query in
    `O(t d_v)`, causal by construction (a query sees what came before it), and two states add.

    Parameters
    ----------
    d, d_v : int
        Width of the keys and of the values.
    degree : int
        `g`; error and rank grow with it as `approximants.approximant` and `rank` say.
    scale : float, optional
        Factor of the logits; `1/sqrt(d)` by default.
    basis : "taylor", "chebyshev" or "minimax"
        The polynomial. Taylor's does not depend on `radius`; the others have the smaller error on `[-R, R]` at the same
        degree, hence at the same cost.
    radius : float, optional
        `R`, the largest `|scale <q, k>|`; needed by, and only by, the last two. It is not checked: past it these
        polynomials soon have nothing to do with `exp`.

    Attributes
    ----------
    rank : int
        Features per key, `C(d + degree, degree)`.
    tokens_seen : int
        Keys so far.
    nbytes : int
        Bytes of all arrays that the state holds.

    Raises
    ------
    TypeError, ValueError
        Impossible parameters; more than `monomials.MAX_RANK` features.

    Examples
    --------
    >>> import numpy as np
    >>> from sublinattn import PolynomialState, attention
    >>> q, k, v = np.random.default_rng(0).uniform(-0.5, 0.5, (3, 1024, 4))
    >>> state = PolynomialState(4, 4, degree=4).update(k[:1000], v[:1000]).update(k[1000:], v[1000:])
    >>> state.rank, state.tokens_seen
    (70, 1024)
    >>> np.allclose(state.attend(q[0]), attention(q[:1], k, v)[0], atol=1e-4)
    True
    """

    PARAMETERS = ("d", "d_v", "degree", "scale", "basis", "radius")

    def __init__(
        self,
        d: int,
        d_v: int,
        *,
        degree: int,
        scale: float | None = None,
        basis: str = "taylor",
        radius: float | None = None,
    ) -> None:
        super().__init__()
        self.d, self.d_v = (checks.integer(name, x, minimum=1) for name, x in (("d", d), ("d_v", d_v)))
        self.degree = checks.integer("degree", degree, minimum=0)
        self.scale = checks.resolve_scale(scale, d)
        check_basis(basis)
        if (radius is None) != (basis == "taylor"):
            raise ValueError(f"radius must be given if, and only if, basis is not 'taylor', got {radius} and {basis!r}")
        self._monomials = Monomials(self.d, self.degree)  # refuses a degree before its polynomial is computed
        checks.fits_memory("d_v", self.d_v, 8 * self._monomials.rank * (self.d_v + 1))
        polynomial = approximant(basis, self.degree, 0.0 if radius is None else radius)
        self.basis, self.radius = basis, None if radius is None else polynomial.radius
        # Both begin on the host, and go to the keys' device with the first of these.
        weights = self._monomials.weights(polynomial.coefficients, self.scale)
        self._stored = {"moments": np.zeros((self.rank, self.d_v + 1)), "weights": weights}
        self.tokens_seen = 0

    @property
    def rank(self) -> int:
        return self._monomials.rank

    @backends.on_device
    def update(self, k: Array, v: Array, *, check_finite: bool = True) -> Self:
        """Absorb one key and value, `(d,)` and `(d_v,)`, or a chunk, `(c, d)` and `(c, d_v)`; returns self.

        Raises
        ------
        TypeError, ValueError
            As `attention`; rows so long that their monomials could overflow, or not on the device of those before. The
            state is then as it was.
        """
        xp, (k, v), _ = backends.enter(k=k, v=v)
        k, v = checks.rows({"k": self.d, "v": self.d_v}, k=k, v=v)
        k, v = (x.astype(backends.working_dtype(x), copy=False) for x in (k, v))
        k_norm, _ = checks.largest_norms(xp, check_finite, k=k, v=v)
        self._monomials.check(k.dtype, k=k_norm)
        self._follow(xp, "k")
        added = moments(xp, self._monomials, k, with_ones(xp, v))  # U2^T [V, 1]
        checks.representable(xp, added, k, v, name="sums of the monomials times v")
        self._stored["moments"] += added
        self.tokens_seen += len(k)
        return self

    @backends.on_device
    def attend(self, q: Array, *, check_finite: bool = True) -> Any:
        """Attention of one query `(d,)` or of a chunk `(c, d)` over all keys so far.

        Returns
        -------
        array, shape (d_v,) or (c, d_v)
            Of the caller's kind, device and dtype. `O(c t d_v)` operations.

        Raises
        ------
        TypeError, ValueError
            As `attention`; no keys yet; a normaliser that is not positive (the degree is too low for these logits).
        """
        if not self.tokens_seen:
            raise ValueError("attend needs a state with keys, got an empty one: call update first")
        xp, (q,), leave = backends.enter(q=q)
        (rows,) = checks.rows({"q": self.d}, q=q)
        rows = rows.astype(backends.working_dtype(rows), copy=False)
        (q_norm,) = checks.largest_norms(xp, check_finite, q=rows)
        self._monomials.check(rows.dtype, q=q_norm)
        self._follow(xp, "q")
        weighted = self._stored["weights"][:, None] * self._stored["moments"] / self.tokens_seen
        out = divided(xp, evaluate(xp, self._monomials, rows, weighted), self.degree)
        checks.representable(xp, out, rows, state=self)
        return leave(out.reshape(*q.shape[:-1], self.d_v))

    @backends.on_device
    def merge(self, other: PolynomialState) -> Self:
        """Add the keys of `other`, in place; returns self. The order of merges changes rounding only.

        Raises
        ------
        TypeError, ValueError
            Not a state, this one itself, or one with other parameters.
        """
        self._check_mergeable(other)
        xp = self._meet(other)
        self._stored["moments"] = self._stored["moments"] + backends.to_device(other._stored["moments"], xp)
        self.tokens_seen += other.tokens_seen
        return self

    def contents(self) -> dict[str, Array]:
        """The array that `save` writes: `moments`, `U2^T [V, 1]`. The monomials' weights follow from the parameters."""
        return {"moments": self._stored["moments"]}

    def _about(self) -> dict[str, Any]:
        return {**self.parameters(), "tokens_seen": self.tokens_seen}

    def _restore(self, about: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        self._stored["moments"], self.tokens_seen = arrays["moments"], about["tokens_seen"]


@backends.on_device
def polynomial_attention(
    q: Array,
    k: Array,
    v: Array,
    *,
    degree: int | None = None,
    eps: float | None = None,
    basis: str = "taylor",
    causal: bool = False,
    scale: float | None = None,
    check_finite: bool = True,
) -> Any:
    """Attention with the exponential replaced by a polynomial, in time linear in n.

    Parameters
    ----------
    q, k, v : array, shapes (..., n_q, d), (..., n_k, d), (..., n_k, d_v)
        As `attention`.
    degree : int, optional
        `g`. By default the smallest one that reaches `eps`.
    eps : float, optional
        Relative error of every entry of `exp(scale q k^T)`, in (0, 1). If neither it nor `degree` is given: `1/n_k`
        ([AS23]'s accuracy), but at most 0.1, and no less than what rounding costs.
    basis : "taylor", "chebyshev" or "minimax"
        The polynomial; the last needs the smallest degree.
    causal : bool
        Query i sees keys 0..i.
    scale : float, optional
        Factor of the logits; `1/sqrt(d)` by default.
    check_finite : bool
        Refuse NaN and Inf.

    Returns
    -------
    array, shape (..., n_q, d_v)
        Of the caller's kind, device and dtype. Every entry is within `2 eps max|v|` of exact attention, and rounding
        adds about `exp(2R)` unit roundoffs, `R = scale max|q_i| max|k_j|` ([AS23, Lemma 3.6]).

    Raises
    ------
    TypeError, ValueError
        As `attention`; both `degree` and `eps` given; an `eps` that rounding alone exceeds; more than
        `monomials.MAX_RANK` features; a normaliser that is not positive.

    Notes
    -----
    `O((n_q + n_k) t d_v)` operations and `O(t d_v)` memory per head beyond the output, `t = C(d+g, g)`; with a mask
    half as many again, and `O(CAUSAL_ROWS (d + d_v))` per row.

    Examples
    --------
    >>> import numpy as np
    >>> from sublinattn import attention, polynomial_attention
    >>> q, k, v = np.random.default_rng(0).uniform(-0.5, 0.5, (3, 1024, 4))
    >>> out = polynomial_attention(q, k, v, eps=1e-3, causal=True)
    >>> bool(abs(out - attention(q, k, v, causal=True)).max() <= 2e-3 * abs(v).max())
    True
    """
    xp, (q, k, v), leave = backends.enter(q=q, k=k, v=v)
    checks.flags(causal=causal)
    checks.shapes(q, k, v)
    scale = checks.resolve_scale(scale, q.shape[-1])
    check_basis(basis)
    dtype, shape = backends.working_dtype(q), (*q.shape[:-1], v.shape[-1])
    q, k, v = (x.astype(dtype, copy=False).reshape(-1, *x.shape[-2:]) for x in (q, k, v))
    q_norm, k_norm, _ = checks.largest_norms(xp, check_finite, q=q, k=k, v=v)
    radius = rounded_up(abs(scale) * q_norm * k_norm)
    degree = _degree(degree, eps, basis, radius, k.shape[1], dtype)
    monomials = Monomials(q.shape[-1], degree)
    monomials.check(dtype, q=q_norm, k=k_norm)
    polynomial = approximant(basis, degree, 0.0 if basis == "taylor" else radius).coefficients  # Taylor's has no R
    weights = backends.to_device(monomials.weights(polynomial, scale), xp)[:, None]
    out = xp.empty((len(q), *shape[-2:]), dtype=dtype)
    # One problem after another on the CPU; on a device as many at once as have room for their features.
    room = backends.feature_rows(xp, monomials.rank, dtype) // max(q.shape[1], k.shape[1])
    for b in range(len(q)) if xp is np else backends.cut(len(q), max(1, room)):
        values = with_ones(xp, v[b])
        if causal:
            sums = _causal_sums(xp, monomials, weights, q[b], k[b], values, polynomial, scale)
        else:
            sums = evaluate(xp, monomials, q[b], weights * moments(xp, monomials, k[b], values) / k.shape[1])
        out[b] = divided(xp, sums, degree)  # D^-1 U1 (U2^T V), D = diag(U1 U2^T 1)
    checks.representable(xp, out, q, k, v)
    return leave(out.reshape(shape))


def rounded_up(radius: float) -> float:
    """The radius rounded up to ten bits: a polynomial is computed per radius and kept, so there should be few."""
    if not math.isfinite(radius):
        raise ValueError(f"q and k must have rows whose norms are finite in their dtype, got scale |q| |k| = {radius}")
    fraction, exponent = math.frexp(radius)
    return math.ldexp(math.ceil(math.ldexp(fraction, 10)), exponent - 10)


def _degree(degree: int | None, eps: float | None, basis: str, radius: float, n_k: int, dtype: Any) -> int:
    """The caller's degree, or the smallest that reaches `eps` on [-radius, radius]."""
    if degree is not None:
        if eps is not None:
            raise ValueError(f"degree and eps must not both be given, got {degree} and {eps}")
        return checks.integer("degree", degree, minimum=0)
    rounding = math.exp(min(2 * radius, 700.0)) * float(np.finfo(dtype).eps)
    got = "" if eps is None else f"; got {checks.real('eps', eps):.2g}"
    eps = min(0.1, max(1 / n_k, rounding)) if eps is None else eps
    if not 0 < eps < 1:
        raise ValueError(f"eps must lie in (0, 1), got {eps}")
    if eps < rounding:
        raise ValueError(
            f"eps must be at least {rounding:.2g}, what rounding costs in {dtype} with logits up to {radius:.3g}{got}: "
            "use float64, smaller entries, or give degree"
        )
    return minimal_degree(basis, eps, radius)


def _causal_sums(
    xp: Any,
    monomials: Monomials,
    weights: Array,
    q: Array,
    k: Array,
    v: Array,
    coefficients: Sequence[float],
    scale: float,
) -> Array:
    """Numerators and normaliser of every query i over keys 0..i, shape (..., n_q, d_v + 1).

    These are the whole lanes before its own, the chunks of its lane before its own, and inside its chunk the keys up to
    i, for which the polynomial itself is evaluated. Queries past the last key see all keys.
    """
    n = min(q.shape[-2], k.shape[-2])
    k, v = k[..., :n, :], v[..., :n, :]
    parts = lanes(xp, monomials, k, v)
    states = xp.zeros((len(parts), *v.shape[:-2], monomials.rank, v.shape[-1]))  # U2^T [V, 1] of the keys before
    if len(parts) > 1:
        states[1:] = xp.cumsum(lane_moments(xp, monomials, k, v, parts[:-1]), axis=0)
    rows = min(CAUSAL_ROWS, backends.feature_rows(xp, monomials.rank, q.dtype))
    # Chunks at once: one on the CPU; on a device as many as have room for their features and entries.
    room = 0 if xp is np else backends.feature_rows(xp, monomials.rank + rows, q.dtype)
    together = max(1, room // (rows * math.prod(q.shape[:-2])))
    out = xp.empty((*q.shape[:-1], v.shape[-1]), dtype=q.dtype)
    i = xp.arange(rows)
    visible = (i <= i[:, None]).astype(q.dtype)

    def worker(lane: int, own: list[Features]) -> None:
        with overflowing():
            step(lane, *own)

    def step(lane: int, of_q: Features, of_k: Features) -> None:
        state = states[lane]
        for run in _runs(parts[lane], rows, together):
            c = min(rows, run.stop - run.start)
            # (..., chunks, rows, width)
            qs, ks, vs = (x[..., run, :].reshape(*x.shape[:-2], -1, c, x.shape[-1]) for x in (q, k, v))
            entries = _horner(xp, xp.matmul(qs, ks.swapaxes(-1, -2)) * q.dtype.type(scale), coefficients)
            entries *= visible[:c, :c]
            sums = xp.matmul(of_k(ks), vs)  # a query sees the keys of its own chunk through `entries`
            before = xp.cumsum(xp.concatenate([state[..., None, :, :], sums[..., :-1, :, :]], axis=-3), axis=-3)
            weighted = (weights * before).astype(q.dtype)
            answers = xp.matmul(of_q(qs).swapaxes(-1, -2), weighted) + xp.matmul(entries, vs)
            out[..., run, :] = answers.reshape(out[..., run, :].shape)
            state[...] = before[..., -1, :, :] + sums[..., -1, :, :]

    backends.for_tiles(xp, range(len(parts)), worker, lambda: [Features(xp, monomials, q.dtype) for _ in "qk"])
    if q.shape[-2] > n:
        out[..., n:, :] = evaluate(xp, monomials, q[..., n:, :], weights * states[-1])
    return out


def _runs(part: slice, rows: int, together: int) -> list[slice]:
    """`part` in runs of up to `together` whole chunks of `rows` rows, and what is left over."""
    whole = part.stop - (part.stop - part.start) % rows
    return backends.cut(whole, rows * together, part.start) + backends.cut(part.stop, rows, whole)


def _horner(xp: Any, x: Array, coefficients: Sequence[float]) -> Array:
    """The polynomial at every entry of `x`."""
    out = xp.full(x.shape, coefficients[-1], dtype=x.dtype)
    for c in reversed(coefficients[:-1]):
        out *= x
        out += c
    return out
