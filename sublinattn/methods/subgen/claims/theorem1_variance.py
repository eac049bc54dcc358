"""The largest variance of SubGen's normaliser, with the sharp constant [SG24]."""

from __future__ import annotations

from typing import Any

import numpy as np
import sympy as sp

from ....core.backends import to_device
from ....primitives.clustering import OnlineClusters
from ....theory import symbols
from ....theory.adversary import Arrays, Search
from ....theory.claim import Claim, Exact, Sabotage, Trial
from ._broken import BROKEN
from ._instances import query_kept, query_start
from .setting import chunks, stream
from .theorem1_estimators import NORMALISER, TAU, VAR, D


def relative_variance(
    rng: np.random.Generator,
    xp: Any,
    *,
    n: int,
    length: float,
    tight: bool,
    reach: float = 1.0,
    narrow: float = 1.0,
    broken: str = "nothing",
) -> Trial:
    """`t Var(tau) / E[tau]^2` over its largest term, and that over `sinh(delta r)^2`: the larger of the two ratios.

    `tight`: two clusters, each with members at distance delta on either side of its center, in the shares at which the
    bound is met; at `reach` times delta, beyond 1, they make more clusters.
    """
    delta = 1.0
    if tight:
        u = rng.standard_normal(D)
        u /= np.linalg.norm(u)
        share = 1 / (1 + np.exp(2 * length * delta))
        side = np.where(np.arange(n) < round(share * n), 1, -1) * reach * delta * (1 - 1e-12)
        k = np.concatenate([offset + np.concatenate([np.zeros((1, D)), side[:, None] * u]) for offset in (0.0, 9.0)])
        q = length * u
    else:
        x = stream(rng, n, D, clusters=8, delta=1.4, norm=20.0, query_norm=length)
        q, k = x.q[0], x.k
    return variance_ratios(xp, q, k, delta=delta, narrow=narrow, broken=broken)


def variance_ratios(
    xp: Any, q: np.ndarray, k: np.ndarray, *, delta: float = 1.0, narrow: float = 1.0, broken: str = "nothing"
) -> Trial:
    """The same for one query and keys in the order of the stream; the measurement `share` is the claim's own ratio."""
    length = float(np.linalg.norm(q))
    keys = to_device(k, xp)
    clusters = BROKEN[broken].get("clusters", OnlineClusters)(delta, keys[:0])
    labels = np.concatenate([clusters.absorb(xp, keys[chunk]) for chunk in chunks(len(k), 100)])
    e = np.exp(k @ q - (k @ q).max())
    groups = [e[labels == i] for i in range(len(clusters.centers))]
    # t Var(tau) = sum over clusters of count^2 times the variance of exp(<q, k>) within
    whole = float(sum(len(g) ** 2 * g.var() for g in groups) / e.sum() ** 2)
    within = float(max(g.var() / g.mean() ** 2 for g in groups))
    bound = float(np.sinh(delta * length / narrow) ** 2)
    ratio = max(whole / within if within else 0.0, within / bound)
    facts = {"n": len(k), "m": len(clusters.centers), "within": within, "whole": whole, "delta_r": delta * length}
    return Trial(ratio, 1.0, facts={**facts, "share": whole / bound})


def share_measured(xp: Any, arrays: Arrays) -> Trial:
    """`t Var(tau) / E[tau]^2` over its bound: with a single cluster the trial's other ratio is 1 whatever it is."""
    facts = variance_ratios(xp, arrays["q"], arrays["k"]).facts
    return Trial(facts["share"], 1.0, facts=facts)


CLAIMS = (
    Claim(
        id="sg24.tau-bound",
        restated="f3b104c: keys that are too far apart for one cluster were not among the two-sided ones",
        paper="SG24",
        source="proof of Theorem 1, with the sharp constant derived here",
        basis="theorem",
        title="The relative variance of tau is at most sinh(delta r)^2 / t",
        statement=sp.Le(symbols.t * VAR(TAU) / NORMALISER**2, sp.sinh(symbols.delta * symbols.r) ** 2),
        kind=Exact("<=", rtol=1e-9),
        trial=relative_variance,
        cases={
            "smoke": tuple(
                {"n": n, "length": length, **how}
                for n, how in ((300, {"tight": False}), (1000, {"tight": True}), (1000, {"tight": True, "reach": 1.5}))
                for length in (0.25, 1.0, 2.0)
            )
        },
        max_trials={"smoke": 5, "standard": 50},
        search=Search(query_start, share_measured, query_kept),
        sabotages=(
            Sabotage("twice delta", "keys join a centre within twice delta", {"broken": "wide clusters"}),
            Sabotage("half of delta", "sinh(delta r / 2)^2", {"narrow": 2.0}, breaks="bound"),
        ),
        remark=(
            "Logits of a cluster differ by at most 2 delta r, and a variable between a and b has at most the variance "
            "(b - a)^2 / (4ab) over its squared mean: (e^{2 delta r} - 1)^2 / (4 e^{2 delta r}). Two-sided clusters "
            "meet it."
        ),
    ),
)
