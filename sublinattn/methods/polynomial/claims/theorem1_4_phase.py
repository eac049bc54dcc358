"""The phase picture: how the rank grows with n, below the threshold `B = o(sqrt(log n))` and on it [AS23, Theorem 1.4].

Everything is in `Lambda = log n`, so that n may be larger than any number a computer holds: only there does the
asymptotic statement begin.
"""

from __future__ import annotations

import math
from typing import Any

import scipy
import sympy as sp
from numpy.random import Generator

from ....theory import symbols
from ....theory.claim import Assumption, Case, Claim, Drop, Growth, Sabotage, Trial, Vacuity
from .corollary2_2_degree import crossing

LARGEST_LOG_N = 1e15  # in the search for the crossing t = n


def log_rank(d: float, degree: float) -> float:
    """`log C(d+g, g)`; the degree need not be whole."""
    return math.lgamma(d + degree + 1) - math.lgamma(degree + 1) - math.lgamma(d + 1)


def log_rank_at(
    log_n: float, *, width: float, entries: float, beta: float, gamma: float = 1.0, per_dimension: bool = True
) -> float:
    """Log of the rank for accuracy `eps = 1/n` by Taylor's explicit bound.

    `d = width (log n)^gamma`, `B = entries (log n)^beta` and `R = s d B^2`, where s is 1/d, or 1 unless
    `per_dimension`.
    """
    d, b = math.ceil(width * log_n**gamma), entries * log_n**beta
    return log_rank(d, crossing("explicit", log_n, b**2 if per_dimension else d * b**2))


def onset(**family: Any) -> float:
    """`log n` from which `t < n`: infinite if that is beyond LARGEST_LOG_N, 1 if `t < n` throughout."""

    def excess(log_log_n: float) -> float:
        return log_rank_at(math.exp(log_log_n), **family) / math.exp(log_log_n) - 1

    end = math.log(LARGEST_LOG_N)
    if excess(end) >= 0:
        return math.inf
    return math.exp(scipy.optimize.brentq(excess, 1.0, end, xtol=1e-3)) if excess(1.0) > 0 else 1.0


def rank_growth(rng: Generator, xp: Any, *, variable: str, log_n: float, **powers: Any) -> Trial:
    """Log of the rank at `log n`, for `d = (log n)^gamma` and `B = (log n)^beta`. Nothing is drawn: replicates agree.

    The powers beta and gamma, and the sabotage `per_dimension=False`, are those of `log_rank_at`.
    """
    family = {"width": 1.0, "entries": 1.0, **powers}
    log_t = log_rank_at(log_n, **family)
    facts = {"Lambda": log_n, "log_t": log_t, "beta": powers["beta"], "gamma": powers.get("gamma", 1.0)}
    return Trial(log_t, facts={**facts, "exponent": log_t / log_n, "onset": onset(**family) / math.log(10)})


BETA, GAMMA, LOG_T = sp.symbols("beta gamma log_t", positive=True)
SMALL_ENTRIES = Assumption("B = o(sqrt(log n))", sp.Lt(BETA, sp.Rational(1, 2)))
SMALL_WIDTH = Assumption("d = O(log n)", GAMMA <= 1)


def grid(**family: float) -> tuple[Case, ...]:
    """Seven sizes, log n = 10^3 to 10^9."""
    return tuple({"variable": "Lambda", "log_n": 10.0**power, **family} for power in range(3, 10))


CLAIMS = (
    Claim(
        id="as23.phase",
        paper="AS23",
        source="Theorem 1.4 (upper bound), through Corollary 2.2 and Lemma 3.2",
        basis="theorem",
        title="With d = O(log n) and B = o(sqrt(log n)), accuracy 1/n takes rank n^{o(1)}",
        statement=sp.Eq(symbols.t, symbols.n ** sp.Function("o")(1), evaluate=False),
        kind=Growth(variables={"Lambda": symbols.LOG_RANK_GROWTH}),
        trial=rank_growth,
        cases={"smoke": grid(beta=0.25)},
        max_trials={"smoke": 2},
        assumptions=(SMALL_ENTRIES, SMALL_WIDTH),
        drops=(Drop("B = o(sqrt(log n))", grid(beta=0.5)), Drop("d = O(log n)", grid(beta=0.25, gamma=1.5))),
        sabotages=(Sabotage("scale 1", "the logits are <q, k>, not <q, k>/d: R = d B^2", {"per_dimension": False}),),
        vacuity=Vacuity(sp.Ge(LOG_T, symbols.LAMBDA), variable="log10(n)", onset=symbols.ONSET),
        remark=(
            "Lambda = log n; d = log n, B = (log n)^(1/4), by Taylor's explicit bound; nothing is drawn. What grows is "
            "log t, against Lambda log log Lambda / log Lambda, which falls behind log n very slowly. A case is "
            "vacuous where t >= n: exact attention is then cheaper. On the threshold, B = sqrt(log n), log t grows "
            "like log n itself. as23.inverse-n runs the algorithm at sizes that a computer holds."
        ),
        restated="f3b104c: the constants of d and B were drawn anew in each replicate; they are now held fixed",
    ),
)
