"""What the trials of BalanceKV's claims share: small batches, walks with a wrong step, all sign sequences."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from ....core.backends import Array, asnumpy, to_device
from ..balancekv import BalanceKVCache
from ..walk import Walk, one_of_each_pair, self_balancing_walk, smaller_part

SPREADS = (0.0, 0.3, 1.0)
"""Of the keys and values about one token: 0 makes all tokens one, for which signs by coins are worst."""


def chance(y: np.ndarray, c: float, step: int, broken: str) -> np.ndarray:
    """Probability that the sign of a step is +1, from y in units of R^2. `broken` says what is wrong with it."""
    ahead = 0 * y if broken == "coins" else -y if broken == "reversed" else y
    p = np.clip(0.5 - ahead / (2 * c), 0, 1)
    if broken == "first sign" and not step:
        return np.ones_like(p)  # as in the authors' public code
    return np.maximum(p, 0.1) if broken == "floor" else p


def walk(broken: str) -> Walk:
    """The package's walk, or one with a step that is wrong, in the plainest way."""
    if broken == "nothing":
        return self_balancing_walk

    def wrong(xp: Any, kernel: Array, uniform: Array, c: float) -> Array:
        rows, u = asnumpy(kernel).astype(float), asnumpy(uniform)
        rows = rows / rows.diagonal(axis1=1, axis2=2).max(axis=1)[:, None, None]
        signs = np.zeros(u.shape)
        for i in range(u.shape[1]):
            y = (rows[:, i] * signs).sum(axis=1)
            signs[:, i] = np.where(u[:, i] < chance(y, c, i, broken), 1, -1)
        return to_device(signs.astype(kernel.dtype), xp)

    return wrong


def signs_by_coins(xp: Any, filled: Array, uniform: Array, pairs: bool) -> tuple[Array, Array]:
    """What `halve` would keep if its signs were coins."""
    signs = xp.where(uniform < 0.5, 1, -1)
    return one_of_each_pair(xp, signs) if pairs else smaller_part(xp, signs, filled)


class Cache(BalanceKVCache):
    """A BalanceKVCache; with `coins`, its signs are drawn by coins."""

    def __init__(self, batch: int, *, coins: bool = False, **parameters: Any) -> None:
        super().__init__(batch, **parameters)
        self._coins = coins

    def _choose(self, xp: Any, k: Array, v: Array, filled: Array, uniform: Array) -> tuple[Array, Array]:
        if not self._coins:
            return super()._choose(xp, k, v, filled, uniform)
        return signs_by_coins(xp, filled, uniform, self.pairs)


class Batch:
    """n tokens about one, and one query, scale 1, in float64.

    Attributes
    ----------
    k, v, q : arrays, shapes (n, d), (n, d_v), (d,)
        The query is that one token's key: its vector `phi(q) (x) (v, 1)` is along the token's, if `spread` is 0.
    e : array, shape (n,)
        `exp(<q, k_j>)`.
    rows : array, shape (n, d_v + 1)
        `e_j (v_j, 1)`: what a sign multiplies in the query's two sums.
    radius, query : float
        `R`, the length of the longest token's vector; `|phi(q)| = exp(|q|^2 / 2)`.
    """

    def __init__(self, rng: np.random.Generator, n: int, *, spread: float, d: int = 3, d_v: int = 2) -> None:
        one, value = rng.standard_normal(d) / np.sqrt(d), rng.standard_normal(d_v)
        k = one + spread * rng.standard_normal((n, d)) / np.sqrt(d)
        self.of(k, value + spread * rng.standard_normal((n, d_v)), one)

    def of(self, k: np.ndarray, v: np.ndarray, q: np.ndarray) -> Batch:
        """The batch of these arrays; returns self."""
        self.k, self.v, self.q = k, v, q
        self.e = np.exp(k @ q)
        self.rows = self.e[:, None] * np.concatenate([v, np.ones((len(v), 1))], axis=1)
        self.radius = float(np.sqrt((np.exp((k**2).sum(axis=1)) * ((v**2).sum(axis=1) + 1)).max()))
        self.query = float(np.exp(q @ q / 2))
        return self

    @property
    def kernel(self) -> np.ndarray:
        """`exp(<k, k'>) (<v, v'> + 1)`, (n, n)."""
        return np.exp(self.k @ self.k.T) * (self.v @ self.v.T + 1)


def sequences(kernel: np.ndarray, c: float, broken: str) -> tuple[np.ndarray, np.ndarray]:
    """All 2^n sign sequences: their probabilities (2^n,), and numbers (2^n, n) in (0, 1) for which the walk takes them.

    The numbers are the middles of the intervals in which Algorithm 2 (or what is `broken` of it) takes each sign.
    """
    signs = np.array(list(itertools.product((1, -1), repeat=len(kernel))))
    y = signs @ np.tril(kernel, -1).T / kernel.diagonal().max()
    p = np.stack([chance(column, c, i, broken) for i, column in enumerate(y.T)], axis=1)
    return np.where(signs > 0, p, 1 - p).prod(axis=1), np.where(signs > 0, p / 2, (1 + p) / 2)


def taken(xp: Any, kernel: np.ndarray, uniform: np.ndarray, c: float, broken: str) -> np.ndarray:
    """Signs (P, n) of the walks with one kernel (n, n) that these numbers (P, n) draw."""
    every = xp.broadcast_to(to_device(kernel, xp), (len(uniform), *kernel.shape))
    return asnumpy(walk(broken)(xp, every, to_device(uniform, xp), c))
