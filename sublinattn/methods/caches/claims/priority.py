"""Slots by squared value norm without replacement [DLT07], beside as many with it, at equal bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import sympy as sp

from ....core.backends import Array, asnumpy, to_device
from ....core.exact import attention
from ....lab.workloads import make
from ....theory.claim import Claim, Probability, Sabotage, Trial
from ..base import softmax_over
from ..reservoir import ReservoirCache

HEADS, QUERIES, D = 16, 32, 16


class Uncounted(ReservoirCache):
    """Every stored token counts once, whatever its chance to be stored was."""

    def _attend(self, xp: Any, q: Array, scale: float) -> Array:
        return softmax_over(xp, self._stored, self.budget, q, scale).output()


def error_over_slots(
    rng: np.random.Generator, xp: Any, *, n: int, budget: int, mass: float | None, counted: bool = True
) -> Trial:
    """Error of "priority" over that of "value-norm", root mean square over the queries and HEADS draws of each.

    On the workload "heavy values", whose long values have the share `mass` of the attention.
    """
    x = make("heavy_values", n, D, rng=rng, mass=mass)
    q, k, v = (a.astype(float) for a in (x.q[:QUERIES], x.k, x.v))
    exact = attention(q, k, v, scale=x.scale)
    rows = [to_device(np.broadcast_to(a, (HEADS, *a.shape)).copy(), xp) for a in (q, k, v)]
    errors, nbytes = [], []
    without = (ReservoirCache if counted else Uncounted)(budget, "priority", rng=rng)
    for cache in (without, ReservoirCache(budget, "value-norm", rng=rng)):
        cache.update(rows[1], rows[2])
        errors.append(float(np.linalg.norm(asnumpy(cache.attend(rows[0], scale=x.scale)) - exact)))
        nbytes.append(cache.nbytes)
    facts = {"n": n, "budget": budget, "bytes": nbytes[0] / nbytes[1]}
    return Trial(errors[0] / errors[1], 1.0, facts=facts)


WITHOUT, WITH = (sp.Symbol(rf"\mathrm{{err}}_{{\mathrm{{{name}}}}}", positive=True) for name in ("without", "with"))

CLAIMS = (
    Claim(
        id="dlt07.slots",
        paper="DLT07",
        source="priority sampling, for the slots of [SG24, Algorithm 1]; both sums from them",
        basis="property",
        title="Where a few values are long, slots without replacement have a smaller error than as many with it",
        statement=sp.Le(WITHOUT, WITH),
        kind=Probability(p=0.1),
        trial=error_over_slots,
        cases={"smoke": tuple({"n": 2048, "budget": 64, "mass": mass} for mass in (None, 0.5))},
        max_trials={"smoke": 80, "standard": 200},
        sabotages=(Sabotage("uncounted", "every stored token counts once", {"counted": False}),),
        source_checked=False,
        remark=(
            "The same bytes: a key, a value and a number of 8 bytes in each slot. Eight values of 2048 are 100 times "
            "as long as the others, so that with replacement nearly all slots hold one of these eight tokens; without "
            "it each is there once, and the other slots hold other tokens. The weights are those of priority sampling, "
            "from memory; that they make both sums unbiased is tested."
        ),
    ),
)
