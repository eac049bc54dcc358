"""HyperAttention's estimators: unbiasedness and variance, by enumerating every sample [HA24, Algorithms 2 and 3]."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import combinations, product
from typing import Any

import numpy as np
import sympy as sp

from ....core.backends import asnumpy, namespace, to_device
from ....core.exact import Partial, Softmax
from ....theory import symbols
from ....theory.claim import Assumption, Claim, Drop, Exact, Sabotage, Trial
from ..estimators import Block, Estimator, Lap, MakeEstimator, SharedSample, TheoryDraws, TheorySample
from ..hyper import Problem
from ..sort_lsh import BlockGroup, SortedBlocks
from ._bench import THEORY, bench, laws, random_dense

# ------------------------------------------------------------------------------------------- practical, all subsets


class UnweightedSample(SharedSample):
    """Sabotage: a sampled key counts once, whatever number of keys it stands for."""

    def weights(self, group: BlockGroup) -> Any:
        return (super().weights(group) > 0).astype(self.k.dtype)


class UnmaskedSample(SharedSample):
    """Sabotage: sampled keys of a query's own block are counted a second time."""

    def weights(self, group: BlockGroup) -> Any:
        weights = super().weights(group)
        return namespace(weights).full_like(weights, (self.n - self.blocks.block_size) / self.places.shape[1])


class FixedWeightSample(SharedSample):
    """Sabotage: every sampled key outside the block weighs n/m, however many there are."""

    def weights(self, group: BlockGroup) -> Any:
        return (super().weights(group) > 0).astype(self.k.dtype) * (self.n / self.places.shape[1])


PRACTICAL = {
    "paper": SharedSample,
    "no weight": UnweightedSample,
    "own block counted": UnmaskedSample,
    "n/m weight": FixedWeightSample,
}


def _arrays(rng: np.random.Generator, n: int, queries: int | None) -> list[np.ndarray]:
    """Gaussian q, k, v of two heads; `queries` of them where their number is not n."""
    return [rng.standard_normal((2, size, c)) for size, c in ((queries or n, 3), (n, 3), (n, 2))]


