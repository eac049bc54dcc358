"""HyperAttention's estimators: unbiasedness and variance by enumerating every sample, and the explicit error bounds [HA24, Lemmas 1 and 2]."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations, product
from typing import Any

import numpy as np
import sympy as sp

from ..._hyper_estimators import Estimator, Problem, SharedSample, TheoryDraws
from ...primitives.lsh import BlockGroup, SortedBlocks
from .. import bounds
from ..claim import Assumption, Claim, Drop, Exact, Probability, Sabotage, Trial, Vacuity
from .ha24_setting import THEORY, Bench, Dense, bench, dense, laws, measured_kappa, operator_norms, random_dense, row_scaled_norms, theory_maker

# ------------------------------------------------------------------------------------------- practical, all subsets


class UnweightedSample(SharedSample):
    """Sabotage: a sampled key counts once, whatever number of keys it stands for."""

    def weights(self, group: BlockGroup) -> Any:
        return (super().weights(group) > 0).astype(self.k.dtype)


class UnmaskedSample(SharedSample):
    """Sabotage: sampled keys of a query's own block are counted a second time."""

    def weights(self, group: BlockGroup) -> Any:
        kept, n, m = self.block_of, self.n, self.block_of.shape[1]
        try:
            self.block_of = np.full_like(kept, -1)  # no key is in anybody's block
            return super().weights(group) * 0 + (n - self.sizes) / m
        finally:
            self.block_of = kept


PRACTICAL = {"paper": SharedSample, "no weight": UnweightedSample, "own block counted": UnmaskedSample}


def _means(x: Dense, b: Bench, makers: Iterator[tuple[float, Callable[[Problem, SortedBlocks], Estimator]]]) -> tuple[np.ndarray, np.ndarray]:
    """Expected normaliser and product over weighted draws, relative to the exact normaliser: (n,) and (n, d_v)."""
    d, o = np.zeros(len(x.q)), np.zeros(x.v.shape)
    for probability, make_estimator in makers:
        log_d, out = b.estimate(make_estimator)
        ratio = np.exp(log_d[0] - x.log_normaliser)
        d += probability * ratio
        o += probability * ratio[:, None] * out[0]
    return d, o


def practical_mean(rng: np.random.Generator, xp: Any, *, n: int, block_size: int, sample_size: int, variant: str = "paper") -> Trial:
    """Largest relative bias of normaliser and product over all `C(n, m)` samples, those without a key outside the block included."""
    x = random_dense(rng, n, 3, 2)
    b = bench(x, xp, rng, copies=1, block_size=block_size, sample_size=sample_size, dtype=np.float64)
    samples = list(combinations(range(n), sample_size))
    makers = ((1 / len(samples), lambda p, blocks, s=s: PRACTICAL[variant](p, blocks, np.array([s]))) for s in samples)
    d, o = _means(x, b, makers)
    bias = max(abs(d - 1).max(), abs(o - x.pv).max())
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
    rng: np.random.Generator, xp: Any, *, n: int, block_size: int, sample_size: int, eps: float, law: str = "row-norm", variant: str = "paper"
) -> Trial:
    """Largest relative bias of the product, and of ApproxD's normaliser against the sum of capped entries, over all `n^m` draws.

    The floor tau/kappa is put out of reach (kappa = 1e12), so that the maximum in Algorithm 2 never acts: with it the normaliser is biased upwards.
    """
    x = random_dense(rng, n, 3, 2)
    b = bench(x, xp, rng, copies=1, block_size=block_size, sample_size=sample_size, dtype=np.float64)
    drawn, claimed = laws(b.run, b.blocks, "row-norm"), laws(b.run, b.blocks, law)

    def makers(vary: str) -> Iterator[tuple[float, Callable[[Problem, SortedBlocks], Estimator]]]:
        for probability, draws in _theory_draws(n, sample_size, drawn, vary):
            draws = TheoryDraws(draws.queries, draws.uniform, draws.by_norm, claimed[:, draws.by_norm[0]])
            yield probability, lambda p, blocks, draws=draws: THEORY[variant](p, blocks, draws, kappa=1e12, eps=eps)

    _, o = _means(x, b, makers("row-norm"))
    d, _ = _means(x, b, makers("uniform"))
    bias = max(abs(d - _capped_normaliser(x, b, sample_size, eps)).max(), abs(o - x.pv).max())
    return Trial(bias, 0.0, facts={"n": n, "m": sample_size, "b": block_size})


