"""Errors with and without an assumption, as `dropped_assumptions` measures them."""

from examples import table
from sublinattn.methods.hyperattention.studies import dropped_assumptions

ERRORS = table(
    "assumption input variant replicate error",
    *((a, "x", v, i, 0.3 + i) for a in ("a", "b") for v in dropped_assumptions.VARIANTS for i in (0, 1)),
)
RATES = table(
    "assumption variant rate low high",
    *((a, v, 0.1, 0.0, 0.2) for a in ("a", "b") for v in dropped_assumptions.VARIANTS),
)

FIGURES = {dropped_assumptions.draw: lambda: dropped_assumptions.draw(ERRORS, RATES)}
YARDSTICKS = THEORY = (dropped_assumptions.draw,)
