"""What the baselines share: checked input in the dtype of accumulation, and attention with an added bias, in tiles."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...core import backends, checks, magnitudes
from ...core.backends import Array
from ...core.exact import Partial

Bias = Callable[[slice, slice], Array]
"""`bias(problems, rows)`: what is added to a tile's logits, broadcast to (g, t, c); `-inf` hides a key."""


@dataclass(frozen=True)
class Problem:
    """`B` attention problems of one shape, in the dtype of accumulation; made by `enter`.

    No logit overflows, and no weighted mean of the values does: they may have been divided by a power of two.
    """

    xp: Any
    q: Array  # (B, n_q, d)
    k: Array  # (B, n_k, d)
    v: Array  # (B, n_k, d_v)
    scale: float
    batch_shape: tuple[int, ...]
    power: int  # of two: what the values were divided by
    cast: Callable[..., Any]  # into the caller's kind and dtype

    def first_keys(self, n: int) -> Problem:
        """The same problem without the keys past the first n."""
        return replace(self, k=self.k[:, :n], v=self.v[:, :n])

    def leave(self, p: Partial, *, return_lse: bool) -> Any:
        """The caller's answer, from the partial (B, n_q) of all queries."""
        out = self.leave_output(p.output())
        return (out, self.cast(p.lse().reshape(*self.batch_shape, -1), cast=False)) if return_lse else out

    def leave_output(self, out: Array) -> Any:
        """The caller's answer from the outputs (B, n_q, d_v)."""
        out = magnitudes.times_power(self.xp, out, self.power)
        checks.representable(self.xp, out, self.q, self.k, self.v)
        return self.cast(out.reshape(*self.batch_shape, *out.shape[1:]))


def enter(q: Array, k: Array, v: Array, *, scale: float | None, check_finite: bool) -> Problem:
    """The problem that the caller's arrays state, checked before any work."""
    xp, (q, k, v), cast = backends.enter(q=q, k=k, v=v)
    checks.shapes(q, k, v)
    factor = checks.resolve_scale(scale, q.shape[-1])
    batch_shape, dtype = q.shape[:-2], backends.working_dtype(q)
    q, k, v = (xp.ascontiguousarray(x.astype(dtype, copy=False)).reshape(-1, *x.shape[-2:]) for x in (q, k, v))
    q_norm, k_norm, v_norm = checks.largest_norms(xp, check_finite, q=q, k=k, v=v)
    q, k, factor = magnitudes.fit_logits(xp, q, k, factor, q_norm, k_norm)
    v, power = magnitudes.fit_values(xp, v, v_norm, shift=True)
    return Problem(xp, q, k, v, factor, tuple(batch_shape), power, cast)


def refuse_causal(causal: bool, why: str) -> None:
    """ValueError for a causal mask, which this method does not have."""
    checks.flags(causal=causal)
    if causal:
        raise ValueError(f"causal must be False, got True: {why}")


def biased_attention(xp: Any, q: Array, k: Array, v: Array, *, scale: float, bias: Bias | None = None) -> Partial:
    """Partial of the queries (B, n_q, d) over the keys (B, c, d), with `bias` added to their logits.

    On the CPU what overflows is infinite or NaN in the sums, without a warning.
    """
    b, n_q, _ = q.shape
    total = Partial(*(xp.empty((b, n_q, *rest), q.dtype) for rest in ((), (), v.shape[2:])))
    entries = math.prod(backends.tile_shape(xp, b))
    rows = min(n_q, max(1, entries // k.shape[1]))
    problems = max(1, entries // (rows * k.shape[1]))
    tiles = [(at, r) for at in backends.cut(b, problems) for r in backends.cut(n_q, rows)]

    def worker(where: tuple[slice, slice]) -> None:
        at, r = where
        with np.errstate(over="ignore", invalid="ignore"):  # per thread; what overflows is found afterwards
            logits = xp.matmul(q[at, r] * scale, k[at].swapaxes(-1, -2))
            if bias is not None:
                logits += bias(at, r)
            m = logits.max(axis=-1)
            logits -= xp.where(m == -np.inf, 0, m)[..., None]
            weights = xp.exp(logits, out=logits)
            total.m[at, r], total.l[at, r], total.o[at, r] = m, weights.sum(axis=-1), xp.matmul(weights, v[at])

    backends.for_tiles(xp, tiles, worker)
    return total


def own_key(xp: Any, q: Array, k: Array, v: Array, *, scale: float) -> Partial:
    """Partial of query i over key i alone; over no key for the queries past the last key."""
    n = min(q.shape[1], k.shape[1])
    total = Partial.empty(xp, q.shape[:2], v.shape[-1], q.dtype)
    total.m[:, :n], total.l[:, :n], total.o[:, :n] = (q[:, :n] * k[:, :n]).sum(axis=-1) * scale, 1, v[:, :n]
    return total
