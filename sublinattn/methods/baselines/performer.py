"""Performer: attention through positive orthogonal random features of the softmax kernel (FAVOR+).

Source: [PERF21] Choromanski et al., *Rethinking Attention with Performers*, ICLR 2021, arXiv 2009.14794: Lemma 1
(positive features), Section 2.4 (orthogonal directions), Section 2.5 (causal: prefix sums).

With `x = sqrt(s) q`, `y = sqrt(s) k` and Gaussian directions `w_1, ..., w_m`, an entry of `A` is estimated by
`(1/m) sum_f exp(<w_f, x> - |x|^2/2) exp(<w_f, y> - |y|^2/2)`: never negative, its mean is `exp(<x, y>)`, and its
variance grows like `exp(|x + y|^2)` (Lemma 2). Directions are orthogonal within blocks of `d` (Theorem 2: a smaller
variance), each Gaussian by itself.

Cost: `O((n_q + n_k) m (d + d_v))` operations, `O(m (d + d_v))` numbers besides input and output: no key column is
touched, and a query costs as much as `m` of them. Under a causal mask queries and keys go chunk by chunk, with exact
sums over `CHUNK` keys: `O(n (m + CHUNK) (m + d_v))`.

Differs from the paper, and from the authors' public code, in:

1. Numerator and normaliser are summed relative to the largest exponent of each feature, by the rule for merging
   partials of [RS21]. The public code subtracts one maximum for all keys and adds `1e-6` to every feature, so that
   answers there are biased, and where keys differ much in length the added constant decides.
2. Directions are uniform on the sphere: the columns of the QR factor get the signs of R's diagonal (Haar measure).
   The public code takes LAPACK's factor as it is, whose first direction never has a positive first coordinate, so
   that its features are biased (`perf21.unbiased` has it as a sabotage).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...core import backends, checks
from ...core.backends import Array
from ...core.exact import Partial
from .common import Problem, enter

CHUNK = 128  # keys of a prefix sum: their products with each other cost about as much as those with the features
SMALL = 1024  # rows of several small problems that are worked on at once, on the CPU


@backends.on_device
def performer_attention(
    q: Array,
    k: Array,
    v: Array,
    *,
    features: int = 256,
    causal: bool = False,
    scale: float | None = None,
    rng: np.random.Generator | int | None = None,
    return_lse: bool = False,
    check_finite: bool = True,
) -> Any:
    """Attention with the kernel `exp(s <q, k>)` replaced by that of positive orthogonal random features [PERF21].

    Parameters
    ----------
    q, k, v : array, shapes (..., n_q, d), (..., n_k, d), (..., n_k, d_v)
        As `attention`. Leading axes have features of their own.
    features : int
        `m`: a query costs about as much as `m` key columns.
    causal : bool
        Query i sees keys 0..i (top-left aligned).
    scale : float, optional
        `1/sqrt(d)` by default.
    rng : Generator, int or None
        Source of the directions, drawn on the host.
    return_lse : bool
        Return also the log of the estimated normaliser, which is unbiased on the scale of the normaliser.
    check_finite : bool
        Refuse NaN and Inf.

    Returns
    -------
    out : array, shape (..., n_q, d_v)
        Of the caller's kind, device and dtype.

    Raises
    ------
    TypeError, ValueError
        As `attention`; `features` below 1.

    Examples
    --------
    >>> import numpy as np
    >>> from sublinattn import attention, performer_attention
    >>> q, k, v = np.random.default_rng(0).standard_normal((3, 2048, 16))
    >>> exact = attention(q, k, v + 1)
    >>> out = performer_attention(q, k, v + 1, features=256, rng=0)
    >>> print(f"{np.linalg.norm(out - exact) / np.linalg.norm(exact):.2f}")
    0.05
    """
    x = enter(q, k, v, scale=scale, check_finite=check_finite)
    checks.flags(causal=causal, return_lse=return_lse)
    features = checks.integer("features", features, minimum=1)
    b, n_q, d = x.q.shape
    checks.fits_memory("features", features, 8 * 3 * b * features * d)  # directions, from blocks and their factors
    drawn = directions(checks.generator(rng), b, features, d)
    total = random_feature_attention(x, backends.to_device(drawn.astype(x.q.dtype), x.xp), causal=causal)
    return x.leave(total, return_lse=return_lse)


def directions(rng: np.random.Generator, batch: int, features: int, d: int) -> np.ndarray:
    """Directions (batch, features, d), float64: each Gaussian by itself, orthogonal within blocks of d."""
    blocks = -(-features // d)
    factor, triangle = np.linalg.qr(rng.standard_normal((batch, blocks, d, d)))
    factor *= np.sign(np.diagonal(triangle, axis1=-2, axis2=-1))[..., None, :]
    unit = factor.swapaxes(-1, -2).reshape(batch, blocks * d, d)[:, :features]
    return unit * np.linalg.norm(rng.standard_normal((batch, features, d)), axis=-1)[..., None]


def random_feature_attention(x: Problem, drawn: Array, *, causal: bool) -> Partial:
    """Partial of all queries, with these directions (B, m, d)."""
    xp, (b, n_q, _), n_k = x.xp, x.q.shape, x.k.shape[1]
    total = Partial.empty(xp, (b, n_q), x.v.shape[-1], x.q.dtype)
    root = abs(x.scale) ** 0.5
    sign = 1.0 if x.scale >= 0 else -1.0
    group = max(1, SMALL // max(n_q, n_k)) if xp is np else b
    each = backends.cut(b, group)
    step = CHUNK if causal else max(CHUNK, backends.feature_rows(xp, drawn.shape[1], x.q.dtype) // each[0].stop)

    def worker(at: slice) -> None:
        with np.errstate(over="ignore", invalid="ignore"):  # per thread; what overflows is found afterwards
            attend(at)

    def attend(at: slice) -> None:
        w = drawn[at].swapaxes(1, 2)
        state = FeatureSums.empty(xp, w.shape[0], w.shape[2], x.v.shape[-1], x.q.dtype)

        def deliver(rows: slice, p: Partial) -> None:
            total.m[at, rows], total.l[at, rows], total.o[at, rows] = p.m - float(np.log(w.shape[2])), p.l, p.o

        def queries(rows: slice) -> Array:
            return exponents(xp, x.q[at, rows] * (sign * root), w)

        chunks = backends.cut(min(n_k, n_q) if causal else n_k, step)
        for rows in chunks:
            keys, values = exponents(xp, x.k[at, rows] * root, w), x.v[at, rows]
            if causal:
                mine = queries(rows)
                deliver(rows, state.attend(mine).merge(within(xp, mine, keys, values)))
            state.absorb(keys, values)
        for rows in backends.cut(n_q, step, chunks[-1].stop if causal else 0):
            deliver(rows, state.attend(queries(rows)))

    backends.for_tiles(xp, each, worker)
    return total


def exponents(xp: Any, x: Array, w: Array) -> Array:
    """`<w_f, x> - |x|^2 / 2` (B, n, m), the log of the features of rows x (B, n, d) for directions w (B, d, m)."""
    return xp.matmul(x, w) - backends.row_squares(xp, x)[..., None] / 2


@dataclass
class FeatureSums:
    """Of each feature, over the keys so far: `m` the largest exponent, and two sums relative to it."""

    xp: Any
    m: Array  # (B, f)
    l: Array  # (B, f), sums of the features  # noqa: E741
    o: Array  # (B, f, d_v), sums of the features times values

    @classmethod
    def empty(cls, xp: Any, b: int, f: int, d_v: int, dtype: Any) -> FeatureSums:
        return cls(xp, xp.full((b, f), -np.inf, dtype), xp.zeros((b, f), dtype), xp.zeros((b, f, d_v), dtype))

    def absorb(self, keys: Array, values: Array) -> None:
        """Add keys with these exponents (B, c, f) and values (B, c, d_v)."""
        xp = self.xp
        m = xp.maximum(self.m, keys.max(axis=1))
        keep, e = xp.exp(self.m - m), xp.exp(keys - m[:, None]).swapaxes(1, 2)
        self.m, self.l = m, keep * self.l + e.sum(axis=2)
        self.o = keep[..., None] * self.o + xp.matmul(e, values)

    def attend(self, queries: Array) -> Partial:
        """Partial of queries with these exponents (B, t, f) over all keys so far."""
        xp = self.xp
        logits = queries + self.m[:, None]
        m = logits.max(axis=-1)
        e = xp.exp(logits - xp.where(m == -np.inf, 0, m)[..., None])
        return Partial(m, xp.matmul(e, self.l[..., None])[..., 0], xp.matmul(e, self.o))


def within(xp: Any, queries: Array, keys: Array, values: Array) -> Partial:
    """Partial of the queries of a chunk (B, t, f) over the chunk's own keys (B, c, f) up to each."""
    top_q, top_k = queries.max(axis=-1, keepdims=True), keys.max(axis=-1, keepdims=True)
    kernel = xp.matmul(xp.exp(queries - top_q), xp.exp(keys - top_k).swapaxes(1, 2))
    t, c = kernel.shape[1:]
    seen = (xp.arange(c) <= xp.arange(t)[:, None]) & (kernel > 0)
    logits = xp.where(seen, xp.log(xp.where(seen, kernel, 1)) + top_q + top_k.swapaxes(1, 2), -np.inf)
    m = logits.max(axis=-1)
    e = xp.exp(logits - xp.where(m == -np.inf, 0, m)[..., None])
    return Partial(m, e.sum(axis=-1), xp.matmul(e, values))
