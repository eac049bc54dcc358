"""Self-normalised SubGen: numerator and normaliser from the same slots. Its bias and variance, derived here.

With `P = softmax(K q)`, the exact answer o and normaliser D, and slots of the law p, `z - tau o` is the mean over s
independent slots of `D P_j (v_j - o) / p_j`, each of mean 0. So `E[tau (out - o)] = 0` and
`E[(tau/D)^2 ||out - o||^2] = sum_j P_j^2 ||v_j - o||^2 / (s p_j)`, exactly, for every s. As `tau/D` tends to 1, this is
the variance of the answer to first order. A vector added to all values cancels in `v_j - o`: nothing of it is left
where p does not see it either. With an exact normaliser the variance is `sum_j P_j^2 ||v_j||^2 / p_j - ||o||^2`.
"""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import numpy as np
import sympy as sp

from ....core.backends import Array, asnumpy, cut, to_device
from ....theory import symbols
from ....theory.claim import Assumption, Claim, Drop, Exact, Mean, Probability, Sabotage, Trial
from ..head import Head, both_sums, stored_weights
from ..laws import FromMean
from .setting import Cache, Tokens, chunks, fed, stream
from .slot_laws import weights_under
from .theorem1_estimators import COPIES, NORMALISER, NUMERATOR, TAU, D, E, Z, ordered_tokens, squared_mean


def cache_of(law: str, slots: int, rng: np.random.Generator, *, broken: str = "nothing") -> Cache:
    return Cache(value_samples=slots, normaliser="slots", law=law, broken=broken, rng=rng)


def storing(xp: Any, head: Head, keys: Array, values: Array, weights: np.ndarray, *, mu: float) -> Head:
    """A state like `head`, without clusters: its slots hold other tokens (s, d), (s, d_v), of these weights (s,)."""
    (s, d), d_v = keys.shape, values.shape[1]
    law: dict[str, Any] = {"law": head.law, "clustered": False}
    state = Head(xp, 0.0, 1, s, seed=0, number=0, d=d, d_v=d_v, dtype=keys.dtype, **law)
    arrays = {**head.contents(), "slot_keys": keys, "slot_values": values, "weights": weights}
    state.restore({**head.about(), "mu": mu}, arrays)
    return state


def apart(xp: Any, head: Head, s: int, *, mu: float | None = None) -> list[Head]:
    """As many states as there are s slots in `head`, each with slots of its own."""
    weights = stored_weights([head], head.slot_values[None])[0]
    parts = cut(head.slots.size, s)
    mu = head.slots.mu if mu is None else mu
    return [storing(xp, head, head.slot_keys[i], head.slot_values[i], weights[i], mu=mu) for i in parts]