def _exact(arrays: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """`A` (2, n_q, n) and `A (1, V)` (2, n_q, 3)."""
    q, k, v = arrays
    a = np.exp(q @ k.swapaxes(1, 2))
    return a, a @ np.concatenate([np.ones((*v.shape[:2], 1)), v], axis=2)


def _sums(
    arrays: list[np.ndarray], xp: Any, make_estimator: MakeEstimator, *, block_size: int, sample_size: int, sinks: int
) -> np.ndarray:
    """Estimated normaliser and product (2, n_q, 3), always under the same mask."""
    sizes: dict[str, Any] = {"block_size": block_size, "sample_size": sample_size, "rng": np.random.default_rng(0)}
    device = (to_device(x, xp) for x in arrays)
    out, lse = Problem(xp, *device, scale=1.0, shift=True, make_estimator=make_estimator, **sizes).full(sinks)
    normaliser = np.exp(asnumpy(lse))[..., None]
    return np.concatenate([normaliser, normaliser * asnumpy(out)], axis=2)


def practical_mean(
    rng: np.random.Generator,
    xp: Any,
    *,
    n: int,
    block_size: int,
    sample_size: int,
    queries: int | None = None,
    exact_keys: int = 0,
    least: int = 1,
    variant: str = "paper",
) -> Trial:
    """Largest relative bias of normaliser and product given `u`, the number of sampled keys outside a query's block.

    Over all `C(n, m)` samples and all `u >= least`; the second head always has another sample than the first.
    """
    arrays = _arrays(rng, n, queries)
    _, exact = _exact(arrays)
    samples = np.array(list(combinations(range(n - exact_keys), sample_size)))
    outside = np.empty(exact.shape[:2], int)  # u of each query
    total, count = np.zeros((sample_size + 1, *exact.shape)), np.zeros((sample_size + 1, *outside.shape, 1))

    def estimator(problem: Problem, blocks: SortedBlocks, *, positions: np.ndarray) -> Estimator:
        for group in blocks.groups:
            u = (positions[group.problem] // block_size != group.block[:, None]).sum(axis=1)
            outside.reshape(-1)[asnumpy(group.q_rows)] = u[:, None]
        return PRACTICAL[variant](problem, blocks, positions)

    how = {"block_size": block_size, "sample_size": sample_size, "sinks": exact_keys}
    for pair in zip(samples, np.roll(samples, 1, axis=0), strict=True):
        estimate = _sums(arrays, xp, partial(estimator, positions=np.stack(pair)), **how)
        head, query = np.indices(outside.shape)
        total[outside, head, query] += estimate
        count[outside, head, query] += 1
    seen = (count[..., 0] > 0) & (np.arange(sample_size + 1) >= least)[:, None, None]
    bias = (abs(total / np.maximum(count, 1) - exact) / exact[..., :1])[seen]
    facts = {"n": n, "m": sample_size, "b": block_size, "u": least}
    return Trial(float(bias.max()), 0.0, facts=facts)


# ------------------------------------------------------------------------------------------- theory, all sequences


class ForgottenSinks(TheorySample):
    """Sabotage: the sinks count to the normaliser, and their values are dropped."""

    def absorb(self, tile: Softmax, p: Partial, block: Block, lap: Lap) -> None:
        v = block.v.copy()
        v[:, v.shape[1] - block.sinks :] = 0
        super().absorb(tile, p, replace(block, v=v), lap)


VARIANTS = {**THEORY, "sinks forgotten": ForgottenSinks}


def theory_mean(
    rng: np.random.Generator,
    xp: Any,
    *,
    n: int,
    block_size: int,
    sample_size: int,
    eps: float,
    queries: int | None = None,
    exact_keys: int = 0,
    law: str = "row-norm",
    variant: str = "paper",
) -> Trial:
    """Largest relative bias, over all `n^m` draws, of the product and of ApproxD's normaliser; two heads.

    The normaliser's is against the sum of capped entries. The floor tau/kappa is put out of reach (kappa = 1e12), so
    that the maximum in Algorithm 2 never acts: with it the normaliser is biased upwards.
    """
    arrays = _arrays(rng, n, queries)
    a, exact = _exact(arrays)
    size = n - exact_keys  # keys that are sampled
    sequences = np.array(list(product(range(size), repeat=sample_size)))
    means = {"uniform": np.zeros(exact.shape), "row-norm": np.zeros(exact.shape)}
    own = np.zeros(a.shape, bool)
    own[..., :exact_keys] = True

    def estimator(problem: Problem, blocks: SortedBlocks, *, vary: str, s: np.ndarray) -> Estimator:
        for group in blocks.groups:
            for head, rows, keys in zip(group.problem, asnumpy(group.q_rows), asnumpy(group.k_rows), strict=True):
                own[head][np.ix_(rows - head * a.shape[1], keys - head * n)] = True
        drawn, claimed = laws(problem, blocks, "row-norm"), laws(problem, blocks, law)
        pair = np.stack([s, s])
        by_law = np.take_along_axis(drawn, pair, axis=1).prod(axis=1)
        probability[...] = by_law if vary == "row-norm" else size**-sample_size
        fixed = np.zeros_like(pair)
        uniform, by_norm = (pair, fixed) if vary == "uniform" else (fixed, pair)
        every = np.tile(np.arange(a.shape[1]), (2, 1))
        draws = TheoryDraws(every, uniform, by_norm, np.take_along_axis(claimed, by_norm, axis=1))
        return VARIANTS[variant](problem, blocks, draws, kappa=1e12, eps=eps)

    probability = np.empty(2)
    how = {"block_size": block_size, "sample_size": sample_size, "sinks": exact_keys}
    for vary, mean in means.items():
        for s in sequences:
            estimate = _sums(arrays, xp, partial(estimator, vary=vary, s=s), **how)
            mean += probability[:, None, None] * estimate
    # Algorithm 2, lines 5 to 7, estimate <M_i, A_i> + sum_j (1 - M_ij) min(A_ij, C_i), C_i with constant 1.
    block = (a * own).sum(axis=2)
    cap = eps**2 * sample_size / (size * max(np.log(size), 1)) * block
    capped = block + np.where(own, 0, np.minimum(a, cap[..., None])).sum(axis=2)
    normaliser = abs(means["uniform"][..., 0] - capped) / exact[..., 0]
    numerator = abs(means["row-norm"] - exact)[..., 1:] / exact[..., :1]
    facts = {"n": n, "m": sample_size, "b": block_size}
    return Trial(float(max(normaliser.max(), numerator.max())), 0.0, facts=facts)


def amm_variance(rng: np.random.Generator, xp: Any, *, n: int, sample_size: int, law: str = "row-norm") -> Trial:
    """`E ||P S^T S V - P V||_F^2` over all `n^m` draws, exact normaliser, against the identity."""
    x = random_dense(rng, n, 3, 2)
    b = bench(x, xp, rng, copies=1, block_size=n // 2, sample_size=sample_size, dtype=np.float64)
    total = 0.0
    drawn = laws(b.problem, b.blocks, law)
    for sequence in product(range(n), repeat=sample_size):
        s = np.array([sequence])
        draws = TheoryDraws(np.arange(n)[None], np.zeros_like(s), s, drawn[:, s[0]])
        probability = float(drawn[0, s[0]].prod())
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
    {"n": 7, "block_size": 3, "sample_size": 3, "queries": 5, "exact_keys": 1},
)
SEQUENCES = (
    {"n": 4, "block_size": 2, "sample_size": 2, "eps": 2.0},
    {"n": 5, "block_size": 2, "sample_size": 3, "eps": 1.0},
    {"n": 5, "block_size": 2, "sample_size": 2, "eps": 1.0, "queries": 7, "exact_keys": 1},
)
E, U = sp.Function("E"), sp.Symbol("u", nonnegative=True)
AMM_ERROR_F, NORM_PF, NORM_VF, NORM_PVF = (symbols.norm(name, "F") for name in (r"PS^{\top}SV-PV", "P", "V", "PV"))
L_GIVEN, O_GIVEN, O_HAT, D_II, AV, D_SAMPLED, CAPPED = (
    sp.Symbol(name, positive=True)
    for name in (
        r"\hat{l}_i \mid u",
        r"\hat{o}_i \mid u",
        r"\hat{o}_i",
        "D_{ii}",
        "(AV)_i",
        "d_i",
        r"\sum_j(1-M_{ij})\min(A_{ij},C_i)",
    )
)

CLAIMS = (
    Claim(
        id="ha24.unbiased-practical",
        paper="HA24",
        source="Algorithm 3, with one sample for normaliser and product",
        basis="derived",
        title="Given how many sampled keys lie outside the block, the practical estimator's two sums are unbiased",
        statement=sp.And(sp.Eq(E(L_GIVEN), D_II), sp.Eq(E(O_GIVEN), AV)),
        kind=Exact("==", rtol=1e-10),
        trial=practical_mean,
        cases={"smoke": SMALL},
        max_trials={"smoke": 3},
        assumptions=(Assumption("a sampled key outside the block", U >= 1),),
        drops=(Drop("a sampled key outside the block", ({"n": 6, "block_size": 3, "sample_size": 2, "least": 0},)),),
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
            Sabotage("n/m weight", "n/m in place of (keys outside) / (samples outside)", {"variant": "n/m weight"}),
        ),
        remark=(
            "By enumeration of all samples without replacement, for each number u of sampled keys outside the block: "
            "with weight n/m the sums are unbiased on average over u only. Two heads with different samples, a sink, "
            "fewer queries than keys. The output is a ratio and is biased all the same."
        ),
        restated=(
            "eaf5810: on average over u the weight n/m of the released code passed as well; one head without sinks "
            "could not tell whose sample a head uses"
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
            Sabotage("sinks forgotten", "the values of exact keys are dropped", {"variant": "sinks forgotten"}),
        ),
        remark=(
            "By enumeration of all draws with replacement; two heads, a sink, more queries than keys. Against D itself "
            "ApproxD is biased: the cap lowers it, the floor tau/kappa raises it."
        ),
        restated="eaf5810: no case had a sink, a second head, or unequal numbers of queries and keys",
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