def _capped_normaliser(x: Dense, b: Bench, m: int, eps: float) -> np.ndarray:
    """`<M_i, A_i> + sum_j (1 - M_ij) min(A_ij, C_i)` over `D_ii`, straight from Algorithm 2."""
    n = len(x.q)
    own = np.zeros((n, n), bool)
    for group in b.blocks.groups:
        for rows, keys in zip(group.q_rows, group.k_rows, strict=True):
            own[np.ix_(rows, keys)] = True
    block = np.where(own, x.p, 0).sum(axis=1)
    cap = eps**2 * m / (n * np.log(n)) * block
    return block + np.where(own, 0, np.minimum(x.p, cap[:, None])).sum(axis=1)


def amm_variance(rng: np.random.Generator, xp: Any, *, n: int, sample_size: int, law: str = "row-norm") -> Trial:
    """`E ||P S^T S V - P V||_F^2` over all `n^m` draws of the real estimator, exact normaliser, against the identity."""
    x = random_dense(rng, n, 3, 2)
    b = bench(x, xp, rng, copies=1, block_size=n // 2, sample_size=sample_size, dtype=np.float64)
    total = 0.0
    for probability, draws in _theory_draws(n, sample_size, laws(b.run, b.blocks, law), "row-norm"):
        log_d, out = b.estimate(lambda p, blocks, draws=draws: THEORY["paper"](p, blocks, draws, kappa=1e12, eps=1.0))
        product_ = np.exp(log_d[0] - x.log_normaliser)[:, None] * out[0]
        total += probability * np.sum((product_ - x.pv) ** 2)
    f = x.facts
    law_value = (f["P_F"] ** 2 * f["V_F"] ** 2 - np.sum(x.pv**2)) / sample_size
    return Trial(total, law_value, scale=law_value, facts={"n": n, "m": sample_size})


# ----------------------------------------------------------------------------------------------------- explicit bounds


def _product_facts(x: Dense, eps: float, delta: float, shrink: float) -> tuple[int, dict[str, float]]:
    f = x.facts
    size = bounds.amm_sample_size(int(f["d_v"]), f["srank"], eps=eps, delta=delta)
    m = max(1, round(size * shrink))
    return m, {**f, "m": m, "varepsilon": eps, "delta": delta, "prescribed": size}


def amm_error(
    rng: np.random.Generator, xp: Any, *, workload: str, n: int, d: int, d_v: int, eps: float, delta: float,
    values: str = "given", knobs: dict[str, Any] | None = None, shrink: float = 1.0, law: str = "row-norm", bound_over: float = 1.0,
) -> Trial:  # fmt: skip
    """`||P S^T S V - P V|| / (||P|| ||V||)` with the prescribed number of samples."""
    x = dense(workload, n, d, d_v=d_v, values=values, knobs=knobs)
    m, facts = _product_facts(x, eps, delta, shrink)
    b = bench(x, xp, rng, copies=1, block_size=n // 2, sample_size=m)
    log_d, out = b.estimate(theory_maker(b.run, kappa=1e6, eps=1.0, law=law))
    error = np.exp(log_d[0] - x.log_normaliser)[:, None] * out[0] - x.pv
    measured = operator_norms(error[None])[0] / (facts["P_norm"] * facts["V_norm"])
    return Trial(float(measured), eps / bound_over, facts=facts)


def composed_error(
    rng: np.random.Generator, xp: Any, *, workload: str, n: int, d: int, d_v: int, eps: float, delta: float,
    values: str = "given", knobs: dict[str, Any] | None = None, shrink: float = 1.0, law: str = "row-norm", variant: str = "paper", bound_over: float = 1.0,
    forget_normaliser: bool = False,
) -> Trial:  # fmt: skip
    """`||out - P V|| / (||P|| ||V||)` of the whole estimator, against `||E|| eps + ||(E - I) P|| / ||P||`, `E = D/D~` as it came out."""
    x = dense(workload, n, d, d_v=d_v, values=values, knobs=knobs)
    m, facts = _product_facts(x, eps, delta, shrink)
    b = bench(x, xp, rng, copies=1, block_size=n // 8, sample_size=m)
    log_d, out = b.estimate(theory_maker(b.run, kappa=measured_kappa(b), eps=eps, law=law, variant=variant))
    e = np.exp(x.log_normaliser - log_d[0])
    eta = row_scaled_norms(x.p, (e - 1)[None])[0] / facts["P_norm"]
    measured = operator_norms(out - x.pv)[0] / (facts["P_norm"] * facts["V_norm"])
    bound = eps if forget_normaliser else (e.max() * eps + eta) / bound_over
    return Trial(float(measured), float(bound), facts={**facts, "eta": float(eta), "E_norm": float(e.max())})


SMALL = ({"n": 6, "block_size": 2, "sample_size": 3}, {"n": 8, "block_size": 3, "sample_size": 4}, {"n": 7, "block_size": 2, "sample_size": 7})
SEQUENCES = ({"n": 4, "block_size": 2, "sample_size": 2, "eps": 2.0}, {"n": 5, "block_size": 2, "sample_size": 3, "eps": 1.0})
EXPLICIT = (
    {"workload": "gaussian", "values": "mean", "n": 1024, "d": 16, "d_v": 4, "eps": 0.5, "delta": 0.1},
    {"workload": "gaussian", "n": 1024, "d": 16, "d_v": 4, "eps": 0.5, "delta": 0.1},
    {"workload": "sinks", "values": "mean", "n": 1024, "d": 16, "d_v": 4, "eps": 0.5, "delta": 0.1},
    {"workload": "heavy_values", "n": 1024, "d": 16, "d_v": 4, "eps": 0.5, "delta": 0.1, "knobs": {"rows": 1, "mass": 0.5}},
    {"workload": "real", "n": 512, "d": 32, "d_v": 32, "eps": 0.5, "delta": 0.1, "knobs": {"layer": 2, "head": 3}},
)
ENOUGH = Assumption("enough samples", bounds.m >= bounds.AMM_SIZE)
AMM_VACUITY = Vacuity(sp.Or(bounds.m >= bounds.n, bounds.ZERO <= bounds.eps), onset=bounds.AMM_SIZE)

E = sp.Function("E")
NORM_P, NORM_V, NORM_PF, NORM_VF, NORM_PVF, AMM_ERROR, AMM_ERROR_F, OUT_ERROR, E_NORM, ETA = (
    sp.Symbol(rf"\left\|{name}\right\|{index}", positive=True)
    for name, index in (
        ("P", ""), ("V", ""), ("P", "_F"), ("V", "_F"), ("PV", "_F"), (r"PS^{\top}SV-PV", ""), (r"PS^{\top}SV-PV", "_F"),
        (r"\widetilde{D}^{-1}AS^{\top}SV-PV", ""), (r"D\widetilde{D}^{-1}", ""), (r"(D\widetilde{D}^{-1}-I)P", ""),
    )
)  # fmt: skip
L_HAT, O_HAT, D_II, AV, D_SAMPLED, CAPPED = (
    sp.Symbol(name, positive=True)
    for name in (r"\hat{l}_i", r"\hat{o}_i", "D_{ii}", "(AV)_i", "d_i", r"\sum_j(1-M_{ij})\min(A_{ij},C_i)")
)

CLAIMS = (
    Claim(
        id="ha24.unbiased-practical",
        paper="HA24",
        source="Algorithm 3 (as in the authors' public code)",
        title="The practical estimator's normaliser and product are unbiased",
        statement=sp.And(sp.Eq(E(L_HAT), D_II), sp.Eq(E(O_HAT), AV)),
        kind=Exact("==", rtol=1e-10),
        trial=practical_mean,
        cases={"smoke": SMALL},
        max_trials={"smoke": 3},
        assumptions=(Assumption("a sampled key outside the block is certain", sp.Or(bounds.m > bounds.b, sp.Eq(bounds.m, bounds.n))),),
        drops=(Drop("a sampled key outside the block is certain", ({"n": 6, "block_size": 3, "sample_size": 2},)),),
        sabotages=(
            Sabotage("no weight", "sampled keys weigh 1 instead of (keys outside) / (samples outside)", {"variant": "no weight"}),
            Sabotage("own block counted", "sampled keys of the query's own block are not left out", {"variant": "own block counted"}),
        ),
        remark="By enumeration of all samples without replacement, self-normalised weights. The output is a ratio and is biased all the same.",
    ),
    Claim(
        id="ha24.unbiased-theory",
        paper="HA24",
        source="Algorithm 2, lines 5-7; Lemma 2",
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
        remark="By enumeration of all draws with replacement. Against D itself ApproxD is biased: the cap lowers it, the floor tau/kappa raises it.",
    ),
    Claim(
        id="ha24.amm-variance",
        paper="HA24",
        source="Lemma 2 (its variance, exactly)",
        title="Row-norm sampling has Frobenius variance (|P|_F^2 |V|_F^2 - |PV|_F^2) / m",
        statement=sp.Eq(E(AMM_ERROR_F**2), (NORM_PF**2 * NORM_VF**2 - NORM_PVF**2) / bounds.m),
        kind=Exact("==", rtol=1e-9),
        trial=amm_variance,
        cases={"smoke": ({"n": 6, "sample_size": 1}, {"n": 6, "sample_size": 2}, {"n": 5, "sample_size": 3})},
        max_trials={"smoke": 2},
        sabotages=(Sabotage("uniform sampling", "keys drawn uniformly (and weighted accordingly)", {"law": "uniform"}),),
        remark="By enumeration of all draws, with the exact normaliser.",
    ),
    Claim(
        id="ha24.amm-explicit",
        paper="HA24",
        source="Lemma 2, with constants derived here",
        title="With m = d_v srank(P) / (eps^2 delta) samples the product's spectral error exceeds eps |P| |V| with probability at most delta",
        statement=sp.Le(AMM_ERROR, bounds.eps * NORM_P * NORM_V),
        kind=Probability(p=0.1),
        trial=amm_error,
        cases={"smoke": EXPLICIT},
        max_trials={"smoke": 400, "standard": 4000},
        assumptions=(ENOUGH,),
        drops=(Drop("enough samples", ({**EXPLICIT[0], "shrink": 0.01}, {**EXPLICIT[3], "shrink": 0.01})),),
        sabotages=(
            Sabotage("uniform sampling", "keys drawn uniformly instead of by value norm", {"law": "uniform"}),
            Sabotage("bound / 10", "a bound ten times smaller than the one proved", {"bound_over": 10.0}),
        ),
        vacuity=AMM_VACUITY,
        remark="Markov's inequality on the exact variance, so a large slack is expected. delta = 0.1, eps = 0.5.",
    ),
    Claim(
        id="ha24.composed",
        paper="HA24",
        source="Theorem 1's composition of Lemmas 1 and 2, with constants derived here",
        title="Normaliser and product errors compose: |out - PV| <= (|E| eps + |(E - I)P|/|P|) |P| |V|, E = D/D~",
        statement=sp.Le(OUT_ERROR, (E_NORM * bounds.eps * NORM_P + ETA) * NORM_V),
        kind=Probability(p=0.1),
        trial=composed_error,
        cases={"smoke": EXPLICIT},
        max_trials={"smoke": 400, "standard": 4000},
        assumptions=(ENOUGH,),
        drops=(Drop("enough samples", ({**EXPLICIT[0], "shrink": 0.002}, {**EXPLICIT[3], "shrink": 0.01})),),
        sabotages=(
            Sabotage(
                "normaliser forgotten",
                "d_i lacks its weight n/m, and the bound has no term for the normaliser",
                {"variant": "no n/m weight", "forget_normaliser": True},
            ),
            Sabotage("bound / 10", "a bound ten times smaller than the one proved", {"bound_over": 10.0}),
        ),
        vacuity=AMM_VACUITY,
        remark=(
            "out - PV = E (P S^T S V - P V) + (E - I) P V. The normaliser's error enters the bound as it came out in the trial, so this claim holds "
            "whatever Lemma 1 needs; Lemma 1 itself is tested by its growth."
        ),
    ),
)
