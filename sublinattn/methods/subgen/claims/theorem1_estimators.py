"""SubGen's two estimates, of the numerator and of the normaliser: no bias, and their exact variances [SG24]."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import sympy as sp

from ....core.backends import asnumpy, to_device
from ....primitives.clustering import OnlineClusters
from ....primitives.growing import GrowingRows
from ....theory import symbols
from ....theory.claim import Claim, Exact, Mean, Sabotage, Trial
from ..head import Head, normalisers, numerators
from .setting import Cache, chunks, fed, stream

KNOBS = {"clusters": 5, "delta": 1.0, "norm": 4.0, "query_norm": 1.0, "mean": 0.5}
D = 6
COPIES = 16
"""Independent states over the same tokens: a trial is their average."""


class Tokens:
    """One query over a stream: logits' exponentials `e` (n,), squared value norms, and the exact sums.

    Tokens come in the order of their logits, in which a wrong law of the samples does most harm.
    """

    def __init__(self, rng: np.random.Generator, n: int, **knobs: Any) -> None:
        x = stream(rng, n, D, **{**KNOBS, **knobs})
        self.q = x.q[:1]
        order = np.argsort(x.k @ self.q[0])
        self.k, self.v = x.k[order], x.v[order]
        self.e = np.exp(self.k @ self.q[0])
        self.squares = (self.v**2).sum(axis=1)
        self.law = self.squares / self.squares.sum()
        self.numerator = self.e @ self.v
        self.normaliser = float(self.e.sum())
        self.terms = (self.e / self.law)[:, None] * self.v
        """What `z` is the average of, for each token that a slot may hold."""


def sums(part: Callable[..., Any], xp: Any, heads: Sequence[Head], q: np.ndarray) -> np.ndarray:
    """`numerators` or `normalisers` of the heads for queries (c, d), the scale in them: shape (h, c, columns)."""
    m, o = part(xp, heads, xp.broadcast_to(to_device(q, xp), (len(heads), *q.shape)), 1.0)
    return np.exp(asnumpy(m))[..., None] * asnumpy(o)


def enumerated(
    rng: np.random.Generator, xp: Any, *, n: int, moment: int, forget_mu: bool = False, law: str = "norm"
) -> Trial:
    """Mean or variance of `z` from one slot, over all tokens that it can hold, against the sheet's."""
    x = Tokens(rng, n)
    cache = fed(Cache(1.0, 1, 1, rng=rng), xp, x.k, x.v, chunks(n, n))
    head = cache.head
    if forget_mu:
        head.slots.mu = 1.0
    z = []
    for j in range(n):
        head.slot_keys, head.slot_values = (to_device(a[j : j + 1], xp) for a in (x.k, x.v))
        z.append(sums(numerators, xp, [head], x.q)[0, 0])
    p = x.law if law == "norm" else np.full(n, 1 / n)
    if moment == 1:
        error = float(np.linalg.norm(p @ np.array(z) - x.numerator))
        return Trial(error, 0.0, scale=float(np.linalg.norm(x.numerator)), facts={"n": n})
    found = float(p @ ((np.array(z) - x.numerator) ** 2).sum(axis=1))
    stated = float(x.squares.sum() * (x.e**2).sum() - (x.numerator**2).sum())
    return Trial(found, stated, scale=stated, facts={"n": n})


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
    """`z` along the exact numerator, or its squared error, averaged over COPIES states, with the exact deviation."""
    x = Tokens(rng, n)
    u = x.numerator / np.linalg.norm(x.numerator)
    z = []
    for head in _copies(rng, xp, x, rows, value_samples=s, broken=broken):
        if forget_mu:
            head.slots.mu = 1.0
        z.append(sums(numerators, xp, [head], x.q)[0, 0])
    off = x.terms - x.numerator
    facts = {"n": n, "s": s}
    if moment == 1:
        deviation = np.sqrt(x.law @ (off @ u) ** 2 / s / COPIES)
        return Trial(float(np.mean(z, axis=0) @ u), float(x.numerator @ u), scale=float(deviation), facts=facts)
    square = float(x.law @ (off**2).sum(axis=1))
    cross = (off * x.law[:, None]).T @ off
    # E |sum of s independent|^4, from pairs of equal terms
    fourth = s * (x.law @ ((off**2).sum(axis=1) ** 2)) + s * (s - 1) * (square**2 + 2 * (cross**2).sum())
    deviation = np.sqrt((fourth / s**4 - (square / s) ** 2) / COPIES)
    stated = (x.squares.sum() * (x.e**2).sum() - (x.numerator**2).sum()) / s
    errors = ((np.array(z) - x.numerator) ** 2).sum(axis=1)
    return Trial(float(errors.mean()), float(stated), scale=float(deviation), facts=facts)


