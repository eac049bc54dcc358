"""HyperAttention's hash: collision and adjacency laws of the Hamming-sorted LSH [HA24, Definition 1; KDE23]."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import sympy as sp

from ....core.backends import asnumpy, to_device
from ....theory import symbols
from ....theory.claim import Assumption, Claim, Drop, Exact, Mean, Sabotage, Trial
from ..sort_lsh import buckets, gray_rank, hyperplanes


def _stretched(rng: np.random.Generator, batch: int, d: int, bits: int) -> np.ndarray:
    """Hyperplanes that are not isotropic."""
    planes = hyperplanes(rng, batch, d, bits)
    planes[:, 0] *= 4
    return planes


def _one_for_all(rng: np.random.Generator, batch: int, d: int, bits: int) -> np.ndarray:
    """One hyperplane for all bits."""
    return np.repeat(hyperplanes(rng, batch, d, 1), bits, axis=2)


PLANES: dict[str, Callable[..., np.ndarray]] = {"gaussian": hyperplanes, "stretched": _stretched, "one": _one_for_all}


def collision(
    rng: np.random.Generator, xp: Any, *, angle: float, bits: int, d: int, draws: int, planes: str = "gaussian"
) -> Trial:
    """Share of `draws` independent hashes under which two points at `angle * pi` meet."""
    x = np.zeros((draws, 2, d), np.float32)
    x[:, :, 0] = 1, math.cos(angle * math.pi)
    x[:, 1, 1] = math.sin(angle * math.pi)
    h = asnumpy(buckets(xp, to_device(x, xp), to_device(PLANES[planes](rng, draws, d, bits), xp)))
    law = (1 - angle) ** bits  # Pr[h(x) = h(y)] = (1 - theta/pi)^r
    return Trial(
        measured=float((h[:, 0] == h[:, 1]).mean()),
        bound=law,
        scale=math.sqrt(law * (1 - law) / draws),
        facts={"theta": angle * math.pi, "r": bits, "isotropic": float(planes != "stretched")},
    )


COLLISION_CASES = tuple(
    {"angle": angle, "bits": bits, "d": 16, "draws": 250}
    for angle, bits in ((0.05, 8), (0.1, 4), (0.25, 2), (0.5, 1), (0.5, 3))
)

CODES: dict[str, Callable[[np.ndarray], np.ndarray]] = {"gray": gray_rank, "binary": lambda code: code}


def adjacency(rng: np.random.Generator, xp: Any, *, angle: float, bits: int, code: str = "gray") -> Trial:
    """Probability of neighbouring buckets on the cycle, summed over all pairs of sign patterns: no sampling."""
    patterns = np.arange(2**bits, dtype=np.uint16)
    place = asnumpy(CODES[code](to_device(patterns, xp))).astype(int)
    differing = np.bitwise_count(patterns[:, None] ^ patterns[None, :])
    probability = 2.0**-bits * angle**differing * (1 - angle) ** (bits - differing)
    gap = (place[:, None] - place[None, :]) % 2**bits
    law = 2 * angle * (1 - angle) ** (bits - 1)  # two neighbours, each one bit away
    measured = float(probability[(gap == 1) | (gap == 2**bits - 1)].sum())
    return Trial(measured, law, scale=law, facts={"theta": angle * math.pi, "r": bits})


ADJACENCY_CASES = tuple({"angle": angle, "bits": bits} for bits in range(2, 9) for angle in (0.05, 0.25, 0.5))

h_x, h_y = sp.Symbol("h(x)"), sp.Symbol("h(y)")
Pr = sp.Function("Pr")

CLAIMS = (
    Claim(
        id="ha24.lsh-collision",
        paper="HA24",
        source="Definition 1 (after KDE23)",
        basis="theorem",
        title="Two points meet in a bucket with probability (1 - theta/pi)^r",
        statement=sp.Eq(Pr(sp.Eq(h_x, h_y)), symbols.LSH_COLLISION),
        kind=Mean(resolution=0.05),
        trial=collision,
        cases={"smoke": COLLISION_CASES},
        max_trials={"smoke": 400, "standard": 4000},
        assumptions=(Assumption("isotropic hyperplanes", sp.Eq(sp.Symbol("isotropic"), 1)),),
        drops=(
            Drop("isotropic hyperplanes", ({"angle": 0.25, "bits": 2, "d": 16, "draws": 250, "planes": "stretched"},)),
        ),
        sabotages=(Sabotage("one hyperplane", "all r bits come from the same hyperplane", {"planes": "one"}),),
        remark="Checked by simulation with the exact variance: 250 independent hashes per trial, one pair of points.",
    ),
    Claim(
        id="ha24.gray-adjacency",
        paper="HA24",
        source="Definition 1 (after KDE23)",
        basis="derived",
        title="Neighbouring buckets differ in one sign bit, so they are met with the one-bit probability, twice",
        statement=sp.Eq(Pr(sp.Eq(h_x, sp.Symbol(r"h(y) \pm 1 \bmod 2^r"))), symbols.GRAY_ADJACENCY),
        kind=Exact("==", rtol=1e-12),
        trial=adjacency,
        cases={"smoke": ADJACENCY_CASES},
        max_trials={"smoke": 1},
        assumptions=(Assumption("at least two hyperplanes", symbols.r >= 2),),
        drops=(Drop("at least two hyperplanes", ({"angle": 0.25, "bits": 1},)),),
        sabotages=(
            Sabotage(
                "binary order", "buckets are ordered as binary numbers, not along the Gray code", {"code": "binary"}
            ),
        ),
        remark=(
            "Enumerates all pairs of sign patterns. The reflected Gray code is cyclic, so the law is exact modulo 2^r, "
            "wrap-around included; on the line the factor 2 becomes 2 - 2^(1-r). With a single hyperplane a bucket has "
            "one neighbour, not two."
        ),
    ),
)
