"""Thinformer: attention over a coreset of keys and values that repeated kernel halving keeps.

Source: [THIN25] Carrell, Gong, Shetty, Dwivedi, Mackey, *Low-Rank Thinning*, ICML 2025, arXiv 2502.12063: Thinformer
attention, by KH-Compress(g) (kernel halving of consecutive buckets that grow twofold) with the kernel
`exp(s <k, k'>) (<v, v'> + max|V|^2)`.

Cost: with oversampling `g` about `2^g sqrt(n_k)` key columns for each query; halving takes `O(4^g n_k (d + d_v))`
operations for each of the `log2(sqrt(n_k) / 2^g)` rounds, in at most `2^g sqrt(n_k)` steps one after the other, and
`O(4^g n_k)` numbers. Guarantee: the paper bounds the largest error of an entry, with probability at least 1/2.

Differs from the paper, and from the authors' public code, in:

1. Any number of keys. The public code keeps every `n_k // n`-th key, `n` the largest power of four below, and drops the
   rest. Here the last bucket may be short, and where it is odd its last key is set aside with the weight that it has;
   the number of rounds is the least after which at most `2^g sqrt(n_k)` keys are left, besides these. Where `n_k` is a
   power of four the two agree.
2. Each bucket tosses its own coin between its coreset and the complement. The public code tosses one for all buckets,
   heads and batch entries of a round, although its docstring says otherwise.

A causal mask is refused: one coreset serves all queries ([EXP26] makes it causal).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...core import backends, checks
from ...core.backends import Array
from ...core.exact import partial_attention
from .common import Problem, biased_attention, enter, refuse_causal

Draws = list[tuple[np.ndarray, np.ndarray]]
"""Of each batch of equal buckets: numbers in [-1, 1) for their pairs (B, buckets, pairs), and coins (B, buckets)."""


@backends.on_device
def thinformer_attention(
    q: Array,
    k: Array,
    v: Array,
    *,
    oversampling: int = 2,
    delta: float = 0.5,
    causal: bool = False,
    scale: float | None = None,
    rng: np.random.Generator | int | None = None,
    return_lse: bool = False,
    check_finite: bool = True,
) -> Any:
    """Attention over about `2^oversampling sqrt(n_k)` keys, chosen by kernel halving [THIN25].

    Parameters
    ----------
    q, k, v : array, shapes (..., n_q, d), (..., n_k, d), (..., n_k, d_v)
        As `attention`. Leading axes have coresets of their own.
    oversampling : int
        `g`: about `2^g sqrt(n_k)` key columns per query. Exact where that is `n_k` or more.
    delta : float
        Failure probability of kernel halving, in (0, 1]: a smaller one makes swaps more random.
    causal : bool
        Only False: one coreset serves all queries.
    scale : float, optional
        `1/sqrt(d)` by default; at least 0 (the halving's kernel must be positive definite).
    rng : Generator, int or None
        Source of the draws, on the host.
    return_lse : bool
        Return also the log of the estimated normaliser, each key of the coreset standing for as many as it replaces.
    check_finite : bool
        Refuse NaN and Inf.

    Returns
    -------
    out : array, shape (..., n_q, d_v)
        Of the caller's kind, device and dtype.

    Raises
    ------
    TypeError, ValueError
        As `attention`; parameters out of range; `causal=True`; on the CPU keys whose squared norms, or these times
        scale, overflow.

    Examples
    --------
    >>> import numpy as np
    >>> from sublinattn import attention, thinformer_attention
    >>> q, k, v = np.random.default_rng(0).standard_normal((3, 2048, 16))
    >>> exact = attention(q, k, v + 1)
    >>> out = thinformer_attention(q, k, v + 1, oversampling=2, rng=0)
    >>> print(f"{np.linalg.norm(out - exact) / np.linalg.norm(exact):.2f}")
    0.15
    """
    refuse_causal(causal, "one coreset of Thinformer serves all queries, early and late")
    x = enter(q, k, v, scale=scale, check_finite=check_finite)
    checks.flags(return_lse=return_lse)
    g = checks.integer("oversampling", oversampling, minimum=0, maximum=31)  # 2^31 sqrt(n) is past n for any index
    checks.between("delta", delta, 1e-100, 1)  # a smaller one over the numbers of keys and rounds would be 0
    if x.scale < 0:
        raise ValueError(f"scale must be at least 0, got {scale}")
    generator = checks.generator(rng)
    b, n, _ = x.k.shape
    rounds = halving_rounds(n, g)
    if not rounds:
        exact = partial_attention(x.q, x.k, x.v, scale=x.scale, check_finite=False)
        return x.leave(exact, return_lse=return_lse)
    plan = schedule(n, g, rounds)
    draws = [(generator.uniform(-1, 1, (b, m, s // 2)), generator.integers(2, size=(b, m))) for m, s in sum(plan, [])]
    rows, weights = coreset(x, g, delta, draws)
    k, v = (x.xp.take_along_axis(y, rows[..., None], axis=1) for y in (x.k, x.v))
    log_weights = backends.to_device(np.log(weights).astype(x.q.dtype), x.xp)
    total = biased_attention(x.xp, x.q, k, v, scale=x.scale, bias=lambda at, rows: log_weights)
    return x.leave(total, return_lse=return_lse)


def halving_rounds(n: int, g: int) -> int:
    """The least number of halvings that leave at most `2^g sqrt(n)` of n keys."""
    rounds = 0
    while n > 4 ** (g + rounds):  # n / 2^rounds > 2^g sqrt(n)
        rounds += 1
    return rounds


def schedule(n: int, g: int, rounds: int) -> list[list[tuple[int, int]]]:
    """Of each round: numbers of buckets and their sizes, all even. An odd last key is set aside before the round."""
    plan, size = [], 4 ** (g + 1)
    for _ in range(rounds):
        n -= n % 2
        full, rest = divmod(n, size)
        plan.append([(m, s) for m, s in ((full, size), (1, rest)) if m and s])
        n, size = n // 2, 2 * size
    return plan


def coreset(x: Problem, g: int, delta: float, draws: Draws) -> tuple[Array, np.ndarray]:
    """Numbers (B, c) of the keys that KH-Compress(g) keeps, and how many keys each stands for (c,)."""
    xp, (b, n, _) = x.xp, x.k.shape
    rounds = halving_rounds(n, g)
    plan = schedule(n, g, rounds)
    chance = delta / 4 ** (g + 1) / rounds / n  # of failure, for each pair of keys in a bucket
    on_device = [tuple(backends.to_device(y, xp) for y in pair) for pair in draws]
    kept = sum(s // 2 * m for m, s in plan[-1])
    left = [2**i for i in range(rounds) if n >> i & 1]  # an odd last key before round i stands for 2^i
    out = xp.empty((b, kept + len(left)), np.int64)

    def thin(at: slice) -> None:
        k, v = x.k[at], x.v[at]
        with np.errstate(over="ignore"):
            shift = x.scale * backends.row_squares(xp, k).max(axis=1)[:, None, None, None]
        if xp is np and not (shift < np.finfo(k.dtype).max / 2).all():  # a GPU would be waited for
            raise ValueError(f"k must have rows whose squared norms are finite in {k.dtype}, also times scale")
        b_squared = xp.abs(v).max(axis=(1, 2))[:, None, None, None] ** 2
        rows = xp.broadcast_to(xp.arange(n), k.shape[:2])
        aside, drawn = list[Array](), iter(on_device)
        for batches in plan:
            if rows.shape[1] % 2:
                aside, rows = [*aside, rows[:, -1:]], rows[:, :-1]
            halves, start = list[Array](), 0
            for count, size in batches:
                numbers, coins = (y[at] for y in next(drawn))
                bucket = rows[:, start : start + count * size].reshape(-1, count, size)
                start += count * size
                flat = bucket.reshape(len(k), -1, 1)
                keys, values = (xp.take_along_axis(y, flat, axis=1).reshape(*bucket.shape, y.shape[-1]) for y in (k, v))
                # Below 0 by Cauchy-Schwarz, but for rounding, which is not small where logits are large.
                kernel = xp.exp(xp.minimum(x.scale * xp.matmul(keys, keys.swapaxes(-1, -2)) - shift, 0))
                kernel *= xp.matmul(values, values.swapaxes(-1, -2)) + b_squared
                noise = numbers * (0.5 + math.log(2 / (chance * size)))
                halves.append(xp.take_along_axis(bucket, halve(xp, kernel, noise, coins), axis=-1).reshape(len(k), -1))
            rows = xp.concatenate(halves, axis=1)
        out[at] = xp.concatenate([rows, *aside], axis=1)

    at_once = 2**23 if xp is np else backends.STRIP_BYTES  # bytes of kernel matrices
    group = max(1, at_once // (n * 4 ** (g + 1) * x.k.dtype.itemsize))
    backends.for_tiles(xp, backends.cut(b, group), thin)
    return out, np.array([2**rounds] * kept + left, float)


def halve(xp: Any, kernel: Array, noise: Array, coins: Array) -> Array:
    """Kernel halving of buckets (B, m, s) with these kernel matrices (B, m, s, s): the places (B, m, s / 2) kept.

    From each pair of neighbours one key is kept, the first unless `noise`, in units of the kernel's own size, is at
    most the signed sum of the kernel differences to the pairs before. `coins` (B, m) swap a coreset and its complement.
    """
    rows = kernel[..., ::2, :] - kernel[..., 1::2, :]
    difference = rows[..., ::2] - rows[..., 1::2]
    pairs = difference.shape[-1]
    place = xp.arange(pairs)
    size = xp.sqrt(xp.maximum(difference[..., place, place], 0))
    largest, step = size, 1
    while step < pairs:  # running maximum, by doubling
        largest = xp.concatenate([largest[..., :step], xp.maximum(largest[..., step:], largest[..., :-step])], axis=-1)
        step *= 2
    threshold = noise * size * largest
    signed = difference[..., 0, :].copy()
    swap = xp.zeros(signed.shape, bool)
    for i in range(1, pairs):
        swap[..., i] = threshold[..., i] <= signed[..., i]
        signed += xp.where(swap[..., i, None], -difference[..., i, :], difference[..., i, :])
    return 2 * place + (swap ^ (coins != 0)[..., None])
