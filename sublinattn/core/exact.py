"""Exact attention in tiles, and the partial results that merge into it.

Source: [RS21] Rabe, Staats, *Self-attention does not need O(n^2) memory*, arXiv 2112.05682. The paper runs through the
keys with a running maximum `m*`, normaliser `s*` and weighted sum `v*` per query; here they are `m`, `l` and `o` of a
`Partial`, and a step takes a tile of keys.

Cost: time `O(n_q n_k (d + d_v))`; memory `O(n (d + d_v))` plus one tile per thread, never `n_q x n_k`.

Differs from the paper in:

1. When the Cauchy-Schwarz bound on the logits is small (`scale * max|q| * max|k| <= 40`) no maximum is subtracted:
   nothing can overflow or underflow, and a pass over the logits is saved. A partial's `m` is then 0, which is as good
   a reference as the maximum: merging works with any.
2. A query that sees no key gets output 0 and `lse = -inf`.
3. With few queries the keys are cut into segments that are attended to at the same time and merged.

Half-precision arrays on a GPU that `attend.serves` go through its kernel: one launch, no float32 copies.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import numpy as np

from . import backends, checks
from .attend import attend, serves
from .backends import Array, Scratch
from .magnitudes import excess, fit_logits, moderate, times_power

KERNEL_QUERIES, KERNEL_KEYS, KERNEL_BLOCKS = 64, 256, 2048  # on a GPU: so few queries are split, into so many parts
CAUSAL_ROWS = 1024  # of a head in a tile under a causal mask, at most
SPLIT_LOGITS, MAX_SEGMENTS = 2**16, 16  # so few logits are done before a second thread has begun
SAFE_LOGIT = 40.0  # e^40 * 2^40 keys < 3e38, and e^-40 is far from underflow: float32 needs no shift below this


@dataclass
class Partial:
    """Softmax-weighted sums over one set of keys, ready to be merged with those over another [RS21].

    Attributes
    ----------
    m : array, shape (..., n_q)
        Reference logit: the largest one, or 0 where no shift was needed; `-inf` over an empty set.
    l : array, shape (..., n_q)
        `sum_j exp(s<q_i, k_j> - m_i)`.
    o : array, shape (..., n_q, d_v)
        `sum_j exp(s<q_i, k_j> - m_i) v_j`.
    """

    m: Array
    l: Array  # noqa: E741 - the paper's letter
    o: Array

    @classmethod
    def empty(cls, xp: Any, shape: tuple[int, ...], d_v: int, dtype: Any) -> Self:
        """Partial over no keys at all: the neutral element of `merge`."""
        return cls(xp.full(shape, -np.inf, dtype), xp.zeros(shape, dtype), xp.zeros((*shape, d_v), dtype))

    @classmethod
    def unwritten(cls, xp: Any, rows: int, d_v: int) -> Self:
        """A float32 partial of some rows with nothing in it yet, for the kernel to write."""
        return cls(*(xp.empty(shape, np.float32) for shape in ((rows,), (rows,), (rows, d_v))))

    @backends.on_device
    def merge(self, other: Partial) -> Self:
        """Add the keys of `other`, in place: associative and commutative up to rounding; returns self."""
        if not isinstance(other, Partial):
            raise TypeError(f"other must be a Partial, got {type(other).__name__}")
        xp = backends.namespace(self.m, other.m)
        m = xp.maximum(self.m, other.m)
        keep, add = (xp.exp(part.m - _finite(xp, m)) for part in (self, other))  # from the old references to the new
        self.m[...] = m
        self.l[...] = keep * self.l + add * other.l
        self.o[...] = keep[..., None] * self.o + add[..., None] * other.o
        return self

    @backends.on_device
    def output(self) -> Array:
        """Attention output `o / l`, shape (..., n_q, d_v); 0 where no key was seen."""
        xp = backends.namespace(self.l)
        with np.errstate(over="ignore", invalid="ignore"):  # the mean of the largest floats may round to more
            return self.o / xp.where(self.l == 0, 1, self.l)[..., None]

    @backends.on_device
    def lse(self) -> Array:
        """Log of the normaliser, `m + log l`, shape (..., n_q)."""
        xp = backends.namespace(self.l)
        with np.errstate(divide="ignore"):
            return self.m + xp.log(self.l)


def _finite(xp: Any, m: Array) -> Array:
    """References with 0 in place of -inf, which minus itself would be NaN."""
    return xp.where(m == -np.inf, 0, m)


class Softmax:
    """Steps of one thread on tiles of queries; `shift`: whether the largest logit is subtracted before `exp`."""

    def __init__(self, xp: Any, scratch: Scratch, *, shift: bool) -> None:
        self.xp, self.scratch, self.shift = xp, scratch, shift
        self._masks: dict[tuple[int, int], Array] = {}

    def start(self, name: str, g: int, t: int, d_v: int) -> Partial:
        """An empty partial for a (g, t) tile, in scratch memory called `name`."""
        p = Partial(self.scratch(name + "m", g, t), self.scratch(name + "l", g, t), self.scratch(name + "o", g, t, d_v))
        p.m.fill(-np.inf if self.shift else 0)
        p.l.fill(0)
        p.o.fill(0)
        return p

    def above_diagonal(self, t: int, group: int) -> Array:
        """`-inf` at keys past `i // group` in row i and 0 elsewhere, shape (t, t); made once."""
        if (t, group) not in self._masks:
            i = self.xp.arange(t)
            mask = self.xp.where(i > i[:, None] // group, -np.inf, 0)
            self._masks[t, group] = mask.astype(self.scratch.dtype)
        return self._masks[t, group]

    def logits(self, q: Array, k: Array) -> Array:
        """`q k^T` for scaled queries (g, t, d) and keys (g or 1, c, d), in scratch memory."""
        return self.xp.matmul(q, k.swapaxes(-1, -2), out=self.scratch("logits", *q.shape[:2], k.shape[1]))

    def exponentials(self, p: Partial, logits: Array) -> Array:
        """`exp(logits - m)` in place, after raising `m` to the largest logit and rescaling `l` and `o` to it."""
        xp = self.xp
        if self.shift:
            m = xp.maximum(p.m, logits.max(axis=-1))  # m* <- max(m*, s_1, ..., s_c)
            reference = _finite(xp, m)
            logits -= reference[..., None]
            rescale = xp.exp(p.m - reference)  # the factor exp(m*_old - m*_new) of s* and v*
            p.l *= rescale
            p.o *= rescale[..., None]
            p.m[...] = m
        return xp.exp(logits, out=logits)

    def absorb(self, p: Partial, logits: Array, v: Array, counts: Array | None = None) -> None:
        """Add keys with these logits (g, t, c), which are overwritten, and values (g or 1, c, d_v).

        With `counts` (g, c), key j counts that often for the queries of tile g, and `v` must have been multiplied by
        it: to weigh c x d_v values and a vector of ones costs less than to weigh t x c exponentials.
        """
        xp, (g, t, c), d_v = self.xp, logits.shape, v.shape[-1]
        e = self.exponentials(p, logits)
        if counts is None:
            counts = self.scratch("ones", 1, c)
            counts.fill(1)
        p.l += backends.product(xp, e, counts[..., None], self.scratch("rowsum", g, t, 1))[..., 0]  # s* += sum_j e_j
        p.o += xp.matmul(e, v, out=self.scratch("product", g, t, d_v))  # v* += sum_j e_j v_j


def absorb_range(
    tile: Softmax, p: Partial, q: Array, k: Array, v: Array, *, keys: int, diagonal: int | None, group: int = 1
) -> None:
    """Absorb all of `k` (g, n, d), `keys` at a time.

    Causal if `diagonal` is given: the key that the first `group` queries of `q` see last; the next ones see one more.
    """
    t = q.shape[1]
    n = k.shape[1] if diagonal is None else min(k.shape[1], diagonal + -(-t // group))
    for start in range(0, n, keys):
        stop = min(start + keys, n)
        logits = tile.logits(q, k[:, start:stop])
        if diagonal is not None and stop > diagonal + 1:  # query i of the tile sees keys 0..diagonal + i // group
            first = max(start, diagonal)  # only the corner past the first query's own key needs the mask
            corner = logits[:, :, first - start :]
            corner += tile.above_diagonal(t, group)[:, first - diagonal : stop - diagonal]
        tile.absorb(p, logits, v[:, start:stop])


def needs_shift(scale: float, q_norm: float, k_norm: float) -> bool:
    """Whether some logit may exceed `SAFE_LOGIT` (Cauchy-Schwarz)."""
    return not abs(scale) * q_norm * k_norm <= SAFE_LOGIT


def each_query_tile(
    xp: Any,
    q: Array,
    k: Array,
    v: Array,
    *,
    scale: float,
    causal: int,
    shift: bool,
    finish: Callable[[slice, slice, Partial], None],
) -> None:
    """Exact attention of (B, n, d) arrays, tile by tile of queries.

    `causal` is how many queries in a row see the same keys, query i keys 0 to `i // causal`; all see all if it is 0.
    `finish(problems, rows, partial)` takes the partial of each tile, in scratch memory that the next tile overwrites.
    """
    b, n_q, _ = q.shape
    problems, rows, keys = backends.tile_shape(xp, b)
    if n_q < rows:  # few queries, as in decoding: as many logits are more keys
        keys *= rows // n_q
    problems = max(problems, SPLIT_LOGITS // (n_q * k.shape[1]))  # small problems: several in one tile
    if causal:  # half of a tile across the diagonal is wasted: make it short, and take several problems at once
        entries, short = problems * rows, min(n_q, rows // 2, CAUSAL_ROWS * causal)
        rows = max(1, short // causal) * causal
        problems = max(problems, entries // rows)
    tiles = [  # under a causal mask the late rows take longest: first
        (at, r) for r in backends.cut(n_q, rows)[::-1] for at in backends.cut(b, problems)
    ]

    def worker(where: tuple[slice, slice], tile: Softmax) -> None:
        at, r = where
        part = q[at, r]
        p = tile.start("partial", part.shape[0], part.shape[1], v.shape[-1])
        with np.errstate(over="ignore", invalid="ignore"):  # per thread; what overflows is found afterwards
            scaled = xp.multiply(part, scale, out=tile.scratch("q", *part.shape))
            diagonal = r.start // causal if causal else None
            absorb_range(tile, p, scaled, k[at], v[at], keys=keys, diagonal=diagonal, group=causal or 1)
        finish(at, r, p)

    backends.for_tiles(xp, tiles, worker, lambda: Softmax(xp, Scratch(xp, q.dtype), shift=shift))


@backends.on_device
def partial_attention(
    q: Array,
    k: Array,
    v: Array,
    *,
    causal: bool = False,
    scale: float | None = None,
    grouped: bool = False,
    check_finite: bool = True,
) -> Partial:
    """Partial of exact attention over the keys given: merge those over disjoint key sets to get the whole.

    Parameters
    ----------
    q, k, v, causal, scale, grouped, check_finite
        As `attention`, on NumPy or CuPy; a causal query i sees keys 0..i of this set.

    Returns
    -------
    Partial
        In the accumulation dtype (float32 for half precision). Cost and errors as `attention` [RS21].

    Examples
    --------
    >>> import numpy as np
    >>> from sublinattn import attention, partial_attention
    >>> q, k, v = np.random.default_rng(0).standard_normal((3, 100, 8))
    >>> first, rest = (partial_attention(q, k[part], v[part]) for part in (slice(30), slice(30, 100)))
    >>> np.allclose(first.merge(rest).output(), attention(q, k, v))
    True
    """
    xp, (q, k, v), _ = backends.enter(q=q, k=k, v=v)
    checks.flags(causal=causal, grouped=grouped, check_finite=check_finite)
    checks.shapes(q, k, v, grouped=grouped)
    scale = checks.resolve_scale(scale, q.shape[-1])
    shape, n_q, fused = q.shape[:-1], q.shape[-2], serves(xp, q, k, v)
    dtype = q.dtype if fused else backends.working_dtype(q)
    q, k, v = (x.astype(dtype, copy=False).reshape(-1, *x.shape[-2:]) for x in (q, k, v))
    # The queries of one token in all heads that share keys become rows of one problem, one after the other; under a
    # causal mask the kernel takes heads that share keys as they are.
    group = 1 if fused and causal else len(q) // len(k)
    q = _exchanged(q, len(q) // group, group)
    whole = partial(_in_segments, xp, causal=group * causal)
    if fused:
        with checks.finite(xp, check_finite, q=q, k=k, v=v):
            total = whole(q, k, v, scale, make=_fused_partial)
    elif not check_finite and n_q <= q.shape[-1] and moderate(scale):
        # With few queries a maximum is subtracted faster than the norms of all keys are computed.
        total = whole(q, k, v, scale, make=partial(_partial, shift=True))
        if xp is np and not np.isfinite(total.o).all():
            total = _measured(xp, q, k, v, scale, check_finite=False, whole=whole)
    else:
        total = _measured(xp, q, k, v, scale, check_finite=check_finite, whole=whole)
    m, l, o = (_exchanged(x, len(x), n_q) for x in (total.m, total.l, total.o))  # noqa: E741 - the paper's letter
    return Partial(m.reshape(shape), l.reshape(shape), o.reshape(*shape, -1))


def _exchanged(x: Array, b: int, s: int) -> Array:
    """Rows i t + j of b problems, for i below s, as rows j s + i: (b, s t, ...) or (b s, t, ...) to (b, t s, ...)."""
    x = x.reshape(b, s, -1, *x.shape[2:])
    return x.swapaxes(1, 2).reshape(b, -1, *x.shape[3:])


def _measured(
    xp: Any, q: Array, k: Array, v: Array, scale: float, *, check_finite: bool, whole: Callable[..., Partial]
) -> Partial:
    """`whole`'s partial of (B, n, d) arrays, by the fastest way that their norms allow."""
    q_norm, k_norm, v_norm = checks.largest_norms(xp, check_finite, q=q, k=k, v=v)
    shift = needs_shift(scale, q_norm, k_norm) or excess(v, v_norm, shift=False) > 0
    q, k, scale = fit_logits(xp, q, k, scale, q_norm, k_norm)
    power = excess(v, v_norm, shift=True)
    total = whole(q, k, times_power(xp, v, -power), scale, make=partial(_partial, shift=shift))
    if power:  # exp(m) l is to stay as it is, and exp(m) o to be that of the values given
        total.m += power * math.log(2)
        total.l = times_power(xp, total.l, -power)
    return total


