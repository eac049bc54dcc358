"""The guarantee of the greedy k-center, on the cache that keeps its centers [GON85]."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import sympy as sp
from numpy.random import Generator

from ....core.backends import asnumpy
from ....theory.adversary import Arrays, Search
from ....theory.claim import Claim, Exact, Sabotage, Trial
from ..k_center import KCenterCache
from .answers import fed, tokens


def covering_radius(rng: Generator, xp: Any, *, n: int, m: int, farthest: bool = True) -> Trial:
    """Radius of the balls around m stored keys over the least possible. Sabotage: the newest keys are stored."""
    return radius_over_least(xp, tokens(rng, n, heads=1)[1], m=m, farthest=farthest)


def radius_over_least(xp: Any, k: np.ndarray, *, m: int, farthest: bool = True) -> Trial:
    """The same of these keys (1, n, d); 0 if m of them cover all."""
    n = k.shape[1]
    cache = fed(KCenterCache(m, 0 if farthest else m), xp, k, k, [slice(0, n)])
    distance = np.linalg.norm(k[0][:, None] - k[0], axis=-1)
    least = min(distance[:, chosen].min(axis=1).max() for chosen in map(list, combinations(range(n), m)))
    centers = asnumpy(cache.contents()["keys"])[0]
    radius = np.linalg.norm(k[0][:, None] - centers, axis=-1).min(axis=1).max()
    return Trial(float(radius / least) if least else float(radius), 2.0, facts={"n": n, "m": m})


def keys_start(rng: Generator, *, m: int) -> Arrays:
    return {"k": rng.standard_normal((8, 2))}


def keys_kept(arrays: Arrays, *, m: int) -> Arrays:
    """Keys between 0 and 1, so far apart that rounding does not count."""
    k = arrays["k"] - arrays["k"].min(axis=0)
    return {"k": (k / (k.max() or 1.0)).round(6)}


def keys_measured(xp: Any, arrays: Arrays, *, m: int) -> Trial:
    return radius_over_least(xp, arrays["k"][None], m=m)


CLAIMS = (
    Claim(
        id="gon85.radius",
        paper="GON85",
        source="the guarantee of the greedy algorithm",
        basis="theorem",
        source_checked=False,
        title="Greedy centers cover the keys with at most twice the least possible radius",
        statement=sp.Le(sp.Symbol(r"\max_j \min_{c \in S} \|k_j - c\|"), 2 * sp.Symbol(r"\mathrm{opt}_m")),
        kind=Exact("<="),
        trial=covering_radius,
        cases={"smoke": ({"n": 12, "m": 2}, {"n": 12, "m": 4})},
        max_trials={"smoke": 20, "standard": 200},
        search=Search(keys_start, keys_measured, keys_kept, ({"m": 2}, {"m": 3}), {"smoke": 200}),
        sabotages=(Sabotage("newest keys", "the newest keys are the centers", {"farthest": False}),),
        remark="The least radius is that of the best of all sets of m keys.",
    ),
)
