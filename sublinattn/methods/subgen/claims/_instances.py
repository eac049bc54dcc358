"""Small streams for the adversary of SubGen's inequalities: how to start, where the claims speak, what is measured.

Rows are tokens; `order` has the places in the stream at which they arrive.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ....core.backends import asnumpy, to_device
from ....primitives.clustering import OnlineClusters
from ....theory.adversary import Arrays
from ....theory.claim import Case, Trial
from ._broken import BROKEN
from .setting import Cache, chunks, fed, members, stream

N, D, PARTS = 24, 3, 6
FAR = 1e4
"""Distance of the keys from 0, in which products lose digits."""
IN_DIGITS: tuple[Case, ...] = tuple(
    {"offset": offset, "dtype": dtype} for offset in (0.0, FAR) for dtype in ("float64", "float32")
)
FEW_STEPS = {"smoke": 200, "standard": 4000}
"""A stream takes some milliseconds."""


def stream_start(rng: np.random.Generator, **case: Any) -> Arrays:
    """Parts that are close together, in random order."""
    x = stream(rng, N, D, clusters=PARTS, delta=0.9, separation=2.01, norm=2.0)
    return {"k": x.k, "order": rng.standard_normal(N)}


def parted_start(rng: np.random.Generator, **case: Any) -> Arrays:
    """The same number of parts, which may overlap; token i is in part i modulo PARTS."""
    centers = 1.2 * rng.standard_normal((PARTS, D))
    k = centers[np.arange(N) % PARTS] + 0.3 * rng.standard_normal((N, D))
    return parted_kept({"k": k, "order": rng.standard_normal(N)}, **case)


def stream_kept(arrays: Arrays, **case: Any) -> Arrays:
    return {"k": np.clip(arrays["k"], -4, 4), "order": np.clip(arrays["order"], -4, 4)}


def parted_kept(arrays: Arrays, *, offset: float, dtype: str, **case: Any) -> Arrays:
    """Every part shrunk about its mean until no two of its tokens are farther apart than delta, once rounded."""
    k, margin = np.clip(arrays["k"], -4, 4), 8 * np.finfo(dtype).eps * (1 + offset)
    for part in range(PARTS):
        own = slice(part, N, PARTS)
        middle = k[own].mean(axis=0)
        diameter = members(k[own], k[own])[0].max()
        k[own] = middle + (k[own] - middle) * min(1.0, (1 - margin) / max(diameter, 1e-300))
    return {"k": k, "order": np.clip(arrays["order"], -4, 4)}


def clustering(
    xp: Any, arrays: Arrays, *, offset: float, dtype: str, broken: str = "nothing"
) -> tuple[np.ndarray, np.ndarray]:
    """Keys, as they are rounded, and the centers, delta = 1, chunks of seven tokens."""
    k = (arrays["k"] + offset).astype(dtype)
    arriving = k[np.argsort(arrays["order"])]
    cache = fed(Cache(1.0, 1, 1, broken=broken, rng=0), xp, arriving, arriving, chunks(N, 7))
    return k.astype(np.float64), asnumpy(cache.centers).astype(np.float64)


def count_measured(xp: Any, arrays: Arrays, **case: Any) -> Trial:
    """Clusters against parts."""
    k, centers = clustering(xp, arrays, **case)
    diameter = max(float(members(k[part::PARTS], k[part::PARTS])[0].max()) for part in range(PARTS))
    facts = {"n": N, "parts": PARTS, "diameter": diameter, "delta": 1.0, "m": len(centers)}
    return Trial(len(centers), PARTS, facts=facts)


def separation_measured(xp: Any, arrays: Arrays, **case: Any) -> Trial:
    """delta over the smallest distance of two centers."""
    _, centers = clustering(xp, arrays, **case)
    distance = members(centers, centers)[0][~np.eye(len(centers), dtype=bool)]
    return Trial(float(1.0 / distance.min(initial=np.inf)), 1.0, facts={"n": N, "m": len(centers)})


def radius_measured(xp: Any, arrays: Arrays, *, offset: float, dtype: str, broken: str = "nothing") -> Trial:
    """Largest distance of a key to the center that it joined."""
    k = (arrays["k"] + offset).astype(dtype)[np.argsort(arrays["order"])]
    keys = to_device(k, xp)
    clusters = BROKEN[broken].get("clusters", OnlineClusters)(1.0, keys[:0])
    labels = np.concatenate([clusters.absorb(xp, keys[chunk]) for chunk in chunks(N, 7)])
    centers = asnumpy(clusters.centers.rows).astype(np.float64)
    distance = np.linalg.norm(k.astype(np.float64) - centers[labels], axis=1)
    return Trial(float(distance.max()), 1.0, facts={"n": N, "m": len(centers)})


def query_start(rng: np.random.Generator, **case: Any) -> Arrays:
    """A query, and keys in one or a few clusters."""
    return query_kept({"q": rng.standard_normal(2), "k": rng.choice([0.3, 1.0]) * rng.standard_normal((16, 2))})


def query_kept(arrays: Arrays, **case: Any) -> Arrays:
    """Queries between 0.1 and 3 long, keys between -4 and 4."""
    q = arrays["q"] if arrays["q"].any() else np.ones(2)
    length = np.linalg.norm(q)
    return {"q": q * np.clip(length, 0.1, 3.0) / length, "k": np.clip(arrays["k"], -4, 4)}
