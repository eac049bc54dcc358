"""The protocol of the key-value caches, and what they share: checks, softmax over the stored tokens, merging.

Keys and values are stored in the working dtype (float32 for half precision). On a GPU whose kernel (`core.attend`)
takes them, float16 and bfloat16 rows are stored as they come, and the kernel answers from them in place; a state that
meets rows, queries or another state of another dtype goes on in float32, and its file is that of a state on the CPU.
Where m tokens are stored, memory is `m (d + d_v)` numbers and a query costs `O(m (d + d_v))`. A cache merges where that
has an exact meaning.

A new cache is a class here beside the others: it names its constructor's arguments (`PARAMETERS`) and implements
`_absorb`, `_attend` and, if it is a `MergingCache`, `_take`.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from ...core import backends, checks, exact, magnitudes
from ...core.attend import attend, serves
from ...core.backends import Array
from ...core.state import StreamingState
from ..baselines.common import biased_attention


class KVCache(StreamingState):
    """Absorbs the keys and values of a stream of tokens; answers queries from the part of them that it stores.

    Every constructor refuses impossible parameters with a TypeError or ValueError.

    Attributes
    ----------
    tokens_seen : int
        Tokens so far (of each problem, where there are leading axes).
    nbytes : int
        Bytes of all arrays that the cache stores.
    """

    def __init__(self) -> None:
        super().__init__()
        self.tokens_seen = 0
        self._row_dtype: Any = None  # of the rows as they are stored, once there are any
        self._batch_shape: tuple[int, ...] = ()
        self._width: dict[str, int] = {}  # of the rows of k and v, once they are known
        self._squared: tuple[str, ...] = ()  # which of k and v have their squared norms summed: these must be finite

    def __repr__(self) -> str:
        parameters = ", ".join(f"{name}={value!r}" for name, value in self.parameters().items())
        return f"<{type(self).__name__}({parameters}): {self.tokens_seen} tokens seen, {self.nbytes} bytes>"

    @backends.on_device
    def update(self, k: Array, v: Array, *, check_finite: bool = True) -> Self:
        """Absorb one key and value, `(d,)` and `(d_v,)`, or a chunk, `(..., c, d)` and `(..., c, d_v)`; returns self.

        Parameters
        ----------
        k, v : array
            NumPy, CuPy, PyTorch or JAX. Leading axes (batch, heads) are separate problems, alike in every chunk: one
            token of each of h heads has shape (h, 1, d), as (h, d) it is h tokens of one head.
        check_finite : bool
            Refuse NaN and Inf.

        Raises
        ------
        TypeError, ValueError
            As `attention`; another width, dtype, device or other leading axes than before. The cache is then as it was.
        """
        xp, (k, v), _ = backends.enter(k=k, v=v)
        for name, x in (("k", k), ("v", v)):
            self._check_shape(name, x)
        k, v = (x.reshape(1, -1) if x.ndim == 1 else x for x in (k, v))
        if k.shape[:-1] != v.shape[:-1]:
            raise ValueError(f"v must have the leading axes and rows of k, {tuple(k.shape[:-1])}, got {tuple(v.shape)}")
        batch_shape, width = tuple(k.shape[:-2]), {"k": k.shape[-1], "v": v.shape[-1]}
        dtype = backends.working_dtype(k)
        self._check_dtype("k", dtype)
        kept = k.dtype if serves(xp, k, v) and (not self.tokens_seen or self._row_dtype == k.dtype) else dtype
        k, v = (xp.ascontiguousarray(x.astype(kept, copy=False)).reshape(-1, *x.shape[-2:]) for x in (k, v))
        norms = checks.largest_norms(xp, check_finite, k=k, v=v)
        for name, x, norm in zip("kv", (k, v), norms, strict=True):
            if name in self._squared:
                checks.check_squares(name, x, norm)
        self._follow(xp, "k")
        self._batch_shape, self._width, self._dtype = batch_shape, width, dtype
        self._meet_rows(kept)
        self._absorb(xp, k, v)
        self.tokens_seen += k.shape[1]
        return self

    @backends.on_device
    def attend(self, q: Array, *, scale: float | None = None, check_finite: bool = True) -> Any:
        """Answer one query `(d,)` or a chunk `(..., c, d)` from all tokens so far.

        Parameters
        ----------
        q : array
            Queries, with the leading axes of the keys.
        scale : float, optional
            Factor of the logits; `1/sqrt(d)` by default.
        check_finite : bool
            Refuse NaN and Inf.

        Returns
        -------
        array, shape (d_v,) or (..., c, d_v)
            Of the caller's kind, device and dtype.

        Raises
        ------
        TypeError, ValueError
            As `attention`; no tokens yet; another width, dtype, device or other leading axes than the keys'.
        """
        if not self.tokens_seen:
            raise ValueError("attend needs a cache with tokens, got an empty one: call update first")
        xp, (q,), leave = backends.enter(q=q)
        self._check_shape("q", q)
        dtype = backends.working_dtype(q)
        self._check_dtype("q", dtype)
        scale = checks.resolve_scale(scale, self._width["k"])
        if self._row_dtype != q.dtype:
            self._meet_rows(dtype)
        rows = xp.ascontiguousarray(q.astype(self._row_dtype, copy=False))
        rows = rows.reshape(-1, 1 if q.ndim == 1 else q.shape[-2], q.shape[-1])
        checks.largest_norms(xp, check_finite, q=rows)
        self._follow(xp, "q")
        out = self._attend(xp, rows, scale)
        checks.representable(xp, out, rows, state=self)
        return leave(out.reshape(*q.shape[:-1], self._width["v"]))

    def _meet_rows(self, dtype: Any) -> None:
        """Be a state whose rows have the dtype of others: stored rows in half precision become float32 ones."""
        if self.tokens_seen and self._row_dtype != dtype:
            self._widen()
        self._row_dtype = dtype

    def _widen(self) -> None:
        """Bring the stored rows to the working dtype."""
        self._stored = {name: backends.widened(x) for name, x in self._stored.items()}

    # ------------------------------------------------------------------------------------- what a new cache implements
    def _absorb(self, xp: Any, k: Array, v: Array) -> None:
        """Take rows k (B, c, d), v (B, c, d_v), contiguous, as they are stored; `tokens_seen` is from before them."""
        raise NotImplementedError

    def _attend(self, xp: Any, q: Array, scale: float) -> Array:
        """Answers (B, c, d_v) to queries (B, c, d), which have the stored rows' dtype."""
        raise NotImplementedError

    # ------------------------------------------------------------------------------------------------ checks and file
    def _check_shape(self, name: str, x: Array) -> None:
        """Refuse rows of another width, or with other leading axes, than those before; and none at all."""
        width = self._width.get("v" if name == "v" else "k", x.shape[-1] if x.ndim else 0)
        batch_shape = self._batch_shape if self.tokens_seen else tuple(x.shape[:-2])
        fits = x.ndim and x.shape[-1] == width and tuple(x.shape[:-2]) == batch_shape
        if not fits or (x.ndim == 1 and batch_shape):
            chunk = f"({''.join(f'{size}, ' for size in batch_shape)}c, {width})"
            expected = chunk if batch_shape else f"({width},) or {chunk}"
            raise ValueError(f"{name} must have shape {expected}, got {tuple(x.shape)}")
        if 0 in x.shape:
            raise ValueError(f"{name} must not be empty, got shape {tuple(x.shape)}")

    def _on_file(self) -> dict[str, Array]:
        return {name: backends.widened(x) for name, x in self.contents().items()}

    def _about(self) -> dict[str, Any]:
        return {
            "parameters": self.parameters(),
            "state": {},
            "tokens_seen": self.tokens_seen,
            "lead": self._batch_shape,
            "width": self._width,
            "dtype": self._dtype and str(self._dtype),
        }

    def _restore(self, about: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        self.tokens_seen, self._batch_shape, self._width = about["tokens_seen"], tuple(about["lead"]), about["width"]
        self._dtype = self._row_dtype = None if about["dtype"] is None else np.dtype(about["dtype"])
        self._stored = arrays


class MergingCache(KVCache):
    """A cache that can take over what another one stores; the subclass says what a merged cache is."""

    def __init__(self) -> None:
        super().__init__()
        self._seeds: list[int] = []  # of its draws: its own, then those of the caches merged into it

    @backends.on_device
    def merge(self, other: Self) -> Self:
        """Add the tokens of `other`, which saw a stream of its own, as if they came after this one's; returns self.

        `other` is left as it was.

        Raises
        ------
        TypeError, ValueError
            Another class; other parameters, leading axes, widths or dtype; draws in common.
        """
        self._check_mergeable(other)
        if not other.tokens_seen:
            return self
        xp = self._meet(other)
        if not self.tokens_seen:
            self._batch_shape, self._width, self._dtype = other._batch_shape, other._width, other._dtype
            self._row_dtype = other._row_dtype
        kept = self._row_dtype if self._row_dtype == other._row_dtype else self._dtype
        self._meet_rows(kept)
        theirs = {name: backends.to_device(x, xp) for name, x in other._stored.items()}
        if other._row_dtype != kept:
            theirs = {name: backends.widened(x) for name, x in theirs.items()}
        self._take(xp, other, theirs)
        self._seeds += other._seeds
        self.tokens_seen += other.tokens_seen
        return self

    def _check_mergeable(self, other: Any) -> None:
        super()._check_mergeable(other)
        if self._width and other._width:
            both_seen = self.tokens_seen and other.tokens_seen
            mine, theirs = ((c._batch_shape if both_seen else (), c._width) for c in (self, other))
            if mine != theirs:
                raise ValueError(f"other must have this state's leading axes and widths {mine}, got {theirs}")
        if set(self._seeds) & set(other._seeds):
            raise ValueError("other must have draws of its own: make the caches with different rng")

    def _take(self, xp: Any, other: Any, theirs: dict[str, Array]) -> None:
        """Take over from `other`, which has tokens; `theirs` are its stored arrays, on this cache's device."""
        raise NotImplementedError


def budget_and_recent(budget: Any, recent: Any) -> tuple[int, int]:
    """Both as integers, the recent tokens within the budget."""
    budget = checks.integer("budget", budget, minimum=1)
    recent = checks.integer("recent", recent, minimum=0)
    if recent > budget:
        raise ValueError(f"recent must be at most budget ({budget}), got {recent}")
    return budget, recent


def joined(xp: Any, stored: dict[str, Array], **rows: Array) -> dict[str, Array]:
    """The rows (B, c, ...) after those stored under the same names; copies."""
    return {name: xp.concatenate([stored[name], x], axis=1) if stored else x.copy() for name, x in rows.items()}


def picked(xp: Any, stored: dict[str, Array], index: Array) -> dict[str, Array]:
    """Of each problem the tokens `index` (B, m)."""
    deep = index[:, :, None]
    return {name: xp.take_along_axis(x, index if x.ndim == 2 else deep, axis=1) for name, x in stored.items()}


# -------------------------------------------------------------------------------------------------------- the answers
def softmax_over(xp: Any, stored: dict[str, Array], used: int, q: Array, scale: float) -> exact.Partial:
    """Exact attention over the first `used` stored tokens; safe for logits up to 1e4."""
    if serves(xp, q, stored["keys"], stored["values"]):
        return over_slots(xp, q, stored["keys"], stored["values"], scale=scale, used=used)
    k, v = (stored[name][:, :used] for name in ("keys", "values"))
    return exact.partial_attention(q, k, v, scale=scale, check_finite=False)


def softmax_weighted(xp: Any, q: Array, k: Array, v: Array, log_weights: Array, scale: float) -> exact.Partial:
    """Exact attention over k (B, m, d), v (B, m, d_v) where key j counts `exp(log_weights[b, j])` times.

    Where numbers on the way to the logits may overflow, powers of two prevent it: on the CPU if the sums show that they
    did, on a GPU, which would be waited for, if the scale is extreme.
    """
    if serves(xp, q, k, v):
        return over_slots(xp, q, k, v, scale=scale, log_weights=log_weights.astype(np.float32, copy=False))
    # The exponential of a sum is safe where a factor would overflow.
    bias = log_weights.astype(q.dtype, copy=False)[:, None]

    def summed(q: Array, k: Array, scale: float) -> exact.Partial:
        return biased_attention(xp, q, k, v, scale=scale, bias=lambda at, rows: bias[at])

    if magnitudes.moderate(scale):
        total = summed(q, k, scale)
        if xp is not np or np.isfinite(total.o).all():
            return total
    q_norm, k_norm = checks.largest_norms(xp, False, q=q, k=k)
    return summed(*magnitudes.fit_logits(xp, q, k, scale, q_norm, k_norm))


def over_slots(
    xp: Any,
    q: Array,
    keys: Array,
    values: Array,
    *,
    scale: float,
    used: int | None = None,
    log_weights: Array | None = None,
) -> exact.Partial:
    """Attention of q (B, t, d) over the first `used` keys and values (B, m, d), arrays that `serves` accepts.

    Key j counts `exp(log_weights[b, j])` times, (B, used). The keys of few queries are cut into parts, which fill the
    GPU. The kernel reads keys and values where they are, by row numbers unless all slots are used.
    """
    (b, t, d), m = q.shape, keys.shape[1]
    used = m if used is None else used
    parts = exact.segments_of(xp, b, t, used, fused=True)
    slots = parts * -(-used // parts)
    if slots > used:  # what fills up the last part does not count
        padded = xp.full((b, slots), -np.inf, np.float32)
        padded[:, :used] = 0 if log_weights is None else log_weights
        log_weights = padded
    rows, n, lists = None, b * parts * t, (b * parts, slots // parts)
    if slots == m:
        keys, values = (x.reshape(*lists, d) for x in (keys, values))
    else:
        row = xp.minimum(xp.arange(slots, dtype=np.int32), used - 1)
        rows = (xp.arange(0, b * m, m, dtype=np.int32)[:, None] + row).reshape(lists)
        keys, values = (x.reshape(-1, d) for x in (keys, values))
    total = exact.Partial.unwritten(xp, n, d)
    attend(
        xp,
        xp.repeat(q, parts, axis=0) if parts > 1 else q,
        keys,
        values,
        scale=scale,
        k_rows=rows,
        log_weights=None if log_weights is None else log_weights.reshape(lists),
        total=total,
    )
    whole = exact.Partial(*(x.reshape(b * parts, t, *x.shape[1:]) for x in (total.m, total.l, total.o)))
    return exact.joined(xp, whole, b) if parts > 1 else whole


def ratio_of(
    xp: Any, numerators: list[tuple[Array, Array]], normalisers: list[tuple[Array, Array]], bound: Array | None = None
) -> Array:
    """`z / tau`, the sum of the numerators over that of the normalisers, `exp(m) o`; entries cut to `bound` (h, 1, 1).

    The two sums have references of their own: a slot's largest logit may lie far above the clusters' samples, and the
    ratio is then large, but no 0/0.
    """
    above, below = (_largest(xp, [m for m, _ in sums]) for sums in (numerators, normalisers))
    z = sum(xp.exp(m - above)[..., None] * o for m, o in numerators)
    tau = sum(xp.exp(m - below)[..., None] * o for m, o in normalisers)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        half = xp.exp((above - below) / 2)[..., None]  # twice: a small ratio times a large factor may be neither
        ratio = z / tau * half * half
    ratio = xp.where(z == 0, 0, ratio)
    return ratio if bound is None else xp.clip(ratio, -bound, bound)


def _largest(xp: Any, references: list[Array]) -> Array:
    largest = xp.stack(references).max(axis=0)
    return xp.where(xp.isfinite(largest), largest, 0)  # of numerators there may be none yet
