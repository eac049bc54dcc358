"""HyperAttention's estimators: unbiasedness and variance, by enumerating every sample [HA24, Algorithms 2 and 3]."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import combinations, product
from typing import Any

import numpy as np
import sympy as sp

from ....core.backends import asnumpy, namespace
from ....lab.workloads.reference import Reference
from ....theory import symbols
from ....theory.claim import Assumption, Claim, Drop, Exact, Sabotage, Trial
from ..estimators import MakeEstimator, SharedSample, TheoryDraws, TheorySample
from ..sort_lsh import BlockGroup
from ._bench import THEORY, Bench, bench, laws, random_dense

# ------------------------------------------------------------------------------------------- practical, all subsets


class UnweightedSample(SharedSample):
    """Sabotage: a sampled key counts once, whatever number of keys it stands for."""

    def weights(self, group: BlockGroup) -> Any:
        return (super().weights(group) > 0).astype(self.k.dtype)


class UnmaskedSample(SharedSample):
    """Sabotage: sampled keys of a query's own block are counted a second time."""

    def weights(self, group: BlockGroup) -> Any:
        weights = super().weights(group)
        return namespace(weights).full_like(weights, (self.n - self.block_size) / self.block_of.shape[1])


PRACTICAL = {"paper": SharedSample, "no weight": UnweightedSample, "own block counted": UnmaskedSample}


def _means(x: Reference, b: Bench, makers: Iterator[tuple[float, MakeEstimator]]) -> tuple[np.ndarray, np.ndarray]:
    """Expected normaliser and product over weighted draws, relative to the exact normaliser: (n,) and (n, d_v)."""
    d, o = np.zeros(len(x.q)), np.zeros(x.v.shape)
    for probability, make_estimator in makers:
        log_d, out = b.estimate(make_estimator)
        ratio = np.exp(log_d[0] - x.log_normaliser)
        d += probability * ratio
        o += probability * ratio[:, None] * out[0]
    return d, o


def practical_mean(
    rng: np.random.Generator, xp: Any, *, n: int, block_size: int, sample_size: int, variant: str = "paper"
) -> Trial:
    """Largest relative bias of normaliser and product over all `C(n, m)` samples.

    Samples without a key outside the block are among them.
    """
    x = random_dense(rng, n, 3, 2)
    b = bench(x, xp, rng, copies=1, block_size=block_size, sample_size=sample_size, dtype=np.float64)
    samples = list(combinations(range(n), sample_size))
    makers = ((1 / len(samples), partial(PRACTICAL[variant], positions=np.array([s]))) for s in samples)
    d, o = _means(x, b, makers)
    bias = max(abs(d - 1).max(), abs(o - x.output).max())
    return Trial(bias, 0.0, facts={"n": n, "m": sample_size, "b": block_size})


# ------------------------------------------------------------------------------------------- theory, all sequences


def _theory_draws(n: int, m: int, law: np.ndarray, vary: str) -> Iterator[tuple[float, TheoryDraws]]:
    """All sequences of uniform or of row-norm keys (the other draw held fixed), with their probabilities."""
    fixed = np.zeros((1, m), int)
    for sequence in product(range(n), repeat=m):
        s = np.array([sequence])
        if vary == "uniform":
            yield n**-m, TheoryDraws(np.arange(n)[None], s, fixed, law[:, fixed[0]])
        else:
            yield float(law[0, s[0]].prod()), TheoryDraws(np.arange(n)[None], fixed, s, law[:, s[0]])


def theory_mean(
    rng: np.random.Generator,
    xp: Any,
    *,
    n: int,
    block_size: int,
    sample_size: int,
    eps: float,
    law: str = "row-norm",
    variant: str = "paper",
) -> Trial:
    """Largest relative bias, over all `n^m` draws, of the product and of ApproxD's normaliser.

    The normaliser's is against the sum of capped entries. The floor tau/kappa is put out of reach (kappa = 1e12), so
    that the maximum in Algorithm 2 never acts: with it the normaliser is biased upwards.
    """
    x = random_dense(rng, n, 3, 2)
    b = bench(x, xp, rng, copies=1, block_size=block_size, sample_size=sample_size, dtype=np.float64)
    drawn, claimed = laws(b.problem, b.blocks, "row-norm"), laws(b.problem, b.blocks, law)

    def makers(vary: str) -> Iterator[tuple[float, MakeEstimator]]:
        for probability, draws in _theory_draws(n, sample_size, drawn, vary):
            draws = TheoryDraws(draws.queries, draws.uniform, draws.by_norm, claimed[:, draws.by_norm[0]])
            yield probability, partial(THEORY[variant], draws=draws, kappa=1e12, eps=eps)

    _, o = _means(x, b, makers("row-norm"))
    d, _ = _means(x, b, makers("uniform"))
    bias = max(abs(d - _capped_normaliser(x, b, sample_size, eps)).max(), abs(o - x.output).max())
    return Trial(bias, 0.0, facts={"n": n, "m": sample_size, "b": block_size})


def _capped_normaliser(x: Reference, b: Bench, m: int, eps: float) -> np.ndarray:
    """`<M_i, A_i> + sum_j (1 - M_ij) min(A_ij, C_i)` over `D_ii`: what Algorithm 2, lines 5 to 7, estimates."""
    n = len(x.q)
    own = np.zeros((n, n), bool)
    for group in b.blocks.groups:
        for rows, keys in zip(group.q_rows, group.k_rows, strict=True):
            own[np.ix_(asnumpy(rows), asnumpy(keys))] = True
    block = np.where(own, x.p, 0).sum(axis=1)  # <M_i, A_i> / D_ii
    # C_i = eps^2 m / (n log n) <M_i, A_i>, with constant 1.
    cap = eps**2 * m / (n * np.log(n)) * block
    return block + np.where(own, 0, np.minimum(x.p, cap[:, None])).sum(axis=1)


