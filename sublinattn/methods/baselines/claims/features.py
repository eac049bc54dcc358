"""[PERF21] Lemma 1 and Theorem 2: the mean and the variance of positive orthogonal random features.

For `z = x + y` and `m <= d` orthogonal directions, each Gaussian by itself, two of them have
`|w_1 + w_2|^2 ~ chi^2(2 d)` and `w_1 + w_2` points anywhere, so that (derived here, with Kummer's function)

    E[exp(<w_1, z>) exp(<w_2, z>)] = 1F1(d; d/2; |z|^2/2) <= exp(|z|^2),

where independent directions have equality. The variance of the estimate follows exactly; that it is smaller than with
independent directions is Theorem 2.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import sympy as sp
from numpy.random import Generator

from ....core.backends import asnumpy, to_device
from ....theory.claim import Claim, Mean, Sabotage, Trial
from ..common import enter
from ..performer import directions, performer_attention, random_feature_attention

NORM = 0.5  # of x and of y


def kernel(rng: Generator, xp: Any, *, d: int, m: int, heads: int, directed: str = "as they should be") -> Trial:
    """Mean over the heads of the estimate of exp(<x, y>): the normaliser of one query over one key.

    Sabotages: "LAPACK's factor" takes directions from the QR factor as LAPACK returns it; "equal lengths" gives all
    directions the length sqrt(d).
    """
    x, y = (NORM * u / np.linalg.norm(u) for u in rng.standard_normal((2, d)))
    q, k = (to_device(np.broadcast_to(u, (heads, 1, d)).copy(), xp) for u in (x, y))
    if directed == "as they should be":
        seed = int(rng.integers(2**31))
        _, lse = performer_attention(q, k, k, features=m, scale=1.0, rng=seed, return_lse=True)
    else:
        drawn = broken(rng, heads, m, d, directed)
        problem = enter(q, k, k, scale=1.0, check_finite=True)
        lse = random_feature_attention(problem, to_device(drawn, xp), causal=False).lse()
    exact, scale = math.exp(x @ y), math.sqrt(variance(x, y, m) / heads)
    return Trial(float(np.exp(asnumpy(lse)).mean()), exact, scale=scale, facts={"d": d, "m": m})


def variance(x: np.ndarray, y: np.ndarray, m: int) -> float:
    """Of the estimate with m <= d orthogonal directions: see above."""
    from scipy.special import hyp1f1  # takes a tenth of a second, which listing the claims need not wait for

    d, z = len(x), float((x + y) @ (x + y))
    moments = math.exp(2 * z) / m + (1 - 1 / m) * float(hyp1f1(d, d / 2, z / 2)) - math.exp(z)
    return math.exp(-float(x @ x + y @ y)) * moments


def broken(rng: Generator, heads: int, m: int, d: int, how: str) -> np.ndarray:
    """Directions (heads, m, d) that an author might take."""
    if how == "equal lengths":
        drawn = directions(rng, heads, m, d)
        return drawn / np.linalg.norm(drawn, axis=-1, keepdims=True) * math.sqrt(d)
    factor, _ = np.linalg.qr(rng.standard_normal((heads, d, d)))
    return factor.swapaxes(-1, -2)[:, :m] * np.linalg.norm(rng.standard_normal((heads, m, d)), axis=-1)[..., None]


CLAIMS = (
    Claim(
        id="perf21.unbiased",
        paper="PERF21",
        source="Lemma 1, and Theorem 2 for orthogonal directions",
        basis="theorem",
        title="The kernel of positive orthogonal random features is unbiased",
        statement=sp.Eq(
            sp.Symbol(r"\mathbb{E}\,\langle\phi(x), \phi(y)\rangle"), sp.exp(sp.Symbol(r"\langle x, y\rangle"))
        ),
        kind=Mean(resolution=0.01),
        trial=kernel,
        cases={"smoke": tuple({"d": d, "m": m, "heads": 1024} for d, m in ((2, 2), (4, 4), (8, 3)))},
        max_trials={"smoke": 400, "standard": 2000},
        sabotages=(
            Sabotage(
                "LAPACK's factor", "directions have the signs of LAPACK's QR factor", {"directed": "LAPACK's factor"}
            ),
            Sabotage("equal lengths", "all directions have the length sqrt(d)", {"directed": "equal lengths"}),
        ),
        remark="The authors' public code takes LAPACK's factor: on the CPU its first direction has no positive first "
        "coordinate. Its option of equal lengths is biased as well. The standard deviation is exact (derived here).",
        source_checked=False,
    ),
)
