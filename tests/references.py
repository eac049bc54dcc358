"""Attention by plain loops in float64: what the fast code is held to."""

from __future__ import annotations

import math
from typing import Any

import numpy as np


def softmax_matrix(q: Any, k: Any, *, scale: float, causal: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Dense `P` and `lse` of one problem."""
    n_q, n_k = len(q), len(k)
    p, lse = np.zeros((n_q, n_k)), np.zeros(n_q)
    for i in range(n_q):
        seen = range(min(i + 1, n_k) if causal else n_k)
        logits = [scale * math.fsum(float(a) * float(b) for a, b in zip(q[i], k[j], strict=True)) for j in seen]
        top = max(logits)
        lse[i] = top + math.log(math.fsum(math.exp(x - top) for x in logits))
        for j, x in zip(seen, logits, strict=True):
            p[i, j] = math.exp(x - lse[i])
    return p, lse


def attention(
    q: Any, k: Any, v: Any, *, scale: float | None = None, causal: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Output and `lse` of every problem of `(..., n, d)` arrays."""
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    out, lse = np.zeros((*q.shape[:-1], v.shape[-1])), np.zeros(q.shape[:-1])
    for at in np.ndindex(q.shape[:-2]):
        p, lse[at] = softmax_matrix(q[at], k[at], scale=scale, causal=causal)
        out[at] = p @ v[at].astype(np.float64)
    return out, lse


def qkv(
    seed: int, n_q: int, n_k: int, *, lead: tuple[int, ...] = (), d: int = 4, d_v: int = 3, size: float = 1.0,
    dtype: Any = np.float64,
) -> list[np.ndarray]:  # fmt: skip
    """Gaussian queries, keys and values; logits are of size `size**2`."""
    rng = np.random.default_rng(seed)
    factors = (size, size, 1.0)
    shapes = ((n_q, d), (n_k, d), (n_k, d_v))
    return [(f * rng.standard_normal((*lead, *shape))).astype(dtype) for f, shape in zip(factors, shapes, strict=True)]