def sampled_normaliser(
    rng: np.random.Generator, xp: Any, *, n: int, t: int, rows: int, moment: int, broken: str = "nothing"
) -> Trial:
    """`tau`, or its squared error, averaged over COPIES states, with the exact deviation."""
    x = Tokens(rng, n, clusters=3)
    found = []
    for head in _copies(rng, xp, x, rows, cluster_samples=t, broken=broken):
        found.append(sums(normalisers, xp, [head], x.q)[0, 0, 0])
    labels = ((x.k[:, None] - asnumpy(head.clusters.centers.rows)) ** 2).sum(axis=-1).argmin(axis=1)  # far apart
    square = fourth = 0.0  # of the sum over clusters and samples: cumulants add
    for group in range(labels.max() + 1):
        e = x.e[labels == group]
        off = (e - e.mean()) * len(e) / t
        square += t * float((off**2).mean())
        fourth += t * float((off**4).mean() - 3 * (off**2).mean() ** 2)
    facts = {"n": n, "t": t, "m": float(labels.max() + 1)}
    if moment == 1:
        return Trial(float(np.mean(found)), x.normaliser, scale=float(np.sqrt(square / COPIES)), facts=facts)
    deviation = np.sqrt((fourth + 2 * square**2) / COPIES)
    return Trial(float(((np.array(found) - x.normaliser) ** 2).mean()), square, scale=float(deviation), facts=facts)


def _copies(
    rng: np.random.Generator,
    xp: Any,
    x: Tokens,
    rows: int,
    *,
    cluster_samples: int = 1,
    value_samples: int = 1,
    broken: str,
) -> Iterator[Head]:
    """COPIES states over the same tokens: a share each of the samples and slots of one cache, which are independent.

    It is one object, with another share every time.
    """
    t, s = cluster_samples, value_samples
    head = fed(Cache(1.0, COPIES * t, COPIES * s, broken=broken, rng=rng), xp, x.k, x.v, chunks(len(x.k), rows)).head
    sampled, keys, values = head.sampled.rows, head.slot_keys, head.slot_values
    head.samples.size, head.slots.size = t, s
    for i in range(COPIES):
        head.sampled = GrowingRows(sampled[:, i * t : (i + 1) * t])
        head.slot_keys, head.slot_values = (array[i * s : (i + 1) * s] for array in (keys, values))
        yield head


