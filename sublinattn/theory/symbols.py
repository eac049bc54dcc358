"""Symbols that the statements of several claims share, and bounds: as SymPy expressions, and as functions.

A bound with explicit constants is one expression; an asymptotic statement is its growth, without a constant.
"""

from __future__ import annotations

import math

import scipy
import sympy as sp

n, m, d, d_v, r, b, k, s, t, w = sp.symbols("n m d d_v r b k s t w", positive=True)
eps, delta, theta, rho = sp.symbols("varepsilon delta theta rho", positive=True)
alpha, kappa, srank = sp.symbols("alpha kappa srank", positive=True)
i, j = sp.symbols("i j", integer=True)
ZERO = sp.Symbol("zero", positive=True)
"""`||P V|| / (||P|| ||V||)`, the error of answering 0: an error bound eps above it is met without any work."""
ONSET = sp.Symbol("onset", positive=True)
"""A measurement of the trial: the value of the variable from which the theorem says something."""

O, E = sp.Function("O"), sp.Function(r"\mathbb{E}")  # noqa: E741 - Landau's symbol
BYTES, SECONDS, LOG_N = sp.Function("M")(n), sp.Function("T")(n), sp.log(n)


def norm(name: str, kind: str = "") -> sp.Symbol:
    """The norm of the matrix or vector that `name` writes in LaTeX; `kind` is the index of the norm ("F", "2")."""
    return sp.Symbol(rf"\left\|{name}\right\|" + (f"_{kind}" if kind else ""), positive=True)


LSH_COLLISION = (1 - theta / sp.pi) ** r
"""`Pr[h(x) = h(y)]` at angle theta under r hyperplanes [KDE23]."""

GRAY_ADJACENCY = 2 * theta / sp.pi * (1 - theta / sp.pi) ** (r - 1)
"""`Pr[h(x) = h(y) +- 1 mod 2^r]`, r >= 2: exact, since the reflected Gray code is cyclic."""

AMM_SIZE = d_v * srank / (eps**2 * delta)
"""Samples by squared row norms for which `||P S^T S V - P V|| > eps ||P|| ||V||` has probability at most delta."""

APPROXD_SIZE = kappa**7 * alpha**2 * eps**-6 * sp.log(n)
"""Growth of Lemma 1's sample size [HA24]; its constant is not known."""

AMM_GROWTH = eps**-2 * d_v * srank
"""Growth of Lemma 2's sample size [HA24]."""

OUTPUT_ERROR = 2 * (1 - sp.sqrt(1 - eps**2)) / eps
"""Largest change of an attention output, over `max|V|`, when every entry of A is off by a factor within 1 +- eps: the
best constant, where [AS23, Lemma 3.6] has `2 eps`."""


def amm_sample_size(d_v: int, srank: float, *, eps: float, delta: float) -> int:
    """`AMM_SIZE`, rounded up, for P of stable rank `srank` and V of `d_v` columns ([HA24] Lemma 2, made explicit).

    From `E ||P S^T S V - P V||_F^2 <= ||P||_F^2 ||V||_F^2 / m`, `||V||_F^2 <= d_v ||V||^2` and Markov's inequality.
    """
    if not (eps > 0 and 0 < delta < 1):
        raise ValueError(f"eps must be positive and delta in (0, 1), got eps={eps}, delta={delta}")
    return math.ceil(d_v * srank / (eps**2 * delta))


def output_error(eps: float) -> float:
    """`OUTPUT_ERROR` at `eps`, without cancellation: `2 eps / (1 + sqrt(1 - eps^2))`; infinite past 1."""
    return 2 * eps / (1 + math.sqrt(1 - eps**2)) if eps <= 1 else math.inf


def estimate_spread(k: int, *, width: int, tables: int, entries: int, failure: float) -> float:
    """Smallest `a` for which all estimates are proven to be within `sqrt(a/width) ||tail_k(y)||` of their entries.

    In one table the estimate of `y_i` is off by more only if one of the k largest other entries is in the bucket of i
    (probability at most `k/width`), or if the others there, whose sum has variance at most `||tail_k||^2/width`, exceed
    it (Markov: `1/a`); together `f = k/width + 1/a`. The median is off only if half of the tables are, `(tables + 1)/2`
    for an odd number: `Pr[Bin(tables, f) >= (tables + 1)/2]`, which `entries` times over may be at most `failure`.

    Needs tables independent of each other, and in each pairwise independent buckets with, independently, pairwise
    independent signs [CCF02]; where one hash gives both, as here, it must be 3-wise. The constants are derived here.
    Infinite where no `a` will do: too few tables, or too narrow ones.
    """
    half = (tables + 1) // 2
    # Pr[Bin(tables, f) >= half] = I_f(half, tables - half + 1), the regularised incomplete beta function.
    per_table = float(scipy.special.betaincinv(half, tables - half + 1, failure / entries))
    return 1 / (per_table - k / width) if per_table > k / width else math.inf


def recovery_factor(c: float, *, twice: bool) -> float:
    """What `||T - y||` is at most, over `t = ||tail_k(y)||`, if T keeps the k (or `twice` as many) largest estimates.

    With H the k largest entries, S those kept, and every estimate within e of its entry, `c = k e^2 / t^2`:
    `||T - y||^2 <= |S| e^2 + t^2 + sum_{H - S} y_i^2 - sum_{S - H} y_j^2`. An i of H that is not kept has no larger an
    estimate than any j that is: `|y_i| <= |y_j| + 2e`.

    - k kept: pair each i with one j. `y_i^2 - y_j^2 <= 4e |y_j| + 4e^2`, and by Cauchy-Schwarz the sum over at most k
      pairs is at most `4e sqrt(k) t + 4k e^2`. Together `t^2 (1 + 4 sqrt(c) + 5c)`.
    - 2k kept: there are two j for each i. `y_i^2 - 2 max(|y_i| - 2e, 0)^2 <= 8e^2`. Together `t^2 (1 + 10c)`.

    The square root is why exactly k entries cost `k/eps^2` buckets, and 2k only `k/eps` [PW11].
    """
    return math.sqrt(1 + 10 * c) if twice else math.sqrt(1 + 4 * math.sqrt(c) + 5 * c)


R, g, L, LAMBDA = sp.symbols("R g L Lambda", positive=True)
"""`|s <q, k>| <= R`; the degree; `log(1/eps)`; `log n`."""

TAYLOR_ERROR = sp.exp(2 * R) * R ** (g + 1) / sp.factorial(g + 1)
"""Relative error of Taylor's polynomial of degree g on [-R, R], at most (`approximants.taylor_bound`)."""

DEGREE_GROWTH = sp.Max(L / sp.log(L / R), R)
"""Growth of the degree for a relative error eps on [-R, R], `L = log(1/eps)` [AA22]. It has a pole at `L = R`."""

RANK = sp.binomial(d + g, g)
"""Monomials of degree at most g in d variables."""

RANK_BOUND = sp.binomial(2 * (g + d), 2 * g)
"""What Lemma 3.2 says of their number [AS23]."""

LOG_RANK_GROWTH = LAMBDA * sp.log(sp.log(LAMBDA)) / sp.log(LAMBDA)
"""Growth of `log t` over `Lambda = log n` for `d = Theta(log n)`, `B = (log n)^beta`, `beta < 1/2`, `eps = 1/n`: the
degree is `Theta(Lambda / log Lambda)`, and each of its factors brings `log(d/g) = log log Lambda`. It is `o(log n)`, so
`t = n^{o(1)}`."""
