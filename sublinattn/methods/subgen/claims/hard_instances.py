"""Instances on which SubGen needs many slots or samples, for an adversary to climb [SG24, Theorem 1].

As in every climb over a critical size, all instances see the same draws, and what is reached is measured again with
fresh ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ....core.backends import to_device
from ....primitives.clustering import OnlineClusters
from ....theory.adversary import Arrays, Found, climb
from ....theory.search import last_miss
from .theorem1 import Problem
from .theorem1_sizes import MISSES

N, D, D_V, DELTA = 24, 2, 2, 1.0
KEPT = 2**16
"""Slots or samples of a cluster; any s of them are a draw of s."""
LARGEST = 136
"""Above what Chebyshev's inequality asks for."""


def size_of(errors: Callable[[np.ndarray], np.ndarray], terms: np.ndarray, eps: float) -> float:
    """Largest number of `terms` in a mean at which a tenth of the means are off by more than eps."""

    def excess(size: int) -> float:
        draws = len(terms) // size
        means = terms[: draws * size].reshape(draws, size, -1).mean(axis=1)
        return float(np.quantile(errors(means), 1 - MISSES, method="higher") / eps)

    return last_miss(excess, start=LARGEST)


def slots_ratio(xp: Any, arrays: Arrays, *, draws: int, eps: float = 0.4) -> Found:
    """Critical number of slots over `eps^-2 d_v`: at most 10, by Chebyshev's inequality.

    The slots are drawn from their law, which sg24.slot-law and others test.
    """
    x, rng = Problem(np.ones((1, 1)), arrays["logits"][:, None], arrays["v"]), np.random.default_rng(draws)
    held = rng.choice(N, KEPT, p=x.law)
    terms = (x.e / x.law)[held, None] * x.v[held]  # z is the mean over the slots of mu / ||v||^2 exp(<q, k>) v
    size = size_of(lambda z: np.linalg.norm(z - x.numerator, axis=1) / x.numerator_unit, terms, eps)
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
    size = size_of(lambda tau: abs(tau[:, 0] / x.normaliser - 1), np.asarray(sums)[:, None], eps)
    return Found(arrays, {}, size * eps**2 / float(np.exp(2 * DELTA * x.facts["r"])), False)


def slots_start(rng: np.random.Generator) -> Arrays:
    """A token of large logit and small value among others; columns nearly orthogonal: srank(V) is about d_v.

    A slot holds this token rarely, and then counts it far too often. At a size where one draw in ten has such a slot,
    Chebyshev's inequality is nearly met.
    """
    logits, v = rng.standard_normal(N), np.linalg.qr(rng.standard_normal((N, D_V)))[0]
    logits[0] = 8.0
    v[0] *= rng.choice([0.18, 1.0]) * np.sqrt(D_V / N) / np.linalg.norm(v[0])
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


def drawn(part: str, rng: np.random.Generator) -> Arrays:
    """An input that nobody has worsened: Gaussian, for the samples in clusters."""
    if part == "slots":
        return {"logits": rng.standard_normal(N), "v": rng.standard_normal((N, D_V))}
    return within({"q": rng.standard_normal(D), "k": 0.4 * rng.standard_normal((N, D))})


RATIOS: dict[str, tuple[Callable[..., Found], Callable[..., Arrays]]] = {
    "slots": (slots_ratio, slots_start),
    "samples": (samples_ratio, samples_start),
}


def worst(xp: Any, part: str, start: Arrays, rng: np.random.Generator, *, steps: int) -> Arrays:
    """The end of a climb, for the "slots" or the "samples", over the least ratio of three fixed draws.

    With a single one the climb would seek its luck.
    """
    ratio, _ = RATIOS[part]
    draws = [int(one) for one in rng.integers(2**31, size=3)]

    def least(arrays: Arrays) -> Found:
        return min((ratio(xp, arrays, draws=one) for one in draws), key=lambda found: found.ratio)

    return climb(within(start), least, within, rng, steps)[0].arrays