def relative_variance(
    rng: np.random.Generator, xp: Any, *, n: int, length: float, tight: bool, narrow: float = 1.0
) -> Trial:
    """`t Var(tau) / E[tau]^2` of the clusters found, against `sinh(delta r)^2`; the largest one within stands between.

    `tight`: two clusters, each with members at distance delta on either side of its centre, in the shares at which the
    bound is met.
    """
    delta = 1.0
    if tight:
        u = rng.standard_normal(D)
        u /= np.linalg.norm(u)
        share = 1 / (1 + np.exp(2 * length * delta))
        side = np.where(np.arange(n) < round(share * n), 1, -1) * delta * (1 - 1e-12)
        k = np.concatenate([offset + np.concatenate([np.zeros((1, D)), side[:, None] * u]) for offset in (0.0, 9.0)])
        q = length * u
    else:
        x = stream(rng, n, D, clusters=8, delta=1.4, norm=20.0, query_norm=length)
        q, k = x.q[0], x.k
    keys = to_device(k, xp)
    clusters = OnlineClusters(delta, keys[:0])
    labels = np.concatenate([clusters.absorb(xp, keys[chunk]) for chunk in chunks(len(k), 100)])
    e = np.exp(k @ q - (k @ q).max())
    groups = [e[labels == i] for i in range(len(clusters.centers))]
    whole = sum(len(g) ** 2 * g.var() for g in groups) / e.sum() ** 2
    within = max(g.var() / g.mean() ** 2 for g in groups)
    bound = np.sinh(delta * length / narrow) ** 2
    return Trial(
        float(max(whole / within if within else 0.0, within / bound)),
        1.0,
        facts={
            "n": len(k),
            "m": len(clusters.centers),
            "within": float(within),
            "whole": float(whole),
            "delta_r": delta * length,
        },
    )


E, VAR = symbols.E, sp.Function(r"\mathrm{Var}")
Z, NUMERATOR, TAU = sp.Symbol("z"), sp.Symbol(r"e^{Kq\top}V"), sp.Symbol("tau", positive=True)
NORMALISER = sp.Symbol(r"\mathbf{1}^{\top}e^{Kq}")
V_F, E_NORM = symbols.norm("V", "F"), symbols.norm("e^{Kq}", "2")
OUT_NORM, ERROR = symbols.norm(r"e^{Kq\top}V", "2"), symbols.norm(r"z-e^{Kq\top}V", "2")
X = sp.Symbol("x", integer=True)
VARIANCE = (V_F**2 * E_NORM**2 - OUT_NORM**2) / symbols.s
NO_MU = Sabotage("missing mu", "the weight mu / (s |v|^2) lacks its mu", {"forget_mu": True})
UNIFORM = Sabotage(
    "uniform slots", "slots do not look at the norms, the weights assume that they do", {"broken": "uniform slots"}
)
MC = tuple({"n": 60, "rows": rows} for rows in (60, 20))