def amm_variance(rng: np.random.Generator, xp: Any, *, n: int, sample_size: int, law: str = "row-norm") -> Trial:
    """`E ||P S^T S V - P V||_F^2` over all `n^m` draws, exact normaliser, against the identity."""
    x = random_dense(rng, n, 3, 2)
    b = bench(x, xp, rng, copies=1, block_size=n // 2, sample_size=sample_size, dtype=np.float64)
    total = 0.0
    for probability, draws in _theory_draws(n, sample_size, laws(b.problem, b.blocks, law), "row-norm"):
        log_d, out = b.estimate(partial(TheorySample, draws=draws, kappa=1e12, eps=1.0))
        estimate = np.exp(log_d[0] - x.log_normaliser)[:, None] * out[0]  # P S^T S V = (D~/D) out
        total += probability * np.sum((estimate - x.output) ** 2)
    f = x.facts
    variance = (f["P_F"] ** 2 * f["V_F"] ** 2 - np.sum(x.output**2)) / sample_size  # (|P|_F^2 |V|_F^2 - |PV|_F^2) / m
    return Trial(total, variance, scale=variance, facts={"n": n, "m": sample_size})


SMALL = (
    {"n": 6, "block_size": 2, "sample_size": 3},
    {"n": 8, "block_size": 3, "sample_size": 4},
    {"n": 7, "block_size": 2, "sample_size": 7},
)
SEQUENCES = (
    {"n": 4, "block_size": 2, "sample_size": 2, "eps": 2.0},
    {"n": 5, "block_size": 2, "sample_size": 3, "eps": 1.0},
)
E = sp.Function("E")
AMM_ERROR_F, NORM_PF, NORM_VF, NORM_PVF = (symbols.norm(name, "F") for name in (r"PS^{\top}SV-PV", "P", "V", "PV"))
L_HAT, O_HAT, D_II, AV, D_SAMPLED, CAPPED = (
    sp.Symbol(name, positive=True)
    for name in (r"\hat{l}_i", r"\hat{o}_i", "D_{ii}", "(AV)_i", "d_i", r"\sum_j(1-M_{ij})\min(A_{ij},C_i)")
)

CLAIMS = (
    Claim(
        id="ha24.unbiased-practical",
        paper="HA24",
        source="Algorithm 3 (as in the authors' public code)",
        basis="derived",
        title="The practical estimator's normaliser and product are unbiased",
        statement=sp.And(sp.Eq(E(L_HAT), D_II), sp.Eq(E(O_HAT), AV)),
        kind=Exact("==", rtol=1e-10),
        trial=practical_mean,
        cases={"smoke": SMALL},
        max_trials={"smoke": 3},
        assumptions=(
            Assumption(
                "a sampled key outside the block is certain", sp.Or(symbols.m > symbols.b, sp.Eq(symbols.m, symbols.n))
            ),
        ),
        drops=(Drop("a sampled key outside the block is certain", ({"n": 6, "block_size": 3, "sample_size": 2},)),),
        sabotages=(
            Sabotage(
                "no weight",
                "sampled keys weigh 1 instead of (keys outside) / (samples outside)",
                {"variant": "no weight"},
            ),
            Sabotage(
                "own block counted",
                "sampled keys of the query's own block are not left out",
                {"variant": "own block counted"},
            ),
        ),
        remark=(
            "By enumeration of all samples without replacement, self-normalised weights. The output is a ratio and is "
            "biased all the same."
        ),
    ),
    Claim(
        id="ha24.unbiased-theory",
        paper="HA24",
        source="Algorithm 2, lines 5-7; Lemma 2",
        basis="theorem",
        title="Row-norm sampling is unbiased, and ApproxD's d_i is unbiased for the sum of capped entries",
        statement=sp.And(sp.Eq(E(O_HAT), AV), sp.Eq(E(D_SAMPLED), CAPPED)),
        kind=Exact("==", rtol=1e-9),
        trial=theory_mean,
        cases={"smoke": SEQUENCES},
        max_trials={"smoke": 2},
        sabotages=(
            Sabotage("uniform weights", "keys drawn by row norm, weighted as if drawn uniformly", {"law": "uniform"}),
            Sabotage("no n/m weight", "d_i is a sum over the sample, not n/m times it", {"variant": "no n/m weight"}),
        ),
        remark=(
            "By enumeration of all draws with replacement. Against D itself ApproxD is biased: the cap lowers it, the "
            "floor tau/kappa raises it."
        ),
    ),
    Claim(
        id="ha24.amm-variance",
        paper="HA24",
        source="Lemma 2 (its variance, exactly)",
        basis="theorem",
        title="Row-norm sampling has Frobenius variance (|P|_F^2 |V|_F^2 - |PV|_F^2) / m",
        statement=sp.Eq(E(AMM_ERROR_F**2), (NORM_PF**2 * NORM_VF**2 - NORM_PVF**2) / symbols.m),
        kind=Exact("==", rtol=1e-9),
        trial=amm_variance,
        cases={"smoke": ({"n": 6, "sample_size": 1}, {"n": 6, "sample_size": 2}, {"n": 5, "sample_size": 3})},
        max_trials={"smoke": 2},
        sabotages=(
            Sabotage("uniform sampling", "keys drawn uniformly (and weighted accordingly)", {"law": "uniform"}),
        ),
        remark="By enumeration of all draws, with the exact normaliser.",
    ),
)
