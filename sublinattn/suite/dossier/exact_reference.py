"""Exact attention of some query rows in float64, against which every benchmark states its error."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...core import backends
from ...core.backends import Array


def wide(x: Array) -> Array:
    """`x` in float64, by way of float32: not every array library takes bfloat16 there at once."""
    return x.astype(np.float32).astype(np.float64)


class Reference:
    """Answers of `rows` queries of each head, spread evenly, in float64: `error(out)` is an output's relative error.

    The error is the Frobenius norm of the difference over that of the exact answers, over all heads; answering zero has
    the error 1.
    """

    def __init__(self, xp: Any, q: Array, k: Array, v: Array, *, causal: bool, rows: int = 16) -> None:
        n_q, n_k = q.shape[-2], k.shape[-2]
        self.at = np.unique(np.linspace(0, n_q - 1, rows).astype(int))
        scale, answers = q.shape[-1] ** -0.5, []
        hidden = xp.asarray(np.arange(n_k) > self.at[:, None]) if causal else None
        for head in range(len(q)):  # one head at a time: its keys in float64 take 4 times the bytes
            keys, values = wide(k[head]), wide(v[head])
            logits = scale * (wide(q[head])[xp.asarray(self.at)] @ keys.T)
            if hidden is not None:
                logits = xp.where(hidden, -np.inf, logits)
            e = xp.exp(logits - logits.max(axis=1, keepdims=True))
            answers.append(e @ values / e.sum(axis=1, keepdims=True))
        self._xp, self._wanted = xp, xp.stack(answers)
        self._norm = float(backends.asnumpy(xp.sqrt((self._wanted**2).sum())))

    def error(self, out: Array) -> float:
        """Relative error of an output of all queries, shape (heads, n_q, d)."""
        xp = self._xp
        rows = xp.stack([wide(head)[xp.asarray(self.at)] for head in out])
        return float(backends.asnumpy(xp.sqrt(((rows - self._wanted) ** 2).sum()))) / self._norm