CLAIMS = (
    Claim(
        id="sg24.z-enumerated",
        paper="SG24",
        source="proof of Theorem 1",
        title="z is unbiased: enumerated over everything that a slot can hold",
        statement=sp.Eq(E(Z), NUMERATOR),
        kind=Exact("==", rtol=1e-12),
        trial=enumerated,
        cases={"smoke": ({"n": 40, "moment": 1},)},
        max_trials={"smoke": 5, "standard": 50},
        sabotages=(NO_MU, Sabotage("uniform law", "every token as likely as every other", {"law": "uniform"})),
        remark="The package's own estimate for each token that a slot may hold, weighted by the law of sg24.slot-law.",
    ),
    Claim(
        id="sg24.z-variance-enumerated",
        paper="SG24",
        source="proof of Theorem 1, with the exact constant derived here",
        title="The variance of z is (|V|_F^2 |exp(Kq)|^2 - |exp(Kq)^T V|^2) / s: enumerated for one slot",
        statement=sp.Eq(E(ERROR**2), VARIANCE),
        kind=Exact("==", rtol=1e-12),
        trial=enumerated,
        cases={"smoke": ({"n": 40, "moment": 2},)},
        max_trials={"smoke": 5, "standard": 50},
        sabotages=(NO_MU, Sabotage("uniform law", "every token as likely as every other", {"law": "uniform"})),
        remark="Slots are independent (sg24.slot-independence), so s of them have a variance s times smaller.",
    ),
    Claim(
        id="sg24.z-unbiased",
        paper="SG24",
        source="proof of Theorem 1",
        title="z is unbiased: whole caches, drawn",
        statement=sp.Eq(E(Z), NUMERATOR),
        kind=Mean(resolution=0.02),
        trial=sampled_numerator,
        cases={"smoke": tuple({**case, "s": 256, "moment": 1} for case in MC)},
        max_trials={"smoke": 300, "standard": 3000},
        sabotages=(NO_MU, UNIFORM),
        remark="Along the direction of the exact numerator, with the exact deviation of the average of 16 states.",
    ),
    Claim(
        id="sg24.z-variance",
        paper="SG24",
        source="proof of Theorem 1, with the exact constant derived here",
        title="The squared error of z has the stated mean: whole caches, drawn",
        statement=sp.Eq(E(ERROR**2), VARIANCE),
        kind=Mean(resolution=0.1),
        trial=sampled_numerator,
        cases={"smoke": tuple({**case, "s": 32, "moment": 2} for case in MC)},
        max_trials={"smoke": 300, "standard": 3000},
        sabotages=(NO_MU, Sabotage("twins", "every other slot copies its neighbour", {"broken": "twin slots"})),
        remark="The test's deviation is exact too, from fourth moments over the slots' law.",
    ),
    Claim(
        id="sg24.tau-unbiased",
        paper="SG24",
        source="proof of Theorem 1",
        title="tau is an unbiased estimate of the normaliser",
        statement=sp.Eq(E(TAU), NORMALISER),
        kind=Mean(resolution=0.02),
        trial=sampled_normaliser,
        cases={"smoke": tuple({**case, "t": 8, "moment": 1} for case in MC)},
        max_trials={"smoke": 300, "standard": 3000},
        sabotages=(
            Sabotage("off by one", "a sample is replaced with probability 1/(count - 1)", {"broken": "eager samples"}),
        ),
        remark="Tokens come in the order of their logits, in which a wrong law of the samples shows as a bias.",
    ),
    Claim(
        id="sg24.tau-variance",
        paper="SG24",
        source="proof of Theorem 1, with the exact constant derived here",
        title="The variance of tau is (1/t) times the sum of count^2 times the variance within each cluster",
        statement=sp.Eq(
            VAR(TAU),
            sp.Sum(sp.IndexedBase("n")[X] ** 2 * sp.IndexedBase(r"\sigma^2")[X], (X, 1, symbols.m)) / symbols.t,
        ),
        kind=Mean(resolution=0.1),
        trial=sampled_normaliser,
        cases={"smoke": ({**MC[1], "t": 4, "moment": 2},)},
        max_trials={"smoke": 300, "standard": 3000},
        sabotages=(Sabotage("twins", "all samples of a cluster are one and the same", {"broken": "twin samples"}),),
        remark="sigma_x^2 is the variance of exp(<q, k>) over the members of cluster x.",
    ),
    Claim(
        id="sg24.tau-bound",
        paper="SG24",
        source="proof of Theorem 1, with the sharp constant derived here",
        title="The relative variance of tau is at most sinh(delta r)^2 / t",
        statement=sp.Le(symbols.t * VAR(TAU) / NORMALISER**2, sp.sinh(symbols.delta * symbols.r) ** 2),
        kind=Exact("<=", rtol=1e-9),
        trial=relative_variance,
        cases={
            "smoke": tuple(
                {"n": n, "length": length, "tight": tight}
                for n, tight in ((300, False), (1000, True))
                for length in (0.25, 1.0, 2.0)
            )
        },
        max_trials={"smoke": 5, "standard": 50},
        sabotages=(Sabotage("half of delta", "sinh(delta r / 2)^2", {"narrow": 2.0}),),
        remark=(
            "Logits of a cluster differ by at most 2 delta r, and a variable between a and b has at most the variance "
            "(b - a)^2 / (4ab) over its squared mean: (e^{2 delta r} - 1)^2 / (4 e^{2 delta r}). Two-sided clusters "
            "meet it."
        ),
    ),
)
