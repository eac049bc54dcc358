"""SubGen's two estimates, of the numerator and of the normaliser: no bias, and their exact variances [SG24]."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import sympy as sp

from ....core.backends import Array, asnumpy, to_device
from ....theory import symbols
from ....theory.claim import Claim, Exact, Mean, Sabotage, Trial
from ..head import Head, normalisers, numerators
from .setting import Cache, Tokens, chunks, fed, members, stream, sums

D = 6
COPIES = 16
"""Independent states over the same tokens; a trial is the average over them."""


def ordered_tokens(rng: np.random.Generator, n: int, **knobs: Any) -> Tokens:
    """A stream in the order of its logits, in which a wrong law of the samples does most harm."""
    x = stream(rng, n, D, **{"clusters": 5, "delta": 1.0, "norm": 4.0, "query_norm": 1.0, "mean": 0.5, **knobs})
    order = np.argsort(x.k @ x.q[0])
    return Tokens(x.q[:1], x.k[order], x.v[order])


def storing(xp: Any, head: Head, samples: Array, slot_keys: Array, slot_values: Array, *, mu: float) -> Head:
    """A state with the clusters of `head`, but other samples (m, t, d), slots (s, d), (s, d_v), and `mu`."""
    (t, d), (s, d_v) = samples.shape[1:], slot_values.shape
    state = Head(xp, head.clusters.delta, t, s, seed=0, number=0, d=d, d_v=d_v, dtype=samples.dtype)
    arrays = {"samples": samples, "slot_keys": slot_keys, "slot_values": slot_values}
    state.restore({**head.about(), "mu": mu}, {**head.contents(), **arrays})
    return state


# ------------------------------------------------------------------------------------------------------- the numerator
def enumerated(
    rng: np.random.Generator, xp: Any, *, n: int, moment: int, forget_mu: bool = False, law: str = "norm"
) -> Trial:
    """Mean (moment 1) or variance (2) of `z` from one slot, over all tokens that it can hold, against the formula."""
    x = ordered_tokens(rng, n)
    head = fed(Cache(1.0, 1, 1, rng=rng), xp, x.k, x.v, chunks(n, n)).head
    mu, k, v = 1.0 if forget_mu else head.slots.mu, to_device(x.k, xp), to_device(x.v, xp)
    heads = [storing(xp, head, head.sampled.rows, k[j : j + 1], v[j : j + 1], mu=mu) for j in range(n)]
    z = sums(numerators, xp, heads, x.q)[:, 0]
    p = x.law if law == "norm" else np.full(n, 1 / n)
    if moment == 1:  # E z = sum_j p_j z_j
        error, scale = (float(np.linalg.norm(y)) for y in (p @ z - x.numerator, x.numerator))
        return Trial(error, 0.0, scale=scale, facts={"n": n})
    return Trial(float(p @ ((z - x.numerator) ** 2).sum(axis=1)), x.variance, scale=x.variance, facts={"n": n})


def copies(
    rng: np.random.Generator, xp: Any, x: Tokens, rows: int, *, t: int = 1, s: int = 1, broken: str, forget_mu: bool
) -> list[Head]:
    """COPIES states over the same tokens. Each has its share of the samples and slots of one cache, all independent."""
    head = fed(Cache(1.0, COPIES * t, COPIES * s, broken=broken, rng=rng), xp, x.k, x.v, chunks(len(x.k), rows)).head
    mu, heads = 1.0 if forget_mu else head.slots.mu, []
    for i in range(COPIES):
        a, b = slice(i * t, (i + 1) * t), slice(i * s, (i + 1) * s)
        heads.append(storing(xp, head, head.sampled.rows[:, a], head.slot_keys[b], head.slot_values[b], mu=mu))
    return heads


def sampled_numerator(
    rng: np.random.Generator,
    xp: Any,
    *,
    n: int,
    s: int,
    rows: int,
    moment: int,
    forget_mu: bool = False,
    broken: str = "nothing",
) -> Trial:
    """`z` along the exact numerator (moment 1) or its squared error (2), with the exact deviation of the average."""
    x = ordered_tokens(rng, n)
    z = sums(numerators, xp, copies(rng, xp, x, rows, s=s, broken=broken, forget_mu=forget_mu), x.q)[:, 0]
    off = (x.e / x.law)[:, None] * x.v - x.numerator  # s (z - E z) is a sum of s independent rows, each with its law
    facts = {"n": n, "s": s}
    if moment == 1:
        u = x.numerator / np.linalg.norm(x.numerator)
        deviation = np.sqrt(x.law @ (off @ u) ** 2 / s / COPIES)
        return Trial(float(z.mean(axis=0) @ u), float(x.numerator @ u), scale=float(deviation), facts=facts)
    deviation = np.sqrt(squared_mean(x.law, off, s)[1] / COPIES)
    errors = ((z - x.numerator) ** 2).sum(axis=1)
    return Trial(float(errors.mean()), x.variance / s, scale=float(deviation), facts=facts)


def squared_mean(law: np.ndarray, off: np.ndarray, s: int) -> tuple[float, float]:
    """Mean and variance of `|mean of s independent rows|^2`, each row off[j] of mean 0 with probability law[j]."""
    square = float(law @ (off**2).sum(axis=1))
    cross = (off * law[:, None]).T @ off
    # E |sum of s independent|^4, from pairs of equal terms
    fourth = s * (law @ ((off**2).sum(axis=1) ** 2)) + s * (s - 1) * (square**2 + 2 * (cross**2).sum())
    return square / s, float(fourth / s**4 - (square / s) ** 2)


# ------------------------------------------------------------------------------------------------------ the normaliser
def sampled_normaliser(
    rng: np.random.Generator, xp: Any, *, n: int, t: int, rows: int, moment: int, broken: str = "nothing"
) -> Trial:
    """`tau` (moment 1) or its squared error (2), averaged over COPIES states, with the exact deviation."""
    x = ordered_tokens(rng, n, clusters=3)
    heads = copies(rng, xp, x, rows, t=t, broken=broken, forget_mu=False)
    tau = sums(normalisers, xp, heads, x.q)[:, 0, 0]
    _, labels = members(x.k, asnumpy(heads[0].clusters.centers.rows))  # clusters are far apart
    square = fourth = 0.0  # second moment and fourth cumulant of tau: both add over clusters and samples
    for group in range(labels.max() + 1):
        e = x.e[labels == group]
        off = (e - e.mean()) * len(e) / t
        square += t * float((off**2).mean())
        fourth += t * float((off**4).mean() - 3 * (off**2).mean() ** 2)
    facts = {"n": n, "t": t, "m": float(labels.max() + 1)}
    if moment == 1:
        return Trial(float(tau.mean()), x.normaliser, scale=float(np.sqrt(square / COPIES)), facts=facts)
    deviation = np.sqrt((fourth + 2 * square**2) / COPIES)
    return Trial(float(((tau - x.normaliser) ** 2).mean()), square, scale=float(deviation), facts=facts)


E, VAR = symbols.E, sp.Function(r"\mathrm{Var}")
Z, NUMERATOR, TAU = sp.Symbol("z"), sp.Symbol(r"e^{Kq\top}V"), sp.Symbol("tau", positive=True)
NORMALISER = sp.Symbol(r"\mathbf{1}^{\top}e^{Kq}")
V_F, E_NORM = symbols.norm("V", "F"), symbols.norm("e^{Kq}", "2")
OUT_NORM, ERROR = symbols.norm(r"e^{Kq\top}V", "2"), symbols.norm(r"z-e^{Kq\top}V", "2")
X = sp.Symbol("x", integer=True)
UNBIASED = sp.Eq(E(Z), NUMERATOR)
VARIANCE = sp.Eq(E(ERROR**2), (V_F**2 * E_NORM**2 - OUT_NORM**2) / symbols.s)
WITHIN = sp.IndexedBase("n")[X] ** 2 * sp.IndexedBase(r"\sigma^2")[X]

NO_MU = Sabotage("missing mu", "the weight mu / (s |v|^2) lacks its mu", {"forget_mu": True})
UNIFORM_LAW = Sabotage("uniform law", "every token as likely as every other", {"law": "uniform"})
UNIFORM_SLOTS = Sabotage(
    "uniform slots", "slots do not look at the norms, the weights assume that they do", {"broken": "uniform slots"}
)
TWIN_SLOTS = Sabotage("twins", "every other slot copies its neighbour", {"broken": "twin slots"})
EAGER_SAMPLES = Sabotage(
    "off by one", "a sample is replaced with probability 1/(count - 1)", {"broken": "eager samples"}
)
TWIN_SAMPLES = Sabotage("twins", "all samples of a cluster are one and the same", {"broken": "twin samples"})
PROOF, EXACT_CONSTANT = "proof of Theorem 1", "proof of Theorem 1, with the exact constant derived here"
MC = tuple({"n": 60, "rows": rows} for rows in (60, 20))

enumeration_claim = partial(
    Claim, paper="SG24", kind=Exact("==", rtol=1e-12), trial=enumerated, max_trials={"smoke": 5, "standard": 50}
)
simulation_claim = partial(Claim, paper="SG24", max_trials={"smoke": 300, "standard": 3000})

CLAIMS = (
    enumeration_claim(
        id="sg24.z-enumerated",
        source=PROOF,
        basis="theorem",
        title="z is unbiased: enumerated over everything that a slot can hold",
        statement=UNBIASED,
        cases={"smoke": ({"n": 40, "moment": 1},)},
        sabotages=(NO_MU, UNIFORM_LAW),
        remark="The package's own estimate for each token that a slot may hold, weighted by the law of sg24.slot-law.",
    ),
    enumeration_claim(
        id="sg24.z-variance-enumerated",
        source=EXACT_CONSTANT,
        basis="theorem",
        title="The variance of z is (|V|_F^2 |exp(Kq)|^2 - |exp(Kq)^T V|^2) / s: enumerated for one slot",
        statement=VARIANCE,
        cases={"smoke": ({"n": 40, "moment": 2},)},
        sabotages=(NO_MU, UNIFORM_LAW),
        remark="Slots are independent (sg24.slot-independence), so s of them have a variance s times smaller.",
    ),
    simulation_claim(
        id="sg24.z-unbiased",
        source=PROOF,
        basis="theorem",
        title="z is unbiased: whole caches, drawn",
        statement=UNBIASED,
        kind=Mean(resolution=0.02),
        trial=sampled_numerator,
        cases={"smoke": tuple({**case, "s": 256, "moment": 1} for case in MC)},
        sabotages=(NO_MU, UNIFORM_SLOTS),
        remark="Along the direction of the exact numerator, with the exact deviation of the average of 16 states.",
    ),
    simulation_claim(
        id="sg24.z-variance",
        source=EXACT_CONSTANT,
        basis="theorem",
        title="The squared error of z has the stated mean: whole caches, drawn",
        statement=VARIANCE,
        kind=Mean(resolution=0.1),
        trial=sampled_numerator,
        cases={"smoke": tuple({**case, "s": 32, "moment": 2} for case in MC)},
        sabotages=(NO_MU, TWIN_SLOTS),
        remark="The test's deviation is exact too, from fourth moments over the slots' law.",
    ),
    simulation_claim(
        id="sg24.tau-unbiased",
        source=PROOF,
        basis="theorem",
        title="tau is an unbiased estimate of the normaliser",
        statement=sp.Eq(E(TAU), NORMALISER),
        kind=Mean(resolution=0.02),
        trial=sampled_normaliser,
        cases={"smoke": tuple({**case, "t": 8, "moment": 1} for case in MC)},
        sabotages=(EAGER_SAMPLES,),
        remark="Tokens come in the order of their logits, in which a wrong law of the samples shows as a bias.",
    ),
    simulation_claim(
        id="sg24.tau-variance",
        source=EXACT_CONSTANT,
        basis="theorem",
        title="The variance of tau is (1/t) times the sum of count^2 times the variance within each cluster",
        statement=sp.Eq(VAR(TAU), sp.Sum(WITHIN, (X, 1, symbols.m)) / symbols.t),
        kind=Mean(resolution=0.1),
        trial=sampled_normaliser,
        cases={"smoke": ({**MC[1], "t": 4, "moment": 2},)},
        sabotages=(TWIN_SAMPLES,),
        remark="sigma_x^2 is the variance of exp(<q, k>) over the members of cluster x.",
    ),
)
