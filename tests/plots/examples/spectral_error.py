"""Errors over the budget, as `spectral_error.measure` gives them."""

from examples import table
from sublinattn.methods.hyperattention.studies import spectral_error

BUDGETS = table(
    "input source n replicate method budget error",
    *(
        (name, source, 64, replicate, method, budget, 1e-7 if method == "exact" else (1.0 + replicate) / budget)
        for name, source in (("a", "synthetic"), ("b", "real"))
        for method in ("exact", "zero", "uniform", "hyper practical", "hyper theory", spectral_error.SINKS_EXACT)
        for budget in (8, 16, 32)
        for replicate in (0, 1, 2)
    ),
)

FIGURES = {spectral_error.draw: lambda: spectral_error.draw(BUDGETS)}
YARDSTICKS = (spectral_error.draw,)
