"""Attention by plain loops in float64: what the fast code is held to."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.special import logsumexp

from sublinattn.core import backends
from sublinattn.methods.hyperattention.sort_lsh import buckets


def on(xp: Any, function: Callable[..., Any], arrays: Any, **options: Any) -> Any:
    """What `function` makes of host arrays moved to `xp`, back on the host: an array, or a tuple of them."""
    result = function(*(xp.asarray(x) for x in arrays), **options)
    return tuple(backends.asnumpy(x) for x in result) if isinstance(result, tuple) else backends.asnumpy(result)


def assert_close(results: Any, expected: Any, rtol: float = 1e-10, atol: float | None = None) -> None:
    """Pairs of arrays, such as output and lse, agree; `atol` is `rtol` by default."""
    for x, y in zip(results, expected, strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=rtol if atol is None else atol)


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


def dense_attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, *, causal: bool = False) -> Any:
    """Output and `lse` of one problem through the whole matrix of logits at once."""
    logits = q @ k.T / math.sqrt(q.shape[1])
    if causal:
        logits = np.where(np.tri(*logits.shape, dtype=bool), logits, -np.inf)
    largest = logits.max(axis=1, keepdims=True)
    weights = np.exp(logits - largest)
    sums = weights.sum(axis=1, keepdims=True)
    return weights @ v / sums, (largest + np.log(sums))[:, 0]


def dense_kappa(q: np.ndarray, k: np.ndarray, planes: np.ndarray, block: int) -> float:
    """Ratio of row sums outside the sortLSH mask, from the dense matrix and a dense mask."""
    (n_q, d), n_k = q.shape, len(k)
    q_rank, k_rank = (
        np.argsort(np.argsort(buckets(np, x[None], planes[None])[0], kind="stable"), kind="stable") for x in (q, k)
    )
    outside = q_rank[:, None] // -(-block * n_q // n_k) != k_rank[None, :] // block
    sums = logsumexp(np.where(outside, q @ k.T / np.sqrt(d), -np.inf), axis=1)
    with np.errstate(over="ignore"):
        return float(np.exp(sums.max() - sums.min()))


def z_score(estimates: Any, truth: float) -> float:
    """How many standard errors the mean of independent estimates lies above the truth."""
    return float((np.mean(estimates) - truth) / (np.std(estimates, ddof=1) / math.sqrt(len(estimates))))


def qkv(
    seed: int, n_q: int, n_k: int, *, lead: tuple[int, ...] = (), d: int = 4, d_v: int = 3, size: float = 1.0,
    dtype: Any = np.float64,
) -> list[np.ndarray]:  # fmt: skip
    """Gaussian queries, keys and values; logits are of size `size**2`."""
    rng = np.random.default_rng(seed)
    factors = (size, size, 1.0)
    shapes = ((n_q, d), (n_k, d), (n_k, d_v))
    return [(f * rng.standard_normal((*lead, *shape))).astype(dtype) for f, shape in zip(factors, shapes, strict=True)]


def distance(x: Any, y: Any) -> float:
    return math.dist([float(a) for a in x], [float(b) for b in y])


def greedy_k_center(k: np.ndarray, m: int, start: int = 0) -> tuple[list[int], list[float]]:
    """At most m centres, each the first of the farthest points from those before, and the radius after each."""
    centres, radii, nearest = [start], [], [math.inf] * len(k)
    while True:
        nearest = [min(x, distance(point, k[centres[-1]])) for x, point in zip(nearest, k, strict=True)]
        radii.append(max(nearest))
        if len(centres) == m or radii[-1] == 0:
            return centres, radii
        centres.append(nearest.index(radii[-1]))


# ------------------------------------------------------------------------------------- polynomials, monomials, sketches
def exponents(d: int, degree: int) -> list[tuple[int, ...]]:
    """Exponents of all monomials of degree at most `degree` in `d` variables, by trying every combination."""
    return [a for a in itertools.product(range(degree + 1), repeat=d) if sum(a) <= degree]


def polynomial_attention(
    coefficients: Any, q: Any, k: Any, v: Any, *, scale: float | None = None, causal: bool = False
) -> np.ndarray:
    """Attention with the polynomial in place of exp, entry by entry, of every problem of `(..., n, d)` arrays."""
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    out = np.zeros((*q.shape[:-1], v.shape[-1]))
    for at in np.ndindex(q.shape[:-2]):
        logits = scale * q[at].astype(np.float64) @ k[at].astype(np.float64).T
        entries = sum(c * logits**power for power, c in enumerate(coefficients))
        if causal:
            entries = np.tril(entries)
        out[at] = entries @ v[at].astype(np.float64) / entries.sum(axis=1, keepdims=True)
    return out


def sketching_matrix(hash: Any, n: int) -> np.ndarray:
    """CountSketch as a matrix, shape (r, w, n), by integer arithmetic: the cubic's low bit is the sign."""
    out = np.zeros((len(hash.coefficients), hash.width, n))
    for table, (a, b, c, d) in enumerate(hash.coefficients.tolist()):
        for i in range(n):
            value = (a * i**3 + b * i**2 + c * i + d) % (2**31 - 1)
            out[table, (value // 2) * hash.width // 2**30, i] = -1 if value % 2 else 1
    return out


def counting_matrix(hash: Any, n: int, tables: int) -> np.ndarray:
    """The bit counters beside it, shape (tables, w, bits, n): counter j takes the indices whose bit j is 1."""
    bits = [[i >> j & 1 for i in range(n)] for j in range(max(1, (n - 1).bit_length()))]
    return sketching_matrix(hash, n)[:tables, :, None, :] * np.array(bits)


def array_bytes(x: Any, seen: set[int] | None = None) -> int:
    """Bytes of all arrays within an object: its attributes', its lists', theirs."""
    seen = set() if seen is None else seen
    if id(x) in seen or isinstance(x, (str, bytes, np.dtype, np.generic)):
        return 0
    seen.add(id(x))
    if hasattr(x, "nbytes") and hasattr(x, "dtype"):
        return int(x.nbytes)
    parts = x.values() if isinstance(x, dict) else x if isinstance(x, (list, tuple)) else getattr(x, "__dict__", {})
    return sum(array_bytes(part, seen) for part in (parts.values() if isinstance(parts, dict) else parts))
