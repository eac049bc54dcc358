"""Right-hand sides of the papers' statements as SymPy expressions, and as functions.

One entry per bound with explicit constants; an asymptotic statement is a growth in its variables, without a constant.
"""

from __future__ import annotations

import math

import sympy as sp

n, m, d, d_v, r, b = sp.symbols("n m d d_v r b", positive=True)
eps, delta, theta = sp.symbols("varepsilon delta theta", positive=True)
alpha, kappa, srank = sp.symbols("alpha kappa srank", positive=True)
ZERO = sp.Symbol("zero", positive=True)
"""`||P V|| / (||P|| ||V||)`, the error of answering 0: a bound eps above it is met by doing nothing."""

LSH_COLLISION = (1 - theta / sp.pi) ** r
"""`Pr[h(x) = h(y)]` at angle theta under r hyperplanes [KDE23]."""

GRAY_ADJACENCY = 2 * theta / sp.pi * (1 - theta / sp.pi) ** (r - 1)
"""`Pr[h(x) = h(y) +- 1 mod 2^r]`, r >= 2: exact, since the reflected Gray code is cyclic."""

AMM_SIZE = d_v * srank / (eps**2 * delta)
"""Samples by squared row norms that make `||P S^T S V - P V|| <= eps ||P|| ||V||` fail with probability at most delta
(Markov).
"""

APPROXD_SIZE = kappa**7 * alpha**2 * eps**-6 * sp.log(n)
"""Growth of Lemma 1's sample size [HA24]; its constant is not known."""

AMM_GROWTH = eps**-2 * d_v * srank
"""Growth of Lemma 2's sample size [HA24]."""


def amm_sample_size(d_v: int, srank: float, *, eps: float, delta: float) -> int:
    """Samples by squared row norms that suffice for the product's spectral error, with all constants.

    Parameters
    ----------
    d_v : int
        Columns of V.
    srank : float
        Stable rank of P.
    eps : float
        Error relative to `||P|| ||V||`.
    delta : float
        Failure probability.

    Returns
    -------
    int
        `ceil(d_v srank / (eps^2 delta))`. From `E ||P S^T S V - P V||_F^2 <= ||P||_F^2 ||V||_F^2 / m` with `||V||_F^2
        <= d_v ||V||^2`, and Markov's
        inequality ([HA24] Lemma 2, made explicit).
    """
    if not (eps > 0 and 0 < delta < 1):
        raise ValueError(f"eps must be positive and delta in (0, 1), got eps={eps}, delta={delta}")
    return math.ceil(d_v * srank / (eps**2 * delta))
