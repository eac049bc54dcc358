"""Nystrom attention: the softmax matrix from its rows and columns at a few landmarks.

Source: [NYS21] Xiong, Zeng, Chakraborty, Tan, Fung, Li, Singh, *Nystromformer: A Nystrom-Based Algorithm for
Approximating Self-Attention*, AAAI 2021, arXiv 2102.03902: Algorithm 1 (the pipeline), eq. 13 (three softmax matrices),
eq. 14 (the iterative pseudo-inverse).

With `m` landmarks: `softmax(s Q K~^T) Z softmax(s Q~ K^T) V`, where `Q~`, `K~` are the means of `m` segments of
consecutive queries and keys, and `Z` approaches the pseudo-inverse of `softmax(s Q~ K~^T)`.

Cost: `O((n_q + n_k) m (d + d_v) + m^3)` operations, `m` key columns for each query (and `n_k` for each landmark query),
`O(m (d + d_v + m))` numbers besides input and output. Guarantee: none for a finite `m`; with one landmark per key it is
exact.

Differs from the paper in:

1. Where `m` divides the sequence unevenly, segments differ by one row in length; nothing is padded.
2. Queries and keys may differ in number. As in the authors' public code, `m = n_q = n_k` is exact attention.
3. `Z_0 = A^T / (||A||_1 ||A||_inf)` is that of each problem, as in the paper; the public code divides by the largest
   `||A||_1` of the whole batch, so that a head's answer there depends on the other heads.
4. No depthwise convolution of the values is added (it has trained weights).

A causal mask is refused: the landmarks are means over the whole sequence.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from ...core import backends, checks
from ...core.backends import Array
from ...core.exact import attention
from .common import Problem, enter, refuse_causal

LANDMARKS = 64
ITERATIONS = 1000
"""At most: they converge to third order, and stop changing after a few dozen."""


@backends.on_device
def nystrom_attention(
    q: Array,
    k: Array,
    v: Array,
    *,
    landmarks: int | None = None,
    iterations: int = 6,
    causal: bool = False,
    scale: float | None = None,
    check_finite: bool = True,
) -> Any:
    """Attention through `landmarks` means of queries and keys [NYS21, Algorithm 1]. Nothing is random.

    Parameters
    ----------
    q, k, v : array, shapes (..., n_q, d), (..., n_k, d), (..., n_k, d_v)
        As `attention`.
    landmarks : int, optional
        `m`, key columns per query: at most the number of queries and that of keys. By default 64, or as many as there
        are where there are fewer.
    iterations : int
        Steps of the iterative pseudo-inverse, 6 as in the paper.
    causal : bool
        Only False: a landmark is a mean over past and future.
    scale : float, optional
        `1/sqrt(d)` by default.
    check_finite : bool
        Refuse NaN and Inf.

    Returns
    -------
    out : array, shape (..., n_q, d_v)
        Of the caller's kind, device and dtype. Rows of the approximate matrix may have negative entries, and sum to 1
        only as far as `Z` is the inverse: there is no normaliser to return.

    Raises
    ------
    TypeError, ValueError
        As `attention`; `landmarks` or `iterations` out of range; `causal=True`.

    Examples
    --------
    >>> import numpy as np
    >>> from sublinattn import attention, nystrom_attention
    >>> q, k, v = np.random.default_rng(0).standard_normal((3, 2048, 16))
    >>> exact = attention(q, k, v + 1)
    >>> out = nystrom_attention(q, k, v + 1, landmarks=128)
    >>> print(f"{np.linalg.norm(out - exact) / np.linalg.norm(exact):.2f}")
    0.03
    """
    refuse_causal(causal, "a landmark of Nystrom attention is a mean over past and future tokens")
    x = enter(q, k, v, scale=scale, check_finite=check_finite)
    most = min(x.q.shape[1], x.k.shape[1])
    if landmarks is None:
        landmarks = min(LANDMARKS, most)
    elif (landmarks := checks.integer("landmarks", landmarks, minimum=1)) > most:
        raise ValueError(f"landmarks must be at most the numbers of queries and of keys ({most}), got {landmarks}")
    iterations = checks.integer("iterations", iterations, minimum=0, maximum=ITERATIONS)
    return x.leave_output(_nystrom(x, landmarks, iterations))


def _nystrom(x: Problem, m: int, iterations: int) -> Array:
    """Output (B, n_q, d_v)."""
    xp, exact = x.xp, partial(attention, scale=x.scale, check_finite=False)
    if x.q.shape[1] == x.k.shape[1] == m:
        return exact(x.q, x.k, x.v)
    q, k = segment_means(xp, x.q, m), segment_means(xp, x.k, m)
    z = pseudo_inverse(xp, softmax(xp, xp.matmul(x.scale * q, k.swapaxes(1, 2))), iterations)
    values = xp.matmul(z, exact(q, x.k, x.v))  # Z B V, and F (Z B V) is attention over the landmark keys
    return exact(x.q, k, values)


def segment_means(xp: Any, x: Array, m: int) -> Array:
    """Means (B, m, d) of m segments of consecutive rows of x (B, n, d); the first `n % m` are one row longer."""
    b, n, d = x.shape
    size, longer = divmod(n, m)
    cut = longer * (size + 1)
    parts = (x[:, :cut].reshape(b, longer, size + 1, d), x[:, cut:].reshape(b, m - longer, size, d))
    return xp.concatenate([part.mean(axis=2) for part in parts if part.size], axis=1)


def softmax(xp: Any, logits: Array) -> Array:
    """Softmax of the last axis."""
    weights = xp.exp(logits - logits.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def pseudo_inverse(xp: Any, a: Array, iterations: int) -> Array:
    """Approximate pseudo-inverses of stochastic matrices a (B, m, m) [NYS21, eq. 14].

    `Z <- Z (13 I - A Z (15 I - A Z (7 I - A Z))) / 4`, whose residual `I - A Z` falls with its third power.
    """
    eye = xp.eye(a.shape[-1], dtype=a.dtype)
    z = a.swapaxes(1, 2) / a.sum(axis=1).max(axis=-1)[:, None, None]  # ||A||_inf = 1: rows sum to 1
    for _ in range(iterations):
        az = xp.matmul(a, z)
        z = xp.matmul(z, 13 * eye - xp.matmul(az, 15 * eye - xp.matmul(az, 7 * eye - az))) / 4
    return z
