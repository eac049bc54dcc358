"""Inputs whose attention output has few large rows, or none: what a k-sparse answer can and cannot say."""

from __future__ import annotations

import numpy as np

Array = np.ndarray


def compressible(
    rng: np.random.Generator, n: int, d: int, d_v: int, s: float, *, decay: float = 1.0, radius: float = 1.0
) -> tuple[Array, Array, Array]:
    """Queries whose lengths fall as `rank^-decay`, in random order; an output that is odd in the query falls with them.

    Keys come in pairs `k, -k` of one length (a last one without partner is 0), and values are linear in the keys: a
    query 0 has output 0, and a short query one proportional to it. `radius` is the largest `|s <q, k>|` there can be.
    With `decay = 0` all rows of the output are of one size: flat.

    tail_k: `||tail_k(y)||^2 / ||y||^2` is about `k^(1 - 2 decay) / ((2 decay - 1) zeta(2 decay))` for `decay > 1/2`,
    whatever n is, and `1 - k/n` for a flat output.
    alpha, kappa: at most `exp(4 radius)` and `exp(2 radius)`.
    """
    for name, knob in (("decay", decay), ("radius", radius)):
        if not (isinstance(knob, int | float | np.number) and 0 <= knob < np.inf):
            raise ValueError(f"{name} must be between 0 and inf, got {knob!r}")
    length = np.sqrt(radius / s)
    directions = _unit(rng, n, d)
    q = length * directions * (rng.permutation(n) + 1.0)[:, None] ** -decay
    half = _unit(rng, n // 2, d)
    unit = np.concatenate([half, -half, np.zeros((n % 2, d))])[rng.permutation(n)]
    return q, length * unit, unit @ rng.standard_normal((d, d_v))


def _unit(rng: np.random.Generator, n: int, d: int) -> Array:
    x = rng.standard_normal((n, d))
    return x / np.linalg.norm(x, axis=1, keepdims=True)
