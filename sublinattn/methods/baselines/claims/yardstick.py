"""The yardstick of every error figure is what it says: keys drawn uniformly, without replacement, for each problem."""

from __future__ import annotations

from typing import Any

import numpy as np
import sympy as sp
from numpy.random import Generator

from ....core.backends import asnumpy, to_device
from ....theory.claim import Claim, Mean, Sabotage, Trial
from ..uniform import uniform_attention

D = 4


def uniform_sums(rng: Generator, xp: Any, *, law: str, n: int, m: int, heads: int, apart_heads: bool = True) -> Trial:
    """Mean over the heads of a sum over the m sampled keys whose mean and variance are known.

    "normaliser" is the estimated normaliser; "token" counts the sampled keys of the last quarter; "heads" those that
    neighbouring heads have in common. Values are unit vectors, so that outputs show the keys. Sabotage: unless
    `apart_heads`, all heads have the draws of the first.
    """
    q, k = rng.standard_normal((1, 1, D)), rng.standard_normal((1, n, D))
    logits = (q[0] @ k[0].T)[0] * (law == "normaliser")
    seed = int(rng.integers(2**31))
    arrays = [to_device(np.broadcast_to(x, (heads, *x.shape[1:])).copy(), xp) for x in (q, k, np.eye(n)[None])]
    scale = float(law == "normaliser")
    if apart_heads:
        answers = [uniform_attention(*arrays, sample_size=m, scale=scale, rng=seed, return_lse=True)]
    else:
        answers = [
            uniform_attention(*(x[:1] for x in arrays), sample_size=m, scale=scale, rng=seed, return_lse=True)
            for _ in range(heads)
        ]
    out, lse = (np.concatenate([asnumpy(answer[i]) for answer in answers])[:, 0] for i in range(2))
    drawn = out > 0
    if law == "normaliser":
        return of_sample(np.exp(lse), n / m * np.exp(logits), m)
    if law == "token":
        return of_sample((drawn & (np.arange(n) >= n - n // 4)).sum(axis=1), np.arange(n) >= n - n // 4, m)
    both = drawn[::2] & drawn[1::2]
    return of_sample(both.sum(axis=1), np.arange(n) < m, m)  # as many marked keys as the other head has


def of_sample(sums: np.ndarray, x: np.ndarray, m: int) -> Trial:
    """Mean of sums over m of the n numbers `x` without replacement, beside its expectation and standard deviation."""
    n, x = len(x), x.astype(float)
    variance = m * (1 - m / n) * x.var(ddof=1)
    return Trial(float(sums.mean()), m * float(x.mean()), scale=(variance / len(sums)) ** 0.5, facts={"n": n, "m": m})


CLAIMS = (
    Claim(
        id="ha24.yardstick",
        paper="HA24",
        source="none: plain sampling, beside which errors are shown",
        basis="derived",
        title="Uniform attention samples keys without replacement, anew for each problem; its normaliser is unbiased",
        statement=sp.Eq(sp.Symbol(r"\mathbb{E}[\tilde{D}]"), sp.Symbol("D")),
        kind=Mean(resolution=0.1),
        trial=uniform_sums,
        cases={"smoke": tuple({"law": law, "n": 64, "m": 16, "heads": 64} for law in ("normaliser", "token", "heads"))},
        max_trials={"smoke": 400, "standard": 2000},
        sabotages=(Sabotage("one draw", "all heads have the same keys", {"apart_heads": False}),),
        remark="Keys of the last quarter in a sample, and those that two heads have in common, are counted.",
    ),
)
