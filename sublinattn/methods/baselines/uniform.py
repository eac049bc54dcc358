"""Attention over keys sampled uniformly, the yardstick of every error figure.

Source: none; it is the plainest sampling there is. On independent Gaussian inputs every sampling method has a large
relative error, so that an error means little without the one that plain sampling has at the same number of keys per
query. Cost: `O(n_q m (d + d_v))` operations for `m` sampled keys.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...core import backends, checks
from ...core.attend import attend, serves
from ...core.backends import Array
from ...core.exact import attention
from ...primitives.sampling import sample_without_replacement


@backends.on_device
def uniform_attention(
    q: Array,
    k: Array,
    v: Array,
    *,
    sample_size: int,
    scale: float | None = None,
    rng: np.random.Generator | int | None = None,
    return_lse: bool = False,
    check_finite: bool = True,
) -> Any:
    """Exact attention over `sample_size` keys drawn uniformly without replacement, the same for all queries (no mask).

    Parameters
    ----------
    q, k, v : array, shapes (..., n_q, d), (..., n_k, d), (..., n_k, d_v)
        As `attention`. Leading axes have draws of their own.
    sample_size : int
        `m`, key columns touched per query; at `n_k` the result is exact.
    scale : float, optional
        `1/sqrt(d)` by default.
    rng : Generator, int or None
        Source of the draws.
    return_lse : bool
        Return also the log normaliser, raised by `log(n_k / m)`: unbiased on the scale of the normaliser.
    check_finite : bool
        Refuse NaN and Inf.

    Returns
    -------
    out : array, shape (..., n_q, d_v)
        Of the caller's kind, device and dtype. `O(n_q m d)` operations.

    Raises
    ------
    TypeError, ValueError
        As `attention`; `sample_size` not in 1..n_k.
    """
    xp, (q, k, v), leave = backends.enter(q=q, k=k, v=v)
    checks.flags(return_lse=return_lse)
    checks.shapes(q, k, v)
    n_k = k.shape[-2]
    if checks.integer("sample_size", sample_size, minimum=1) > n_k:
        raise ValueError(f"sample_size must be at most the number of keys ({n_k}), got {sample_size}")
    generator = checks.generator(rng)
    dtype, shape = backends.working_dtype(q), q.shape
    batch, fused = int(np.prod(k.shape[:-2])), serves(xp, q, k, v)
    if not fused:
        checks.largest_norms(xp, check_finite, q=q, k=k, v=v)  # all keys: an error must not depend on the draw
    rows = sample_without_replacement(xp, generator, batch, n_k, sample_size)
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
