"""How many slots self-normalised SubGen needs: a bound with all constants, and the growth in eps. Derived here."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import sympy as sp

from ....core.backends import asnumpy, to_device
from ....theory import symbols
from ....theory.claim import Assumption, Claim, Drop, Growth, Probability, Sabotage, Trial, Vacuity
from ..head import stored_weights
from .self_normalised import DERIVED, LAWS, cache_of, first_order
from .slot_laws import weights_under
from .theorem1 import ALL_NUMBERS, BASE, NUMBERS, OUT_ERROR, TENTH, WIDTH, S, problem
from .theorem1_sizes import EPS, S_STAR, critical, means


def chebyshev(
    rng: np.random.Generator,
    xp: Any,
    *,
    law: str,
    p: float,
    times: float,
    instance: dict[str, Any],
    over: float = 1.0,
    broken: str = "nothing",
) -> Trial:
    """`||out - Attn||` with `times` the prescribed slots, over `||softmax(Kq)|| ||V||`."""
    x = problem(**instance, seed=0)
    weights = weights_under(law, x.v)
    spread = float(((x.e / x.normaliser) ** 2 / (weights / weights.sum())).sum()) - 1  # s Var(tau / D)
    prescribed = max(1, int(np.ceil(8 * spread / p)))
    s = max(1, round(times * prescribed))
    cache = x.feed(cache_of(law, s, rng, broken=broken), xp)
    out = asnumpy(cache.attend(to_device(x.q, xp), scale=1.0))[0]
    bound = 2 * float(np.sqrt(2 * first_order(x, law) / (s * p))) / x.unit
    numbers = s * (instance["d"] + instance["d_v"] + 2)
    facts = {**x.facts, "s": s, "prescribed": prescribed, "numbers": numbers, "promised": bound}
    return Trial(float(np.linalg.norm(out - x.exact)) / x.unit, bound / over, facts=facts)


def critical_slots(
    rng: np.random.Generator,
    xp: Any,
    *,
    variable: str,
    law: str,
    eps: float,
    slots: int,
    broken: str = "nothing",
    **instance: Any,
) -> Trial:
    """Slots at which a tenth of the draws miss `||out - Attn|| <= eps ||softmax(Kq)|| ||V||`.

    The slots of one cache are independent: any s of them are a draw of s, and there are `slots / s` draws.
    """
    x = problem(**{**BASE, **instance}, seed=int(rng.integers(2**31)))
    head = x.feed(cache_of(law, slots, rng, broken=broken), xp).head
    keys, values = asnumpy(head.slot_keys), asnumpy(head.slot_values)
    e = np.exp(keys @ x.q[0] - x.top) / stored_weights([head], head.slot_values[None])[0]
    terms = e[:, None] * np.concatenate([values, np.ones((slots, 1))], axis=1)

    def errors(s: int) -> np.ndarray:
        sums = means(terms, s)
        return np.linalg.norm(sums[:, :-1] / sums[:, -1:] - x.exact, axis=1) / x.unit

    start = 2 * first_order(x, law) / (x.unit * eps) ** 2
    return critical(rng, errors, x, eps, total=slots, start=start)


P = sp.Symbol("p")
FIRST_ORDER = sp.Sum(
    sp.Symbol("P_j") ** 2 * symbols.norm("v_j-o", "2") ** 2 / sp.Symbol("p_j", positive=True),
    (symbols.j, 1, symbols.n),
)
INSTANCE = {**BASE, "mean": 1.0}
BOUNDS = tuple({"law": law, "p": 0.1, "times": times, "instance": INSTANCE} for law in LAWS for times in (1, 32))
PARTLY = {"broken": "partly uniform slots"}
UNIFORM = Sabotage("uniform slots", "slots do not look at the values, the weights do", {"broken": "uniform slots"})

derived_claim = partial(Claim, paper="SG24", source=DERIVED, basis="derived")

CLAIMS = (
    derived_claim(
        id="sg24.shared-chebyshev",
        title="Self-normalised, the answer is within 2 sqrt(2F / (s p)) of attention with probability 1 - p",
        statement=sp.Le(OUT_ERROR, 2 * sp.sqrt(2 * FIRST_ORDER / (symbols.s * P))),
        kind=Probability(p=0.1),
        trial=chebyshev,
        cases={"smoke": BOUNDS},
        max_trials={"smoke": 300, "standard": 4000},
        assumptions=(Assumption("enough slots", sp.Ge(S, sp.Symbol("prescribed"))),),
        drops=(Drop("enough slots", tuple({**case, "times": 0.02} for case in BOUNDS[::2])),),
        sabotages=(UNIFORM, TENTH),
        vacuity=Vacuity(
            sp.Or(sp.Ge(NUMBERS, ALL_NUMBERS), sp.Ge(sp.Symbol("promised"), symbols.ZERO)), onset=NUMBERS / WIDTH
        ),
        remark=(
            "F = sum_j P_j^2 |v_j - o|^2 / p_j, s >= 8 (sum_j P_j^2 / p_j - 1) / p. By Chebyshev tau is above D/2 "
            "except with probability p/2, and |z - tau o| / D is at most sqrt(2F / (s p)) except with p/2. Measured "
            "over |softmax(Kq)| |V|, as the theorem; vacuous where the bound is above the error of answering zero, or "
            "slots are as many numbers as all keys and values."
        ),
    ),
    derived_claim(
        id="sg24.shared-slots",
        title="Self-normalised, s = O(eps^-2) slots suffice",
        statement=sp.Eq(S_STAR, symbols.O(EPS**-2)),
        kind=Growth(variables={"varepsilon": EPS**-2}, resolution={"varepsilon": 0.25}),
        trial=critical_slots,
        cases={
            "smoke": tuple(
                {"variable": "varepsilon", "law": "norm", "eps": eps, "n": 2048, "slots": 2**17, "mean": 2.0}
                for eps in (0.094, 0.0665, 0.047, 0.0332)
            )
        },
        max_trials={"smoke": 16, "standard": 20},
        restated=(
            "6c1e892: eps from 0.22 to 0.07, where 13 slots suffice at one end and the ratio's second order still "
            "counts, and a sabotage whose error falls below none of these eps"
        ),
        sabotages=(
            Sabotage("partly uniform", "every fourth slot does not look at the values, the weights do", PARTLY),
        ),
        remark=(
            "The paper's law, on values of mean 2. By sg24.shared-variance every exponent tends to -2; where "
            "few slots suffice, fewer do than the limit says, and sizes grow faster: -2.11 [-2.16, -2.07] from "
            "13 to 130 slots. O() speaks of the limit, a verdict of this grid."
        ),
    ),
)
