"""Attention over keys sampled uniformly, the yardstick of every error figure.

Source: none; it is the plainest sampling there is. On independent Gaussian inputs every sampling method has a large
relative error, so that an error means little without the one that plain sampling has at the same number of keys per
query. Cost: `O(n_q m (d + d_v))` operations for `m` sampled keys.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...core import backends, checks
from ...core.backends import Array
from ...core.exact import attention


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
    dtype = backends.working_dtype(q)
    q, k, v = (x.astype(dtype, copy=False) for x in (q, k, v))
    checks.largest_norms(xp, check_finite, q=q, k=k, v=v)  # all keys: an error must not depend on the draw
    batch = int(np.prod(k.shape[:-2]))
    rows = np.stack([generator.choice(n_k, sample_size, replace=False, shuffle=False) for _ in range(batch)])
    index = backends.to_device(rows.reshape(*k.shape[:-2], sample_size, 1), xp)
    k, v = (xp.take_along_axis(x, index, axis=-2) for x in (k, v))
    out, lse = attention(q, k, v, scale=scale, return_lse=True, check_finite=False)
    return (leave(out), leave(lse + float(np.log(n_k / sample_size)), cast=False)) if return_lse else leave(out)
