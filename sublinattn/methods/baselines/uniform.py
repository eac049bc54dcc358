"""Attention over keys sampled uniformly, the yardstick of every error figure.

Source: none; it is the plainest sampling there is. On independent Gaussian inputs every sampling method has a large
relative error, so that an error means little without the one that plain sampling has at the same number of keys per
query. Cost: `O(n_q m (d + d_v))` operations for `m` sampled keys, and as many key columns for each query; under a
causal mask one more, the query's own.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from ...core import backends, checks
from ...core.attend import attend, serves
from ...core.backends import Array
from ...core.exact import Partial, attention
from ...primitives.sampling import sample_without_replacement
from .common import Problem, biased_attention, enter, own_key


@backends.on_device
def uniform_attention(
    q: Array,
    k: Array,
    v: Array,
    *,
    sample_size: int,
    causal: bool = False,
    replace: bool = False,
    scale: float | None = None,
    rng: np.random.Generator | int | None = None,
    return_lse: bool = False,
    check_finite: bool = True,
) -> Any:
    """Exact attention over `sample_size` keys drawn uniformly, the same for all queries.

    Parameters
    ----------
    q, k, v : array, shapes (..., n_q, d), (..., n_k, d), (..., n_k, d_v)
        As `attention`. Leading axes have draws of their own.
    sample_size : int
        `m`, key columns touched per query. Without replacement at most the number of keys, where the result is exact.
    causal : bool
        Query i sees key i, exactly, and the sampled keys before it (top-left aligned).
    replace : bool
        Draw with replacement: a key counts as often as it is drawn.
    scale : float, optional
        `1/sqrt(d)` by default.
    rng : Generator, int or None
        Source of the draws.
    return_lse : bool
        Return also the log normaliser, each sampled key weighing `n_k / m`: unbiased on the scale of the normaliser.
    check_finite : bool
        Refuse NaN and Inf.

    Returns
    -------
    out : array, shape (..., n_q, d_v)
        Of the caller's kind, device and dtype. `O(n_q m d)` operations.

    Raises
    ------
    TypeError, ValueError
        As `attention`; `sample_size` below 1, or, without `replace`, above the number of keys.

    Examples
    --------
    >>> import numpy as np
    >>> from sublinattn import attention, uniform_attention
    >>> q, k, v = np.random.default_rng(0).standard_normal((3, 2048, 16))
    >>> exact = attention(q, k, v + 1)
    >>> out = uniform_attention(q, k, v + 1, sample_size=256, rng=0)
    >>> print(f"{np.linalg.norm(out - exact) / np.linalg.norm(exact):.2f}")
    0.10
    """
    xp, (q, k, v), leave = backends.enter(q=q, k=k, v=v)
    checks.flags(return_lse=return_lse, causal=causal, replace=replace)
    checks.shapes(q, k, v)
    n_k = min(q.shape[-2], k.shape[-2]) if causal else k.shape[-2]  # under the mask no query sees the keys past n_q
    if (sample_size := checks.integer("sample_size", sample_size, minimum=1)) > n_k and not replace:
        raise ValueError(f"sample_size must be at most the number of keys ({n_k}), got {sample_size}")
    generator = checks.generator(rng)
    dtype, shape = backends.working_dtype(q), q.shape
    batch, fused = int(np.prod(k.shape[:-2])), serves(xp, q, k, v)
    width = k.shape[-1] + v.shape[-1]
    checks.fits_memory("sample_size", sample_size, dtype.itemsize * batch * sample_size * width)
    if causal:
        x = dataclasses.replace(enter(q, k, v, scale=scale, check_finite=check_finite).first_keys(n_k), cast=leave)
        sampled = _draw(xp, generator, batch, n_k, sample_size, replace=replace)
        return x.leave(_causal(x, sampled), return_lse=return_lse)
    if not fused:
        checks.largest_norms(xp, check_finite, q=q, k=k, v=v)  # all keys: an error must not depend on the draw
    rows = _draw(xp, generator, batch, n_k, sample_size, replace=replace)
    rows += n_k * xp.arange(batch, dtype=rows.dtype)[:, None]
    q = q.reshape(batch, *q.shape[-2:])
    k, v = (x.reshape(-1, x.shape[-1]) for x in (k, v))
    if fused:
        out, lse = xp.empty(q.shape, q.dtype), xp.empty(q.shape[:2], np.float32)
        with checks.finite(xp, check_finite, q=q, k=k, v=v):
            attend(xp, q, k, v, scale=checks.resolve_scale(scale, shape[-1]), k_rows=rows, out=out, lse=lse)
    else:
        k, v = (x[rows].astype(dtype, copy=False) for x in (k, v))
        out, lse = attention(q.astype(dtype, copy=False), k, v, scale=scale, return_lse=True, check_finite=check_finite)
    out, lse = out.reshape(*shape[:-1], v.shape[-1]), lse.reshape(shape[:-1])
    return (leave(out), leave(lse + float(np.log(n_k / sample_size)), cast=False)) if return_lse else leave(out)


def _draw(xp: Any, generator: np.random.Generator, batch: int, n_k: int, sample_size: int, *, replace: bool) -> Array:
    """Numbers of the sampled keys of each problem, (batch, m)."""
    if replace:
        return backends.to_device(generator.integers(n_k, size=(batch, sample_size)), xp)
    return sample_without_replacement(xp, generator, batch, n_k, sample_size)


def _causal(x: Problem, sampled: Array) -> Partial:
    """Partial of query i over key i and the sampled keys (B, m) before it, each of which stands for `n_k / m` keys."""
    xp, n_k = x.xp, x.k.shape[1]
    log_weight = float(np.log(n_k / sampled.shape[1]))

    def before(at: slice, rows: slice) -> Array:
        hidden = sampled[at, None] >= xp.arange(rows.start, rows.stop)[:, None]
        return xp.where(hidden, -np.inf, log_weight).astype(x.q.dtype)

    k, v = (xp.take_along_axis(y, sampled[..., None], axis=1) for y in (x.k, x.v))
    total = biased_attention(xp, x.q, k, v, scale=x.scale, bias=before)
    return total.merge(own_key(xp, x.q, x.k, x.v, scale=x.scale))
