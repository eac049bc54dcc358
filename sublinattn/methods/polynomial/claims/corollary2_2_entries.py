"""Every entry of the attention matrix is within 1 +- eps of what it stands for: Corollary 2.2 in the algorithm [AS23].

The entries are read off the output of `polynomial_attention` for V = I.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import sympy as sp
from numpy.random import Generator

from ....core.backends import asnumpy, to_device
from ....theory import symbols
from ....theory.adversary import Arrays, Search
from ....theory.claim import Claim, Exact, Sabotage, Trial
from ..approximants import BASES, minimal_degree
from ..polynomial import PolynomialState
from .theorem3_8_attention import attend, largest_logit

POINTS = 200  # logits in a row
LOG_EPS, RADII = (math.log(1e-6), math.log(0.1)), (0.3, 3.0)


def entry_factors(
    rng: Generator, xp: Any, *, basis: str, default: bool = False, short: int = 0, part: float = 1.0
) -> Trial:
    """Largest over smallest factor by which the entries of a row of the softmax matrix are off, at logits from -R to R.

    eps is drawn, or by `default` that of the algorithm, 1/n. Sabotages: the degree is lower by `short`; degree and
    polynomial are those of the interval [-part R, part R].
    """
    scale = float(rng.uniform(0.3, 3.0))
    eps = 1 / POINTS if default else math.exp(rng.uniform(*LOG_EPS))
    direction, radius = rng.standard_normal(3), rng.uniform(*RADII)
    return factors_at(
        xp,
        eps=eps,
        radius=radius,
        scale=scale,
        direction=direction,
        basis=basis,
        default=default,
        short=short,
        part=part,
    )


def factors_at(
    xp: Any,
    *,
    eps: float,
    radius: float,
    scale: float,
    direction: np.ndarray,
    basis: str,
    default: bool = False,
    short: int = 0,
    part: float = 1.0,
) -> Trial:
    """The same at one eps and R.

    The values are the identity, so that the output is the softmax matrix itself. Queries and keys are multiples of one
    vector, so the first query meets all logits.
    """
    direction = direction * (math.sqrt(radius / scale) / np.linalg.norm(direction))  # of length sqrt(R / scale)
    q = np.array([1.0, 0.5, -0.9])[:, None] * direction
    k = np.cos(np.linspace(0, np.pi, POINTS))[:, None] * direction
    reach = part * largest_logit(q, k, scale)
    degree = minimal_degree(basis, eps, reach) - short
    if part != 1:
        given = {} if basis == "taylor" else {"radius": reach}
        state = PolynomialState(len(direction), POINTS, degree=degree, scale=scale, basis=basis, **given)
        out = asnumpy(state.update(*(to_device(x, xp) for x in (k, np.eye(POINTS)))).attend(to_device(q, xp)))
    else:
        accuracy = {"degree": degree} if short else {} if default else {"eps": eps}
        out = attend(xp, q, k, np.eye(POINTS), basis=basis, scale=scale, **accuracy)
    weights = np.exp(scale * q @ k.T)
    factors = out * weights.sum(axis=1, keepdims=True) / weights
    spread = (factors.max(axis=1) / factors.min(axis=1)).max() if factors.min() > 0 else math.inf
    return Trial(float(spread), (1 + eps) / (1 - eps), facts={"varepsilon": eps, "R": reach, "g": degree})


def factors_start(rng: Generator, *, basis: str) -> Arrays:
    return {
        "log_eps": np.array([rng.uniform(*LOG_EPS)]),
        "log_R": np.log([rng.uniform(*RADII)]),
        "log_scale": rng.uniform(-1, 1, 1),
        "direction": rng.standard_normal(3),
    }


def factors_kept(arrays: Arrays, *, basis: str) -> Arrays:
    limits: dict[str, tuple[float, float]] = {
        "log_eps": LOG_EPS,
        "log_R": (math.log(RADII[0]), math.log(RADII[1])),
        "log_scale": (-1.0, 1.0),
    }
    kept = {name: np.clip(arrays[name], *both) for name, both in limits.items()}
    return {**kept, "direction": arrays["direction"] + 1e-3 * (np.abs(arrays["direction"]).max() < 1e-3)}


def factors_measured(xp: Any, arrays: Arrays, *, basis: str) -> Trial:
    eps, radius, scale = (math.exp(arrays[name][0]) for name in ("log_eps", "log_R", "log_scale"))
    return factors_at(xp, eps=eps, radius=radius, scale=scale, direction=arrays["direction"], basis=basis)


FACTORS = sp.Symbol(r"\max_{j,j'}\frac{\widetilde{P}_{ij}/P_{ij}}{\widetilde{P}_{ij'}/P_{ij'}}", positive=True)

CLAIMS = (
    Claim(
        id="as23.entries",
        paper="AS23",
        source="Corollary 2.2 in Theorem 3.8 (our choice of the degree)",
        basis="derived",
        title="polynomial_attention(eps=...) has every entry of A within a factor 1 +- eps",
        statement=sp.Le(FACTORS, (1 + symbols.eps) / (1 - symbols.eps)),
        kind=Exact("<="),
        trial=entry_factors,
        cases={"smoke": tuple({"basis": basis, "default": default} for basis in BASES for default in (False, True))},
        max_trials={"smoke": 8, "standard": 100},
        sabotages=(
            Sabotage("a degree short", "the degree is one below the least that reaches eps on [-R, R]", {"short": 1}),
            Sabotage("half the radius", "degree and polynomial are those of [-R/2, R/2]", {"part": 0.5}),
        ),
        search=Search(
            factors_start,
            factors_measured,
            factors_kept,
            tuple({"basis": basis} for basis in BASES),
            {"smoke": 150, "standard": 1500},
        ),
        remark=(
            "Read off the output for V = I, at 200 logits from -R to R; the quotient of two entries of a row is free "
            "of the normaliser. eps from 1e-6 to 0.1, or the algorithm's own 1/n. The bound is attained where the "
            "least degree only just reaches eps."
        ),
    ),
)
