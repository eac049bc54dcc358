"""Instances on which SubGen needs many slots or samples, for an adversary to climb [SG24, Theorem 1].

As in every climb over a critical size, all instances see the same draws, and what is reached is measured again with
fresh ones.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from ....core.backends import to_device
from ....primitives.clustering import OnlineClusters
from ....theory.adversary import Arrays, Found, climb
from ....theory.search import critical_size
from .theorem1 import Problem
from .theorem1_sizes import MISSES

N, D, D_V, DELTA = 24, 2, 2, 1.0
KEPT = 2**16
"""Slots or samples of a cluster; any s of them are a draw of s."""
LARGEST = 128
"""Above what Chebyshev's inequality asks for."""


def size_of(
    errors: Callable[[np.ndarray], np.ndarray], terms: np.ndarray, rng: np.random.Generator, eps: float
) -> float:
    """Largest number of `terms` in a mean at which a tenth of the means are off by more than eps; at most 2 LARGEST.

    It is looked for from above, since means of very few terms may miss what is rare, and be off by little.
    """

    def excess(size: int) -> float:
        draws = len(terms) // size
        means = terms[: draws * size].reshape(draws, size, -1).mean(axis=1)
        return float(np.quantile(errors(means), 1 - MISSES, method="higher") / eps)

    return critical_size(excess, start=LARGEST, cap=2 * LARGEST, rng=rng)


def slots_ratio(xp: Any, arrays: Arrays, *, draws: int, eps: float = 0.4) -> Found:
    """Critical number of slots over `eps^-2 d_v`: at most 10, by Chebyshev's inequality.

    The slots are drawn from their law, which sg24.slot-law and others test.
    """
    x, rng = Problem(np.ones((1, 1)), arrays["logits"][:, None], arrays["v"]), np.random.default_rng(draws)
    held = rng.choice(N, KEPT, p=x.law)
    terms = (x.e / x.law)[held, None] * x.v[held]  # z is the mean over the slots of mu / ||v||^2 exp(<q, k>) v
    size = size_of(lambda z: np.linalg.norm(z - x.numerator, axis=1) / x.numerator_unit, terms, rng, eps)
    return Found(arrays, {}, size * eps**2 / D_V, False)


def samples_ratio(xp: Any, arrays: Arrays, *, draws: int, eps: float = 0.35) -> Found:
    """Critical number of samples of each cluster over `eps^-2 e^{2 delta r}`: at most `10 sinh(1)^2 / e^2`.

    Samples are uniform in their cluster, which sg24.sample-law and others test.
    """
    x, rng = Problem(arrays["q"][None], arrays["k"], np.ones((N, 1))), np.random.default_rng(draws)
    keys = to_device(x.k, xp)
    labels = OnlineClusters(DELTA, keys[:0]).absorb(xp, keys)
    members = [x.e[labels == cluster] for cluster in range(labels.max() + 1)]
    sums = sum(len(e) * e[rng.integers(len(e), size=KEPT)] for e in members)
    size = size_of(lambda tau: abs(tau[:, 0] / x.normaliser - 1), np.asarray(sums)[:, None], rng, eps)
    return Found(arrays, {}, size * eps**2 / float(np.exp(2 * DELTA * x.facts["r"])), False)


def slots_start(rng: np.random.Generator) -> Arrays:
    """A token of large logit and small value among others; columns nearly orthogonal: srank(V) is about d_v.

    A slot holds this token rarely, and then counts it far too often. At a size where one draw in ten has such a slot,
    Chebyshev's inequality is nearly met.
    """
    logits, v = rng.standard_normal(N), np.linalg.qr(rng.standard_normal((N, D_V)))[0]
    logits[0] = 7.0
    v[0] *= rng.choice([0.05, 0.2, 1.0])
    return {"logits": logits, "v": v}


def samples_start(rng: np.random.Generator) -> Arrays:
    """One or a few clusters."""
    return {"q": rng.standard_normal(D), "k": rng.choice([0.3, 1.0]) * rng.standard_normal((N, D))}


def within(arrays: Arrays) -> Arrays:
    """Entries of at most 8 (logits and values) or 4; queries of length 1, so that delta r = 1; no value is 0."""
    if "v" in arrays:
        v = np.clip(arrays["v"], -8, 8)
        v[(v**2).sum(axis=1) < 1e-6] = 1e-3
        return {"logits": np.clip(arrays["logits"], -8, 8), "v": v}
    q = arrays["q"] if arrays["q"].any() else np.ones(D)
    return {"q": q / np.linalg.norm(q), "k": np.clip(arrays["k"], -4, 4)}


RATIOS: dict[str, tuple[Callable[..., Found], Callable[..., Arrays]]] = {
    "slots": (slots_ratio, slots_start),
    "samples": (samples_ratio, samples_start),
}


def worst(xp: Any, part: str, start: Arrays, rng: np.random.Generator, *, steps: int) -> Arrays:
    """The end of a climb with fixed draws, for the "slots" or the "samples"."""
    ratio, _ = RATIOS[part]
    return climb(within(start), partial(ratio, xp, draws=int(rng.integers(2**31))), within, rng, steps)[0].arrays
