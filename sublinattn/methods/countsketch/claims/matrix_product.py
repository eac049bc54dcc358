"""A product of two sketches in place of the matrix product, as in the one-pass algorithm [ALSY23]."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import sympy as sp
from numpy.random import Generator

from ....core.backends import asnumpy, to_device
from ....theory import symbols
from ....theory.claim import Claim, Exact, Probability, Sabotage, Trial, Vacuity
from ...polynomial.monomials import Monomials, feature_matrix
from ..hashing import PRIME, cubics
from .signals import NO_SIGNS, expected_square, sketched

FAILURE = 0.1


def product_inputs(rng: Generator, xp: Any, n: int, values: str) -> tuple[np.ndarray, np.ndarray]:
    """Monomial features U of random keys, and values V: independent ones, a constant, or U's leading direction."""
    keys = 0.3 * rng.standard_normal((n, 4))
    u = asnumpy(feature_matrix(xp, Monomials(4, 3), to_device(keys, xp)))
    if values == "aligned":
        return u, np.linalg.svd(u, full_matrices=False)[0][:, :1]
    return u, rng.standard_normal((n, 4)) if values == "independent" else np.ones((n, 1))


def sketched_product(
    rng: Generator, xp: Any, *, n: int, eps: float, values: str, signs: bool = True, divide: float = 1.0
) -> Trial:
    """`||U^T S^T S V - U^T V||_F` over `||U||_F ||V||_F`, with `2/(p eps^2)` buckets, against `eps / divide`."""
    u, v = product_inputs(rng, xp, n, values)
    width = math.ceil(2 / (FAILURE * eps**2))
    table = asnumpy(sketched(xp, cubics(rng, 1), np.hstack([u, v]), width=width, signs=signs).table[0])
    t, size = u.shape[1], float(np.linalg.norm(u) * np.linalg.norm(v))
    error = float(np.linalg.norm(table[:, :t].T @ table[:, t:] - u.T @ v) / size)  # (S U)^T (S V) against U^T V
    facts = {
        "n": n,
        "w": width,
        "varepsilon": eps,
        "zero": float(np.linalg.norm(u.T @ v)) / size,
        "tightness": expected_square(u, v, width) / (2 / width * size**2),  # of the bound on the variance
    }
    return Trial(error, eps / divide, facts=facts)


def enumerated_product(rng: Generator, xp: Any, *, width: int, signs: bool = True) -> Trial:
    """Mean of the squared error over every combination of buckets and signs of four rows, one table each."""
    u, v = rng.standard_normal((4, 3)), rng.standard_normal((4, 2))
    table = asnumpy(sketched(xp, all_cubics(width), np.hstack([u, v]), width=width, signs=signs).table)
    errors = table[:, :, :3].swapaxes(1, 2) @ table[:, :, 3:] - u.T @ v
    law = expected_square(u, v, width)
    return Trial(float((errors**2).sum(axis=(1, 2)).mean()), law, scale=law, facts={"w": width, "tables": len(table)})


def all_cubics(width: int) -> np.ndarray:
    """Cubics that give the indices 0 to 3 every combination of bucket and sign, each once: ((2 width)^4, 4)."""
    bucket, negative = np.divmod(np.arange(2 * width), 2)
    value = 2 * -(-(bucket << 30) // width) + negative  # the first value of each bucket, and the next
    basis = np.zeros((4, 4), dtype=np.uint64)  # coefficients of Lagrange's polynomials, 1 at i and 0 at the others
    for i in range(4):
        others = [j for j in range(4) if j != i]
        scale = pow(math.prod(i - j for j in others), -1, PRIME)
        basis[i] = [scale * int(c) % PRIME for c in np.rint(np.poly(others))]
    targets = np.stack(np.meshgrid(*[value.astype(np.uint64)] * 4, indexing="ij"), axis=-1).reshape(-1, 4)
    return ((targets[:, :, None] * basis % PRIME).sum(axis=1)) % PRIME


PRODUCTS = tuple(
    {"n": 512, "eps": eps, "values": values}
    for values, eps in (("constant", 0.5), ("aligned", 0.5), ("aligned", 0.25), ("independent", 0.5))
)
U_F, V_F, DIFFERENCE = (symbols.norm(name, "F") for name in ("U", "V", r"U^{\top}S^{\top}SV-U^{\top}V"))
PAIRS = sp.Symbol(
    r"\sum_{i\neq j}\left(\|u_i\|^2\|v_j\|^2+\langle u_i,u_j\rangle\langle v_i,v_j\rangle\right)", positive=True
)

CLAIMS = (
    Claim(
        id="alsy23.amm",
        paper="ALSY23",
        source="Approximate matrix product (Psi); constants derived here",
        basis="theorem",
        title="A CountSketch of 2/(p eps^2) buckets multiplies matrices within eps |U|_F |V|_F",
        statement=sp.Le(DIFFERENCE, symbols.eps * U_F * V_F),
        kind=Probability(p=FAILURE),
        trial=sketched_product,
        cases={"smoke": PRODUCTS},
        max_trials={"smoke": 400, "standard": 4000},
        sabotages=(
            NO_SIGNS,
            Sabotage("a bound ten times smaller", "the error must be at most eps/10", {"divide": 10.0}, breaks="bound"),
        ),
        vacuity=Vacuity(symbols.eps >= symbols.ZERO),
        remark=(
            "U: monomial features of random keys. The variance is as large as the bound says where U and V are nearly "
            "of rank 1 and aligned (fact tightness); Markov's inequality is not tight. On independent values the "
            "answer 0 meets the bound."
        ),
    ),
    Claim(
        id="alsy23.amm-expectation",
        paper="ALSY23",
        source="Approximate matrix product (Psi); derived here, after CCF02",
        basis="derived",
        title="The squared error of that product has a known mean",
        statement=sp.Eq(symbols.E(DIFFERENCE**2), PAIRS / symbols.w),
        kind=Exact("==", rtol=1e-9),
        trial=enumerated_product,
        cases={"smoke": tuple({"width": width} for width in (1, 2, 3))},
        max_trials={"smoke": 2},
        sabotages=(NO_SIGNS,),
        remark=(
            "Enumerates every bucket and sign of four rows, each by the cubic that gives them: no term of the mean is "
            "about more than four rows."
        ),
    ),
)
