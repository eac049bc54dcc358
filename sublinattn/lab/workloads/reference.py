"""An input with everything about its attention known exactly, in float64."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class Dense:
    """One problem in float64 with all its entries: q, k (n, d), v (n, d_v)."""

    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    scale: float

    @cached_property
    def logits(self) -> np.ndarray:
        return self.scale * (self.q @ self.k.T)

    @cached_property
    def log_normaliser(self) -> np.ndarray:
        top = self.logits.max(axis=1)
        return top + np.log(np.exp(self.logits - top[:, None]).sum(axis=1))

    @cached_property
    def p(self) -> np.ndarray:
        return np.exp(self.logits - self.log_normaliser[:, None])

    @cached_property
    def pv(self) -> np.ndarray:
        return self.p @ self.v

    @cached_property
    def facts(self) -> dict[str, float]:
        """n, d_v, alpha, srank, `P_norm`, `P_F`, `V_norm`, `V_F`, and `zero`, the error of answering 0."""
        p_norm, p_f = (
            float(row_scaled_norms(self.p, np.ones((1, len(self.p))), rtol=1e-8)[0]),
            float(np.linalg.norm(self.p)),
        )
        return {
            "n": len(self.k),
            "d_v": self.v.shape[1],
            "alpha": float(len(self.k) * (self.p**2).sum(axis=0).max()),
            "srank": (p_f / p_norm) ** 2,
            "P_norm": p_norm,
            "P_F": p_f,
            "V_norm": float(np.linalg.norm(self.v, 2)),
            "V_F": float(np.linalg.norm(self.v)),
            "zero": float(np.linalg.norm(self.pv, 2) / (p_norm * np.linalg.norm(self.v, 2))),
        }


def operator_norms(x: np.ndarray) -> np.ndarray:
    """Operator norm of each tall matrix (t, n, c), by its c x c Gram matrix."""
    return np.sqrt(np.maximum(np.linalg.eigvalsh(x.swapaxes(-1, -2) @ x)[:, -1], 0))


def row_scaled_norms(p: np.ndarray, r: np.ndarray, *, rtol: float = 1e-3, steps: int = 100) -> np.ndarray:
    """`||diag(r_t) P||` for each row `r_t` of r (t, n), by block power iteration from a fixed start near the constant
    (from below).
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
