"""Statistics, errors and biases of SubGen's estimates, as `laws` measures them."""

from examples import table
from sublinattn.methods.subgen.studies import laws

TRIALS = table(
    "law variant what ratio",
    *((w, v, f"{w}, {v}", x) for w in ("slots", "samples") for v in ("as claimed", "broken") for x in (0.5, 100)),
)
SQUARES = table("estimate size square", *((e, s, x / s) for e in ("z", "tau") for s in (1, 8) for x in (0.5, 2.0)))
SQUARE_LAWS = table(
    "estimate size exact bound level uniform zero",
    *((e, s, 1 / s, 2 / s, 20 / s, 3 / s, 1.0) for e in ("z", "tau") for s in (1, 8)),
)
SPREADS = table(
    "setting delta_r whole within largest",
    *((s, x, x**2 / 2, x**2, x**2) for s in ("two-sided", "random", "real heads") for x in (0.5, 2.0)),
)
ALONG = table("varies s t along", *((v, s, s, x) for v in "st" for s in (1, 8) for x in (0.1, 0.2)))
ALONG_LAWS = table("varies s t exact first_order", *((v, s, s, 0.2, 0.1) for v in "st" for s in (1, 8)))

FIGURES = {
    laws.draw_pearson: lambda: laws.draw_pearson(TRIALS),
    laws.draw_errors: lambda: laws.draw_errors(SQUARES, SQUARE_LAWS),
    laws.draw_tau_bound: lambda: laws.draw_tau_bound(SPREADS),
    laws.draw_bias: lambda: laws.draw_bias(ALONG, ALONG_LAWS),
}
THEORY = tuple(FIGURES)
