"""Variances of the laws of slots and errors of the caches, as `self_normalised` measures them."""

from examples import table
from sublinattn.methods.subgen.studies import self_normalised

LAWS = table(
    "input source replicate exact law over",
    *(
        ("a", "real", r, exact, law, 0.5 + r)
        for r in (0, 1)
        for exact in ("none", "the first")
        for law in (*self_normalised.LAWS, *self_normalised.MIXED, self_normalised.BEST, self_normalised.EXACT_D)
    ),
)
METHODS = ("subgen", *(f"slots, {law}" for law in self_normalised.LAWS), "uniform", "zero")
ERRORS = table(
    "input source replicate share method relative",
    *(("a", "real", r, s, m, 0.5 + r) for r in (0, 1) for s in self_normalised.SHARES for m in METHODS),
)
MEANS = table(
    "n replicate mean method relative absolute",
    *(
        (64, r, x, m, 0.1 + r, 0.2 + x)
        for r in (0, 1)
        for x in (0.0, 2.0)
        for m in ("subgen", "value-norm", "uniform", "zero")
    ),
)

FIGURES = {
    self_normalised.draw_laws: lambda: self_normalised.draw_laws(LAWS),
    self_normalised.draw_errors: lambda: self_normalised.draw_errors(ERRORS),
    self_normalised.draw_over_mean: lambda: self_normalised.draw_over_mean(MEANS),
}
