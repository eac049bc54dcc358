"""Excess over the best sparse answer, as `sparse_recovery` measures it."""

from examples import table
from sublinattn.methods.onepass.studies import sparse_recovery

EXCESS = table(
    "signal eps1 method excess proven",
    *((s, e, m, 0.1, 2.0) for s in "ab" for e in (0.1, 1.0) for m in ("identify", "scan", "zero")),
)

FIGURES = {sparse_recovery.draw: lambda: sparse_recovery.draw(EXCESS)}
THEORY = (sparse_recovery.draw,)
