"""How ApproxD's critical sample size grows with eps, kappa, alpha and n [HA24, Lemma 1 and Algorithm 2]."""

from __future__ import annotations

from typing import Any

import numpy as np
import sympy as sp

from ....lab.workloads.reference import Reference, row_scaled_norms
from ....theory import symbols
from ....theory.claim import Assumption, Claim, Drop, Growth, Sabotage, Trial, Vacuity
from ._bench import BASE, EPSILONS, M_STAR, critical_sample


def normaliser_samples(rng: np.random.Generator, xp: Any, *, variable: str, error: str, **case: Any) -> Trial:
    """Critical sample size of the normaliser. `variable` and `error` label the case; the rest: `critical_sample`."""

    def normaliser_errors(x: Reference, log_d: np.ndarray, out: np.ndarray) -> np.ndarray:
        ratio = np.exp(x.log_normaliser - log_d)  # D / D~
        # Lemma 1: ||(D~^-1 - D^-1) A|| = ||(D/D~ - I) P|| <= (eps/2) ||P||.
        return 2 * row_scaled_norms(x.p, ratio - 1) / x.p_norm

    return critical_sample(rng, xp, normaliser_errors, **case)


def grid(error: str, **overrides: Any) -> tuple[dict[str, Any], ...]:
    """Four points for each of eps, kappa, alpha and n, all else at the base case."""
    base = {"error": error, "values": "mean", **BASE, **overrides}
    epses = ({**base, "variable": "varepsilon", "workload": "gaussian", "eps": x} for x in EPSILONS)
    kappas = ({**base, "variable": "kappa", "workload": "kappa", "knobs": {"kappa": x}} for x in (2.0, 6.0, 18.0, 54.0))
    alphas = (
        {**base, "variable": "alpha", "workload": "alpha", "knobs": {"alpha": x, "noise": 0.5}}
        for x in (16.0, 64.0, 256.0, 1024.0)
    )
    sizes = ({**base, "variable": "n", "workload": "gaussian", "n": x} for x in (96, 192, 384, 768))
    return (*epses, *kappas, *alphas, *sizes)


FOUR = {
    "varepsilon": symbols.eps**-6,
    "kappa": symbols.kappa**7,
    "alpha": symbols.alpha**2,
    "n": sp.log(symbols.n),
}
FOUR_RESOLUTIONS = {"varepsilon": 0.25, "kappa": 0.25, "alpha": 0.25, "n": 0.04}
KAPPA_KNOWN = Assumption("kappa is known", sp.Ge(sp.Symbol("told_kappa", positive=True) * 1.0001, symbols.kappa))
# At kappa = 6 and 54.
KAPPA_TOO_SMALL = tuple({**case, "told_kappa": 1.0, "trials": 8} for case in grid("normaliser")[5:8:2])
# With constant 1: m >= n says nothing, since n keys make exact attention. The onset solves n = FACTOR log n.
FACTOR = symbols.APPROXD_SIZE / sp.log(symbols.n)
VACUOUS = Vacuity(symbols.n <= symbols.APPROXD_SIZE, onset=FACTOR * sp.log(FACTOR * sp.log(FACTOR)))

CLAIMS = (
    Claim(
        id="ha24.lemma1",
        paper="HA24",
        source="Lemma 1 (ApproxD, Algorithm 2)",
        basis="theorem",
        source_checked=False,
        title="ApproxD needs m = O(kappa^7 alpha^2 eps^-6 log n) samples for |(D~^-1 - D^-1) A| <= (eps/2) |P|",
        statement=sp.Eq(M_STAR, symbols.O(symbols.APPROXD_SIZE)),
        kind=Growth(variables=FOUR, resolution=FOUR_RESOLUTIONS),
        trial=normaliser_samples,
        cases={"smoke": grid("normaliser"), "standard": grid("normaliser", trials=50)},
        max_trials={"smoke": 8, "standard": 16},
        assumptions=(KAPPA_KNOWN,),
        drops=(Drop("kappa is known", KAPPA_TOO_SMALL),),
        sabotages=(Sabotage("floor tau", "ApproxD's floor is tau, not tau/kappa", {"told_kappa": 1.0, "trials": 8}),),
        vacuity=VACUOUS,
        remark=(
            "Exponents only: the constant is hidden. Vacuity is judged with constant 1. The constant of the cap C_i "
            "is 1."
        ),
        restated="f3b104c: the tolerance in n is at most a quarter of the exponent of log n, 0.04 instead of 0.25",
    ),
)
