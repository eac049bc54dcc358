"""Instances on which ApproxD and row-norm sampling need many samples, for an adversary to climb [HA24, Lemmas 1, 2].

A critical size is found with the same draws on every instance (common random numbers), so that a climb compares
instances and not draws; what it reaches is measured again with fresh ones, since some of it is luck with those draws.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from ....lab.workloads.instance import Instance
from ....lab.workloads.reference import Reference, row_scaled_norms
from ....theory.adversary import Arrays, Found, climb
from ....theory.search import critical_size, last_miss
from ._bench import MISSES, bench, measured_kappa, theory_maker
from .lemma2 import product_errors

N, D, D_V, BLOCK, EPS = 64, 8, 2, 8, 0.5
MASK: dict[str, Any] = {"block_size": BLOCK, "mask_seed": 0, "dtype": np.float64}
CAP = 2**17


def normaliser_errors(x: Reference, log_d: np.ndarray, out: np.ndarray) -> np.ndarray:
    """`||(D~^-1 - D^-1) A||` over `||P|| / 2` of each draw: Lemma 1 wants at most eps."""
    return 2 * row_scaled_norms(x.p, np.exp(x.log_normaliser - log_d) - 1) / x.p_norm


ERRORS = {"normaliser": normaliser_errors, "product": product_errors}


def reference(arrays: Arrays) -> Reference:
    """The problem of these queries, keys and values (ones where there are none), scale 1."""
    return Reference(Instance(arrays["q"], arrays["k"], arrays.get("v", np.ones((N, 1))), scale=1.0))


def kappa_of(xp: Any, x: Reference) -> float:
    """kappa under the mask that all instances have."""
    return measured_kappa(bench(x, xp, np.random.default_rng(0), copies=1, sample_size=1, **MASK))


def excess_of(xp: Any, x: Reference, *, part: str, draws: int, trials: int) -> Callable[[int], float]:
    """The error of the "normaliser" or the "product" that a tenth of the draws exceed, over eps, at a sample size.

    The same `draws` are the same random numbers.
    """
    maker = theory_maker(kappa=kappa_of(xp, x), eps=EPS)

    def excess(m: int) -> float:
        b = bench(x, xp, np.random.default_rng([draws, m]), copies=trials, sample_size=m, **MASK)
        return float(np.quantile(ERRORS[part](x, *b.estimate(maker)), 1 - MISSES, method="higher") / EPS)

    return excess


def size_of(xp: Any, x: Reference, *, draws: int, trials: int) -> float:
    """Critical size of ApproxD."""
    excess = excess_of(xp, x, part="normaliser", draws=draws, trials=trials)
    return critical_size(excess, start=24, cap=CAP, rng=np.random.default_rng(draws))


# ------------------------------------------------------------------------------- Lemma 1, kappa and alpha at most given
def hidden(rng: np.random.Generator, kappa: float, alpha: float) -> Arrays:
    """A start within the limits: every query has a heavy key of its own, and all but four see all keys more strongly.

    As every key is heavy for one query, alpha is n times the square p^2 of a heavy entry of P. ApproxD cuts entries at
    C_i, which is proportional to the floor tau/kappa. A heavy entry p U of a row with the sum U = kappa (tau/kappa) is
    cut to eps^2 m/(n log n) U/kappa: too low to be within eps/2, until m is about p kappa n log n / eps^2.
    """
    codes = rng.standard_normal((N, D - 1))
    codes /= np.linalg.norm(codes, axis=1, keepdims=True)
    lifted = np.ones(N)
    lifted[rng.permutation(N)[:4]] = 0
    k = np.column_stack([codes, np.ones(N)])
    low, high, weak, strong = 0.0, 12.0, 0.0, float(np.log(kappa))
    own = rng.permutation(N)
    for _ in range(16):  # the sharpest queries that alpha allows
        middle = (low + high) / 2
        sharp = {"q": np.column_stack([middle * codes[own], np.zeros(N)]), "k": k}
        low, high = (middle, high) if reference(sharp).facts["alpha"] <= alpha else (low, middle)
    arrays = {"q": np.column_stack([low * codes[own], np.zeros(N)]), "k": k}
    for _ in range(10):  # and the largest spread of the row sums that kappa allows
        middle = (weak + strong) / 2
        arrays["q"][:, -1] = middle * lifted
        weak, strong = (middle, strong) if kappa_of(np, reference(arrays)) <= kappa else (weak, middle)
    arrays["q"][:, -1] = weak * lifted
    return arrays


def within(arrays: Arrays) -> Arrays:
    """Entries of at most 8, in half precision, as they are stored."""
    return {name: np.clip(a, -8, 8).astype(np.float16).astype(np.float64) for name, a in arrays.items()}


def approxd_size(xp: Any, arrays: Arrays, *, kappa: float, alpha: float, draws: int, trials: int) -> Found:
    """Critical size of ApproxD as the ratio to climb; below 0 beyond the limits, the farther the lower."""
    x = reference(arrays)
    beyond = max(x.facts["alpha"] / alpha, kappa_of(xp, x) / kappa)
    if beyond > 1:
        return Found(arrays, {}, -beyond, False)
    return Found(arrays, {}, size_of(xp, x, draws=draws, trials=trials), False)


def worst_for_approxd(
    xp: Any, start: Arrays, rng: np.random.Generator, *, steps: int, kappa: float, alpha: float
) -> Arrays:
    """The end of a climb with fixed draws, 10 of them for each size."""
    measure = partial(approxd_size, xp, draws=int(rng.integers(2**31)), trials=10, kappa=kappa, alpha=alpha)
    return climb(within(start), measure, within, rng, steps)[0].arrays


# ------------------------------------------------------------------------------------------------ Lemma 2, the constant
def product_ratio(xp: Any, arrays: Arrays, *, draws: int, trials: int) -> Found:
    """Critical size of the product over `eps^-2 d_v srank(P)`: at most 10, by Markov's inequality."""
    x = reference(arrays)
    unit = D_V * x.facts["srank"] / EPS**2
    excess = excess_of(xp, x, part="product", draws=draws, trials=trials)
    return Found(arrays, {}, last_miss(excess, start=10 * unit) / unit, False)


def product_start(rng: np.random.Generator) -> Arrays:
    """Gaussian queries and keys, or a sink with a small value; columns of V nearly orthogonal: srank(V) is about d_v.

    The sample has such a sink rarely, and then counts it far too often.
    """
    q, k = rng.standard_normal((N, D)), rng.standard_normal((N, D))
    v = np.sqrt(N) * np.linalg.qr(rng.standard_normal((N, D_V)))[0]
    if rng.random() < 0.5:
        q, k, v[0] = 0.3 * q, 0.3 * k, 0.4 * v[0] * np.sqrt(D_V) / np.linalg.norm(v[0])
        q[:, 0], k[:, 0], k[0] = 3.0, 0.0, np.eye(D)[0] * 3
    return {"q": q, "k": k, "v": v}


def worst_for_product(xp: Any, start: Arrays, rng: np.random.Generator, *, steps: int) -> Arrays:
    """The end of a climb with fixed draws, 400 of them for each size."""
    measure = partial(product_ratio, xp, draws=int(rng.integers(2**31)), trials=400)
    return climb(within(start), measure, within, rng, steps)[0].arrays
