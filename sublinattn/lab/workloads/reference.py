"""The exact answer to an attention problem, and the norms in which the papers bound the error of an approximation."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from ...core.backends import asnumpy
from .instance import Instance


class Reference:
    """One head in float64 on the host, with its softmax matrix P and output P V; each is computed once, when needed.

    O(n_q n_k) memory: P is stored.
    """

    def __init__(self, x: Instance) -> None:
        self.q, self.k, self.v = (asnumpy(a).astype(np.float64, copy=False) for a in (x.q, x.k, x.v))
        self.scale = x.scale

    @cached_property
    def log_normaliser(self) -> np.ndarray:
        """Logarithm of the row sums of `A = exp(scale Q K^T)`, shape (n_q,)."""
        logits = self._logits()
        top = logits.max(axis=1)
        return top + np.log(np.exp(logits - top[:, None]).sum(axis=1))

    @cached_property
    def p(self) -> np.ndarray:
        """The softmax matrix P, shape (n_q, n_k)."""
        return np.exp(self._logits() - self.log_normaliser[:, None])

    @cached_property
    def output(self) -> np.ndarray:
        """Exact attention `P V`, shape (n_q, d_v)."""
        return self.p @ self.v

    @cached_property
    def p_norm(self) -> float:
        """Operator norm of P."""
        return float(row_scaled_norms(self.p, np.ones((1, len(self.p))), rtol=1e-8)[0])

    @cached_property
    def v_norm(self) -> float:
        """Operator norm of V."""
        return float(np.linalg.norm(self.v, 2))

    def error(self, out: Any) -> float:
        """`||out - P V|| / (||P|| ||V||)`, operator norms: the error that [HA24, Theorem 1] bounds."""
        return float(np.linalg.norm(asnumpy(out).astype(np.float64) - self.output, 2) / (self.p_norm * self.v_norm))

    @cached_property
    def facts(self) -> dict[str, float]:
        """n, d_v, alpha, srank(P), norms of P and V, and `zero`, the error of answering 0."""
        p_frobenius = float(np.linalg.norm(self.p))
        return {
            "n": len(self.k),
            "d_v": self.v.shape[1],
            "alpha": float(len(self.k) * (self.p**2).sum(axis=0).max()),
            "srank": (p_frobenius / self.p_norm) ** 2,
            "P_norm": self.p_norm,
            "P_F": p_frobenius,
            "V_norm": self.v_norm,
            "V_F": float(np.linalg.norm(self.v)),
            "zero": self.error(np.zeros_like(self.output)),
        }

    def _logits(self) -> np.ndarray:
        return self.scale * (self.q @ self.k.T)


def operator_norms(x: np.ndarray) -> np.ndarray:
    """Operator norm of each tall matrix (t, n, c), from the eigenvalues of its c x c Gram matrix."""
    return np.sqrt(np.maximum(np.linalg.eigvalsh(x.swapaxes(-1, -2) @ x)[:, -1], 0))


def row_scaled_norms(p: np.ndarray, r: np.ndarray, *, rtol: float = 1e-3, steps: int = 100) -> np.ndarray:
    """Operator norm of `diag(r_t) P` for each row `r_t` of r (t, n), by power iteration on all of them at once.

    The iterates approach the norm from below; they stop when a step adds less than `rtol`. The start is fixed, near
    the constant vector.
    """
    x = 1 + 0.1 * np.random.default_rng(0).standard_normal((p.shape[1], len(r)))
    norm = np.zeros(len(r))
    for _ in range(steps):
        x /= np.linalg.norm(x, axis=0)
        y = (p @ x) * r.T
        grown = np.linalg.norm(y, axis=0)
        if np.all(grown - norm <= rtol * grown):
            return np.maximum(grown, norm)
        norm = grown
        x = p.T @ (y * r.T)
        x[:, norm == 0] = 1
    return norm
