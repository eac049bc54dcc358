"""Error of the batch methods at equal budgets."""

from examples import table
from sublinattn.methods.baselines.studies import equal_budget

METHODS = (("exact", 1e-7), ("answering zero", 1.0), ("uniform", 0.3), ("nystrom", 0.2))
ROWS = table(
    "input source n replicate method budget error",
    *(
        (what, source, 64, r, m, b, e * (1 + r) * 8 / b)
        for what, source in (("Gaussian", "synthetic"), ("MiniLM", "real"))
        for r in (0, 1)
        for m, e in METHODS
        for b in (8, 16)
    ),
)

FIGURES = {equal_budget.draw: lambda: equal_budget.draw(ROWS)}