def estimates(xp: Any, heads: list[Head], q: np.ndarray, *, of_others: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """`z` (h, c, d_v) and `tau` (h, c) of the states for queries (c, d); tau of the next state with `of_others`."""
    queries = xp.broadcast_to(to_device(q, xp), (len(heads), *q.shape))
    z, tau = (np.exp(asnumpy(m))[..., None] * asnumpy(o) for m, o in both_sums(xp, heads, queries, 1.0))
    return z, np.roll(tau[..., 0], 1, axis=0) if of_others else tau[..., 0]


def enumerated(
    rng: np.random.Generator,
    xp: Any,
    *,
    n: int,
    s: int,
    law: str,
    what: str,
    forget_mu: bool = False,
    of_others: bool = False,
    drawn: str = "",
) -> Trial:
    """Over all contents of s slots: means of z and tau ("sums"), of tau (out - o) ("bias"), of its square ("variance").

    `drawn`: the law by which slots are filled in truth.
    """
    x = ordered_tokens(rng, n)
    head = fed(cache_of(law, 1, rng), xp, x.k, x.v, chunks(n, n)).head
    weights = np.ones(n) if head.from_mean is None else FromMean(head.law, 1, x.v.shape[1]).weigh(x.v, 0)
    true = weights_under(drawn or law, x.v)
    contents = np.array(list(itertools.product(range(n), repeat=s)))
    chance = (true / true.sum())[contents].prod(axis=1)
    k, v, mu = to_device(x.k, xp), to_device(x.v, xp), 1.0 if forget_mu else head.slots.mu
    heads = [storing(xp, head, k[at], v[at], weights[at], mu=mu) for at in contents]
    z, tau = estimates(xp, heads, x.q, of_others=of_others)
    facts = {"n": n, "s": s}
    if what == "sums":
        mean, exact = chance @ np.concatenate([z[:, 0], tau], axis=1), np.append(x.numerator, x.normaliser)
        error, scale = (float(np.linalg.norm(y)) for y in (mean - exact, exact))
        return Trial(error, 0.0, scale=scale, facts=facts)
    off = (z[:, 0] - tau * x.numerator / x.normaliser) / x.normaliser  # tau/D (out - o)
    if what == "bias":
        return Trial(
            float(np.linalg.norm(chance @ off)), 0.0, scale=float(np.linalg.norm(off, axis=1).max()), facts=facts
        )
    expected = first_order(x, law) / s
    return Trial(float(chance @ (off**2).sum(axis=1)), expected, scale=expected, facts=facts)


def terms(x: Tokens, law: str) -> tuple[np.ndarray, np.ndarray]:
    """The law p (n,), and the rows `P_j (v_j - o) / p_j` (n, d_v)."""
    p = weights_under(law, x.v)
    p /= p.sum()
    return p, (x.e / x.normaliser / p)[:, None] * (x.v - x.numerator / x.normaliser)


def first_order(x: Tokens, law: str) -> float:
    """`sum_j P_j^2 ||v_j - o||^2 / p_j`."""
    p, rows = terms(x, law)
    return float(p @ (rows**2).sum(axis=1))


def sampled(
    rng: np.random.Generator,
    xp: Any,
    *,
    n: int,
    s: int,
    rows: int,
    law: str,
    of_others: bool = False,
    broken: str = "nothing",
) -> Trial:
    """`(tau/D)^2 ||out - o||^2`, averaged over COPIES states of s slots each, with the exact deviation."""
    x = ordered_tokens(rng, n)
    head = fed(cache_of(law, COPIES * s, rng, broken=broken), xp, x.k, x.v, chunks(n, rows)).head
    z, tau = estimates(xp, apart(xp, head, s), x.q, of_others=of_others)
    off = (z[:, 0] - tau * x.numerator / x.normaliser) / x.normaliser
    expected, variance = squared_mean(*terms(x, law), s)
    measured = float((off**2).sum(axis=1).mean())
    return Trial(measured, expected, scale=float(np.sqrt(variance / COPIES)), facts={"n": n, "s": s})


def shifted(
    rng: np.random.Generator, xp: Any, *, n: int, law: str, by: float, window: int = 0, normaliser: str = "slots"
) -> Trial:
    """How much an answer moves when a vector is added to all values, less that vector; the draws are the same."""
    x, seed = ordered_tokens(rng, n), int(rng.integers(2**31))
    clusters: dict[str, Any] = {"delta": 1.0, "cluster_samples": 2} if normaliser == "clusters" else {}
    outs = []
    for v in (x.v, x.v + by):
        cache = Cache(value_samples=24, normaliser=normaliser, law=law, recent=window, rng=seed, **clusters)
        fed(cache, xp, x.k, v, chunks(n, 17))
        outs.append(asnumpy(cache.attend(to_device(x.q, xp), scale=1.0))[0])
    error = float(np.linalg.norm(outs[1] - outs[0] - by))
    return Trial(error, 0.0, scale=by + float(np.linalg.norm(outs[0])), facts={"n": n})


def cancels(
    rng: np.random.Generator, xp: Any, *, n: int, s: int, law: str, mean: float, of_others: bool = False
) -> Trial:
    """Squared error of `z / tau`, tau from the same slots, over that of `z / D`, D exact: 32 queries, 8 states."""
    x = stream(rng, n, D, clusters=5, delta=1.0, norm=4.0, query_norm=1.0, mean=mean)
    head = fed(cache_of(law, 8 * s, rng), xp, x.k, x.v, chunks(n, n)).head
    z, tau = estimates(xp, apart(xp, head, s), x.q[:32], of_others=of_others)
    e = np.exp(x.q[:32] @ x.k.T)
    normaliser, exact = e.sum(axis=1), e @ x.v / e.sum(axis=1)[:, None]
    shared, whole = (float(((z / below - exact) ** 2).sum()) for below in (tau[..., None], normaliser[:, None]))
    middle = x.v.mean(axis=0)
    facts = {"n": n, "s": s, "shift": float((middle**2).sum() / ((x.v - middle) ** 2).sum(axis=1).mean())}
    return Trial(shared / whole, 0.5, facts=facts)


OUT, ANSWER = sp.Symbol(r"\mathrm{out}"), sp.Symbol("o")
P_J, LAW_J, OFF_J = sp.Symbol("P_j"), sp.Symbol("p_j", positive=True), symbols.norm("v_j-o", "2")
OFF = symbols.norm(r"\mathrm{out}-o", "2")
EXACTLY = sp.Eq(
    E((TAU / NORMALISER) ** 2 * OFF**2),
    sp.Sum(P_J**2 * OFF_J**2 / LAW_J, (symbols.j, 1, symbols.n)) / symbols.s,
)
LAWS = ("norm", "centred", "distance", "uniform")
DERIVED = "derived here (one set of slots for both sums)"
VARIANCES = tuple({"n": n, "s": s, "law": law, "what": "variance"} for law in LAWS for n, s in ((40, 1), (7, 3)))
NO_MU = Sabotage("missing mu", "the weight mu / (s w) lacks its mu", {"forget_mu": True})
BY_NORM = Sabotage("filled by norm", "slots are filled by norms, the weights assume the law", {"drawn": "norm"})
OTHERS = Sabotage("tau of other slots", "the normaliser comes from other slots than the numerator", {"of_others": True})

exact_claim = partial(
    Claim, paper="SG24", source=DERIVED, basis="derived", trial=enumerated, max_trials={"smoke": 5, "standard": 50}
)

CLAIMS = (
    exact_claim(
        id="sg24.shared-unbiased",
        title="From the same slots z and tau are unbiased under every law, and so is tau (out - o): enumerated",
        statement=sp.And(
            sp.Eq(E(Z), NUMERATOR), sp.Eq(E(TAU), NORMALISER), sp.Eq(E(TAU * (OUT - ANSWER)), 0), evaluate=False
        ),
        kind=Exact("==", rtol=1e-11),
        cases={"smoke": tuple({"n": 7, "s": 3, "law": law, "what": what} for law in LAWS for what in ("sums", "bias"))},
        sabotages=(NO_MU, BY_NORM),
        remark="The package's own sums for everything that three slots can hold of seven tokens.",
    ),
    exact_claim(
        id="sg24.shared-variance-enumerated",
        title="Self-normalised, weighed by tau^2, the variance is sum_j P_j^2 |v_j - o|^2 / (s p_j): enumerated",
        statement=EXACTLY,
        kind=Exact("==", rtol=1e-11),
        cases={"smoke": VARIANCES},
        sabotages=(BY_NORM, OTHERS),
        remark="Exact for every s. As tau/D tends to 1, it is the variance of the answer to first order in 1/s.",
    ),
    exact_claim(
        id="sg24.shared-variance",
        title="The same variance, of whole caches, drawn",
        statement=EXACTLY,
        kind=Mean(resolution=0.1),
        trial=sampled,
        cases={"smoke": tuple({"n": 60, "s": 32, "rows": 20, "law": law} for law in LAWS)},
        max_trials={"smoke": 300, "standard": 3000},
        sabotages=(
            OTHERS,
            Sabotage("twins", "every other slot copies its neighbour", {"broken": "twin slots"}),
            Sabotage("uniform slots", "slots do not look at the values, the weights do", {"broken": "uniform slots"}),
        ),
        remark="The average of 16 states with its exact deviation, from fourth moments over the slots' law.",
    ),
    exact_claim(
        id="sg24.shared-shift",
        title="A vector added to all values is added to the answer, up to rounding: the law does not see it",
        statement=sp.Eq(
            sp.Function(r"\mathrm{out}")(sp.Symbol(r"V+\mathbf{1}c^{\top}")),
            sp.Function(r"\mathrm{out}")(sp.Symbol("V")) + sp.Symbol("c"),
        ),
        kind=Exact("==", rtol=1e-9),
        trial=shifted,
        cases={
            "smoke": tuple(
                {"n": 90, "law": law, "by": by, "window": window}
                for law in LAWS[1:]
                for by, window in ((2.0, 0), (100.0, 9))
            )
        },
        max_trials={"smoke": 20, "standard": 200},
        sabotages=(
            Sabotage("by norm", "the paper's law, which sees the vector", {"law": "norm"}),
            Sabotage("clusters", "the normaliser comes from the clusters", {"normaliser": "clusters"}),
        ),
        remark="The draws are the same: weights are distances from the running mean, over the first that is not 0.",
    ),
    Claim(
        id="sg24.shared-cancels",
        paper="SG24",
        source=DERIVED,
        basis="property",
        title="Where values have a mean, z over tau from the same slots has at most half the squared error of z over D",
        statement=sp.Le(symbols.norm(r"z/\tau-o") ** 2, symbols.norm("z/D-o") ** 2 / 2),
        kind=Probability(p=0.1),
        trial=cancels,
        cases={"smoke": tuple({"n": 1000, "s": 128, "law": law, "mean": 2.0} for law in LAWS)},
        max_trials={"smoke": 300, "standard": 2000},
        assumptions=(Assumption("values with a mean", sp.Ge(sp.Symbol("shift"), 2)),),
        drops=(Drop("values with a mean", tuple({"n": 1000, "s": 128, "law": law, "mean": 0.0} for law in LAWS)),),
        sabotages=(OTHERS,),
        remark=(
            "shift is the squared norm of the values' mean over their variance. To first order the ratio is "
            "sum_j P_j^2 |v_j - o|^2 / p_j over sum_j P_j^2 |v_j|^2 / p_j - |o|^2: about 1 / (1 + shift) if p is flat."
        ),
    ),
)
