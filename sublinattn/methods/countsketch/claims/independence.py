"""The hash: any four indices get their buckets and signs as if each were drawn alone.

[CCF02] asks for pairwise independence of buckets and of signs; the mean square of a product of sketches, that [ALSY23]
rests on, is about four indices at a time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import sympy as sp
from numpy.random import Generator

from ....core.backends import asnumpy
from ....theory import symbols
from ....theory.claim import Claim, Mean, Sabotage, Trial
from ..hashing import MAX_INDEX, IndexHash, cubics


def four_together(
    rng: Generator, xp: Any, *, width: int, indices: Sequence[int], hashes: int, degree: int = 3
) -> Trial:
    """Average of `1[all four in one bucket] (1 + g_1 g_2 g_3 g_4)` over random hashes.

    Its mean is `w^-3` and that of its square `2 w^-3`, if the four are independent. Sabotage: polynomials of a lower
    `degree` than 3.
    """
    coefficients = cubics(rng, hashes)
    coefficients[:, : 3 - degree] = 0
    bucket, sign = (asnumpy(x) for x in IndexHash(coefficients, width)(xp, xp.asarray(indices)[None]))
    together = (bucket == bucket[:, :1]).all(axis=1)
    measured = float(np.mean(together * (1 + sign.prod(axis=1, dtype=int))))
    law = width**-3
    return Trial(measured, law, scale=math.sqrt((2 * law - law**2) / hashes), facts={"w": width})


SIGNS = sp.Symbol(r"\prod_{i=1}^4 g(x_i)")
MEET = sp.Symbol(r"\mathbf{1}\left[h(x_1)=\dots=h(x_4)\right]")

CLAIMS = (
    Claim(
        id="ccf02.independence",
        paper="CCF02",
        source="Section 3 (pairwise independent hashes); four at a time for the matrix product of ALSY23",
        basis="derived",
        title="Four indices get buckets and signs as if each were drawn alone",
        statement=sp.Eq(symbols.E(MEET * (1 + SIGNS)), symbols.w**-3),
        kind=Mean(resolution=0.1),
        trial=four_together,
        cases={
            "smoke": tuple(
                {"width": width, "indices": indices, "hashes": 5000}
                for width, indices in (
                    (1, [0, 1, 2, 3]),
                    (2, [0, 1, 2, 3]),
                    (2, [MAX_INDEX - 4, MAX_INDEX - 3, MAX_INDEX - 2, MAX_INDEX - 1]),
                    (2, [5, 1000, 10**6, 10**9]),
                )
            )
        },
        max_trials={"smoke": 200, "standard": 2000},
        sabotages=(
            Sabotage("lines", "the hash is a polynomial of degree 1: pairs alone are independent", {"degree": 1}),
            Sabotage("parabolas", "the hash is a polynomial of degree 2: triples alone are independent", {"degree": 2}),
        ),
        remark="With one bucket it is about the four signs alone. Indices side by side are where a line shows.",
    ),
)
