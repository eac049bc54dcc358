"""Is twice a part of a batch unbiased? All sign sequences of Algorithm 2, clipped where it fails [BKV25]."""

from __future__ import annotations

from typing import Any

import numpy as np
import sympy as sp

from ....core.backends import asnumpy, to_device
from ....theory import symbols
from ....theory.claim import Claim, Exact, Sabotage, Trial
from ..walk import halve, pair_kernel
from .setting import Batch, sequences, taken, walk


def mean_signed_sums(
    rng: np.random.Generator, xp: Any, *, n: int, c: float, spread: float, broken: str = "nothing"
) -> Trial:
    """Length of the mean, over all sign sequences, of `sum_j sign_j e_j (v_j, 1)`, which is 0 for fair signs."""
    x = Batch(rng, n, spread=spread)
    probability, uniform = sequences(x.kernel, c, broken)
    mean = probability @ (taken(xp, x.kernel, uniform, c, broken) @ x.rows)
    facts = {"n": n, "c": c, "clipped": float((probability == 0).mean())}
    return Trial(float(np.linalg.norm(mean)), 0.0, scale=float(np.abs(x.rows).sum()), facts=facts)


def mean_of_the_part(
    rng: np.random.Generator,
    xp: Any,
    *,
    n: int,
    c: float,
    spread: float,
    pairs: bool = True,
    broken: str = "nothing",
) -> Trial:
    """How far the mean of twice the kept part's sums is from the sums of all tokens, as a length."""
    x = Batch(rng, n, spread=spread)
    kernel = pair_kernel(x.kernel[None])[0] if pairs else x.kernel
    probability, uniform = sequences(kernel, c, broken)
    count = len(uniform)
    k, v = (to_device(np.broadcast_to(a, (count, *a.shape)).copy(), xp) for a in (x.k, x.v))
    filled = xp.ones((count, n), bool)
    options: dict[str, Any] = {"scale": 1.0, "c": c, "pairs": pairs, "walk": walk(broken)}
    kept, there = (asnumpy(a) for a in halve(xp, k, v, filled, to_device(uniform, xp), **options))
    sums = 2 * (x.rows[kept] * there[..., None]).sum(axis=1)
    gap = np.linalg.norm(probability @ sums - x.rows.sum(axis=0))
    facts = {"n": n, "c": c, "normaliser": float(probability @ sums[:, -1] / x.e.sum())}
    return Trial(float(gap), 0.0, scale=float(np.abs(x.rows).sum()), facts=facts)


def kept_share(rng: np.random.Generator, xp: Any, *, n: int, c: float, spread: float, larger: bool = False) -> Trial:
    """Share of a batch that is kept."""
    x = Batch(rng, n, spread=spread)
    arrays = [to_device(a[None], xp) for a in (x.k, x.v, np.ones(n, bool), rng.uniform(size=n))]
    _, there = halve(xp, *arrays, scale=1.0, c=c)
    count = int(asnumpy(there).sum())
    return Trial((n - count if larger else count) / n, 0.5, facts={"n": n})


E = symbols.E
SIGNED = sp.Symbol(r"\sum_j \eta_j e^{\langle q, k_j\rangle} (v_j, 1)")
PART = sp.Symbol(r"2\sum_{j \in C'} e^{\langle q, k_j\rangle} (v_j, 1)")
ALL = sp.Symbol(r"\sum_{j \in C} e^{\langle q, k_j\rangle} (v_j, 1)")
FIRST = Sabotage("first sign", "the first sign is always +1, as in the authors' public code", {"broken": "first sign"})
FLOOR = Sabotage("clipped on one side", "the probability of +1 is never below 0.1", {"broken": "floor"})
CLIPPED = ({"c": 0.4, "spread": 0.3}, {"c": 2.0, "spread": 1.0}, {"c": 50.0, "spread": 1.0})
"""At the first the walk is clipped at most steps, at the last never."""

CLAIMS = (
    Claim(
        id="bkv25.signs-fair",
        paper="BKV25",
        source="Algorithm 2; derived here",
        basis="derived",
        title="Signed sums of the self-balancing walk have mean 0, also where it is clipped: enumerated",
        statement=sp.Eq(E(SIGNED), 0),
        kind=Exact("==", rtol=1e-12),
        trial=mean_signed_sums,
        cases={"smoke": tuple({"n": 9, **case} for case in CLIPPED)},
        max_trials={"smoke": 5, "standard": 50},
        sabotages=(FIRST, FLOOR),
        remark=(
            "If the signs so far are reversed, y is, and so are the chances of the next sign. So twice the sum of one "
            "part, drawn by a coin, is an unbiased estimate of numerator and normaliser, clipped or not. All 512 sign "
            "sequences have their probabilities, and the package's walk takes them from numbers that draw them."
        ),
    ),
    Claim(
        id="bkv25.pairs-unbiased",
        paper="BKV25",
        source="Algorithm 2 over differences of neighbours; derived here",
        basis="derived",
        title="Twice what is kept of pairs is an unbiased estimate of both sums, also where clipped: enumerated",
        statement=sp.Eq(E(PART), ALL),
        kind=Exact("==", rtol=1e-12),
        trial=mean_of_the_part,
        cases={"smoke": tuple({"n": 16, **case} for case in CLIPPED)},
        max_trials={"smoke": 5, "standard": 50},
        sabotages=(
            FIRST,
            Sabotage("the smaller part", "what Algorithm 2 keeps", {"pairs": False, "n": 10}),
        ),
        remark=(
            "Half a batch is kept whatever the signs, and its complement is as likely. The sabotage is the paper's own "
            "choice, the smaller of two parts: it counts fewer tokens than there are, so that both sums are biased. "
            "Their errors stay within Theorem 3.3, which speaks of either part."
        ),
    ),
    Claim(
        id="bkv25.smaller-part",
        paper="BKV25",
        source="Theorem 3.3",
        basis="theorem",
        title="Algorithm 2 keeps half of a batch at most",
        statement=sp.Le(sp.Symbol(r"|C'|"), sp.Symbol(r"|C|") / 2),
        kind=Exact("<="),
        trial=kept_share,
        cases={"smoke": tuple({"n": n, **case} for n in (2, 10, 64) for case in CLIPPED)},
        max_trials={"smoke": 30, "standard": 300},
        sabotages=(Sabotage("the larger part", "the other part is kept", {"larger": True}),),
    ),
)