def _in_segments(
    xp: Any, q: Array, k: Array, v: Array, scale: float, *, causal: int, make: Callable[..., Partial]
) -> Partial:
    """`make`'s partial of all keys: of few queries in segments that are attended to at the same time, and merged."""
    segments = 1 if causal else segments_of(xp, len(q), q.shape[1], k.shape[1], fused=make is _fused_partial)
    cut = k.shape[1] // segments * segments
    total = make(xp, q, k[:, cut:], v[:, cut:], scale, causal=False) if cut < k.shape[1] else None
    if segments > 1:
        keys, values = (x[:, :cut].reshape(-1, cut // segments, x.shape[-1]) for x in (k, v))
        whole = joined(xp, make(xp, xp.repeat(q, segments, axis=0), keys, values, scale, causal=False), len(q))
    else:
        whole = make(xp, q, k, v, scale, causal=causal)
    return whole if total is None else whole.merge(total)


def segments_of(xp: Any, b: int, n_q: int, n_k: int, *, fused: bool) -> int:
    """Segments that the keys of few queries are cut into; never a matter of the number of threads or of the device.

    On the CPU only those of one problem; for the kernel as many as make `KERNEL_BLOCKS` thread blocks.
    """
    if fused:
        return max(1, min(KERNEL_BLOCKS // b, n_k // KERNEL_KEYS)) if n_q <= KERNEL_QUERIES else 1
    alone = xp is np and b == 1 and n_q <= backends.tile_shape(xp, b)[1]
    return max(1, min(MAX_SEGMENTS, n_q * n_k // SPLIT_LOGITS)) if alone else 1


def joined(xp: Any, parts: Partial, b: int) -> Partial:
    """The partials (b s, n_q) of the s segments of each of b problems, merged: (b, n_q)."""
    m, l, o = (x.reshape(b, -1, *x.shape[1:]) for x in (parts.m, parts.l, parts.o))  # noqa: E741 - the paper's letter
    top = m.max(axis=1, keepdims=True)
    weight = xp.exp(m - _finite(xp, top))
    return Partial(top[:, 0], (weight * l).sum(axis=1), (weight[..., None] * o).sum(axis=1))


def _fused_partial(xp: Any, q: Array, k: Array, v: Array, scale: float, *, causal: int) -> Partial:
    """`_partial` of half-precision arrays, by the kernel."""
    b, n, d = q.shape
    total = Partial.unwritten(xp, b * n, d)
    attend(xp, q, k, v, scale=scale, causal=bool(causal), total=total)
    return Partial(total.m.reshape(b, n), total.l.reshape(b, n), total.o.reshape(b, n, d))


def _partial(xp: Any, q: Array, k: Array, v: Array, scale: float, *, causal: int, shift: bool) -> Partial:
    """Partial of (B, n, d) arrays in the working dtype."""
    total = Partial.empty(xp, q.shape[:2], v.shape[-1], q.dtype)

    def finish(at: slice, rows: slice, p: Partial) -> None:
        total.m[at, rows], total.l[at, rows], total.o[at, rows] = p.m, p.l, p.o

    each_query_tile(xp, q, k, v, scale=scale, causal=causal, shift=shift, finish=finish)
    return total


@backends.on_device
def attention(
    q: Array,
    k: Array,
    v: Array,
    *,
    causal: bool = False,
    scale: float | None = None,
    return_lse: bool = False,
    grouped: bool = False,
    check_finite: bool = True,
) -> Any:
    """Exact softmax attention, tiled.

    Parameters
    ----------
    q : array, shape (..., n_q, d)
        Queries. NumPy, CuPy, PyTorch or JAX; float16, bfloat16, float32 or float64.
    k : array, shape (..., n_k, d)
        Keys.
    v : array, shape (..., n_k, d_v)
        Values.
    causal : bool
        Query i sees keys 0..i (`A * tril(1)`, top-left aligned when `n_q != n_k`).
    scale : float, optional
        Factor of the logits; `1/sqrt(d)` by default.
    return_lse : bool
        Return also the log normaliser.
    grouped : bool
        The heads, third axis from the last, of k and v may be fewer than those of q, and divide them: g heads of q in
        a row then read one head of k and v (grouped-query attention), which is not repeated in memory.
    check_finite : bool
        Refuse NaN and Inf.

    Returns
    -------
    out : array, shape (..., n_q, d_v)
        Of the caller's kind, device and dtype; accumulated in float32 for half precision.
    lse : array, shape (..., n_q)
        `log sum_j exp(scale <q_i, k_j>)`, if `return_lse`; float32 for half precision, in which merging by it would
        lose more than the output does.

    Raises
    ------
    TypeError, ValueError
        Not floating arrays of one kind, dtype and device; shapes that do not fit; empty, NaN or Inf input.

    Notes
    -----
    `O(n_q n_k (d + d_v))` operations, `O(n (d + d_v))` memory [RS21]. Logits up to 1e4 in size are safe. Finite input
    gives a finite answer, or is refused where logits may be past the largest float. On a GPU,
    float16 and bfloat16 arrays of a head dimension in `core.attend.DIMENSIONS` (`d = d_v`) run on tensor cores; float32
    and float64 take tiles of matrix products.

    Examples
    --------
    >>> import numpy as np
    >>> from sublinattn import attention
    >>> q, k, v = np.random.default_rng(0).standard_normal((3, 2, 100, 8))  # two heads, 100 tokens, width 8
    >>> attention(q, k, v).shape
    (2, 100, 8)
    >>> out, lse = attention(q, k, v, causal=True, return_lse=True)
    >>> np.allclose(out[:, 0], v[:, 0])  # the first token sees itself alone
    True
    """
    xp, arrays, leave = backends.enter(q=q, k=k, v=v)
    checks.flags(return_lse=return_lse, grouped=grouped)
    checks.shapes(*arrays, grouped=grouped)
    if q.shape[-2] > KERNEL_QUERIES and serves(xp, *arrays):
        out, lse = _fused_attention(xp, *arrays, causal=causal, scale=scale, check_finite=check_finite)
        return (leave(out), leave(lse, cast=False)) if return_lse else leave(out)
    p = partial_attention(q, k, v, causal=causal, scale=scale, grouped=grouped, check_finite=check_finite)
    out = p.output()
    checks.representable(xp, out, *arrays)
    return (leave(out), leave(p.lse(), cast=False)) if return_lse else leave(out)


def _fused_attention(
    xp: Any, q: Array, k: Array, v: Array, *, causal: bool, scale: float | None, check_finite: bool
) -> tuple[Array, Array]:
    """Output and lse of half-precision arrays, by the kernel, without a float32 partial in between."""
    checks.flags(causal=causal)
    shape, d = q.shape[:-1], q.shape[-1]
    flat = (x.reshape(-1, *x.shape[-2:]) for x in (q, k, v))
    out, lse = xp.empty((math.prod(shape), d), q.dtype), xp.empty(math.prod(shape), np.float32)
    with checks.finite(xp, check_finite, q=q, k=k, v=v):
        attend(xp, *flat, scale=checks.resolve_scale(scale, d), causal=causal, out=out, lse=lse)
    return out.reshape(*shape, d), lse.reshape(shape)
