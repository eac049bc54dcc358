"""The laws of SubGen's slots beside the paper's: by distance from the running mean, and uniform. Derived here."""

from __future__ import annotations

from typing import Any

import numpy as np
import sympy as sp

from ....theory.claim import Claim, Mean, Sabotage, Trial
from .algorithm1_laws import PEARSON, SLOT, SLOTS, TOKENS, J, P, pearson
from .setting import Cache, fed, numbered, numbers, random_chunks


def weights_under(law: str, v: np.ndarray, *, first: int = 0) -> np.ndarray:
    """Weights of the values (n, d_v) under a law, those from `first` on, token after token, in the values' own unit."""
    if law in ("norm", "uniform"):
        return np.array([float(row @ row) if law == "norm" else 1.0 for row in v])[first:]
    before = np.cumsum(v, axis=0)[:-1] / np.arange(1, len(v))[:, None]
    far = np.linalg.norm(v[1:] - before, axis=1)
    far = np.append(far[0], far)  # before the second value there is no mean to be far from: the first weighs as much
    return far[first:] ** (2 if law == "centred" else 1)


def slots_under(
    rng: np.random.Generator,
    xp: Any,
    *,
    law: str,
    chunks: int = 5,
    heads: int = 1,
    recent: int = 0,
    share: float = 0.0,
    broken: str = "nothing",
) -> Trial:
    """Pearson's statistic of the tokens in the slots of the last head, each head with values of its own.

    With `share`, of a cache that saw this share of the first 30 tokens, was merged with one that saw the others of
    these, in other units, and then saw the rest.
    """
    rows = [numbered(rng, TOKENS, 3) for _ in range(heads)]
    k, v = (np.stack(x) if heads > 1 else x[0] for x in zip(*rows, strict=True))
    v = v + np.array([1.0, 0.0, 0.0])  # the law by norms is then another

    def cache() -> Cache:
        return Cache(value_samples=SLOTS, normaliser="slots", law=law, recent=recent, broken=broken, rng=rng)

    if share:
        ends = (0, round(share * 30), 30, TOKENS)
        v[ends[1] : ends[2]] *= 3
        first, second, third = (slice(a, b) for a, b in zip(ends[:-1], ends[1:], strict=True))
        one, two = (fed(cache(), xp, k, v, [part]) for part in (first, second))
        head = fed(one.merge(two), xp, k, v, [third]).head
        parts = (weights_under(law, v[first]), weights_under(law, v[second]), weights_under(law, v, first=ends[2]))
        weights = np.concatenate(parts)
    else:
        head = fed(cache(), xp, k, v, random_chunks(rng, TOKENS, chunks)).head
        weights = weights_under(law, v[-1] if heads > 1 else v)[: TOKENS - recent]
    counts = np.bincount(numbers(head.slot_keys), minlength=len(weights))
    statistic, mean, deviation = pearson(counts, weights / weights.sum())
    return Trial(statistic, mean, scale=deviation, facts={"draws": SLOTS})


WEIGHT, TOTAL = sp.Symbol("w_j", positive=True), sp.Symbol(r"\sum_i w_i", positive=True)
LAWS = ("centred", "distance", "uniform")

CLAIMS = (
    Claim(
        id="sg24.law-slots",
        paper="SG24",
        source="derived here from Algorithm 1 (the sampled values)",
        basis="derived",
        title="Under the other laws a slot holds token j in proportion to its weight, whatever the chunks, also merged",
        statement=sp.Eq(P(sp.Eq(SLOT, J)), WEIGHT / TOTAL),
        kind=Mean(resolution=0.1),
        trial=slots_under,
        cases={
            "smoke": tuple(
                {"law": law, **how}
                for law in LAWS
                for how in ({"chunks": 1}, {"chunks": 40}, {"heads": 3, "recent": 7}, {"share": 0.3})
            )
        },
        max_trials={"smoke": 300, "standard": 2000},
        sabotages=(
            Sabotage("off by one", "replaced with probability w/mu, mu without the token", {"broken": "eager slots"}),
            Sabotage("uniform", "all tokens are alike", {"broken": "uniform slots"}),
            Sabotage("late mean", "the mean is that of the values up to the token's own", {"broken": "late mean"}),
            Sabotage("own units", "merged streams keep the units of their weights", {"broken": "own units"}),
        ),
        remark=PEARSON.format("4000 slots", TOKENS)
        + " w_j is |v_j - mean|^2 or |v_j - mean|, mean being that of the values before token j (the first token "
        "weighs as much as the second), or 1. Merged: each stream's weights are from its own mean.",
    ),
)
