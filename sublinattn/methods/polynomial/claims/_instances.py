"""Small instances for the adversary of this paper's inequalities: how to start, and where the claims speak."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.random import Generator

from ....theory.adversary import Arrays


def factors_start(rng: Generator, *, kind: str) -> Arrays:
    return {"logits": rng.standard_normal((2, 16)), "e": rng.uniform(-1, 1, (2, 16)), "v": rng.standard_normal((16, 2))}


def factors_kept(arrays: Arrays, *, kind: str) -> Arrays:
    """Factors 1 + e > 0, not all so close to 1 that rounding counts; logits within 20; values of size 1."""
    e = np.clip(arrays["e"], 1e-9 - 1, 1 - 1e-9)
    e *= max(1.0, 0.01 / max(np.abs(e).max(), 1e-12))
    v = arrays["v"] / (np.abs(arrays["v"]).max() or 1.0)
    return {"logits": np.clip(arrays["logits"], -20, 20), "e": e, "v": v if v.any() else v + 1}


def attention_start(rng: Generator, **case: Any) -> Arrays:
    rows = {"q": (2, 2), "k": (16, 2), "v": (16, 1)}
    return attention_kept({name: rng.uniform(-1, 1, shape) for name, shape in rows.items()}, **case)


def attention_kept(arrays: Arrays, *, radius: float, **case: Any) -> Arrays:
    """Logits of at most `radius`, by the longest query and key, as the algorithm sees them; values of size 1."""
    longest = np.sqrt(2 * radius * (1 - 1e-9))
    q, k = (arrays[name] * longest / (np.linalg.norm(arrays[name], axis=1).max() or np.inf) for name in ("q", "k"))
    v = arrays["v"] / (np.abs(arrays["v"]).max() or 1.0)
    return {"q": q, "k": k, "v": v if v.any() else v + 1}
