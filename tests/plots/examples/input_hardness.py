"""Hardness over n and norms by rank, as `input_hardness` measures them."""

from examples import table
from sublinattn.methods.hyperattention.studies import input_hardness

INPUTS = (("a", "synthetic"), ("b", "real"))
OVER_N = table(
    "input source n exact_keys alpha kappa",
    *((name, source, n, c, 2.0 * n, 3.0) for name, source in INPUTS for n in (64, 128) for c in (0, 4)),
)
PROFILE = table(
    "input source n replicate rank value",
    *((name, source, 64, i, r, (9.0 + i) / r) for name, source in INPUTS for i in (0, 1) for r in (1, 8)),
)

FIGURES = {
    input_hardness.draw_over_n: lambda: input_hardness.draw_over_n(OVER_N, "alpha"),
    input_hardness.draw_columns: lambda: input_hardness.draw_columns(PROFILE),
}
THEORY = tuple(FIGURES)
