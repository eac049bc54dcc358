"""Sizes and errors of BalanceKV, as `balance` measures them."""

from examples import table
from sublinattn.methods.balancekv.studies import balance

SIZES = table(
    "method eps replicate size n",
    *(
        (method, eps, r, (1 + r) * eps**-power, 999)
        for method, power in (("uniform", 2), ("balancekv", 1), ("balancekv, pairs", 1), ("Thinformer", 1))
        for eps in (0.2, 0.1, 0.05)
        for r in (0, 1)
    ),
)
HALVINGS = table(
    "rule t replicate error",
    *((rule, t, r, (1 + r) / t) for rule in balance.RULES for t in (16, 32, 64, 128, 256) for r in (0, 1)),
)
COUNTED = table(
    "method t folds replicate share",
    *(
        (method, t, folds, r, 1 / (1 + r * folds / t))
        for method in ("balancekv", "balancekv, pairs")
        for t in (32, 128)
        for folds in (1, 2, 4)
        for r in (0, 1)
    ),
)

FIGURES = {
    balance.draw_critical_sizes: lambda: balance.draw_critical_sizes(SIZES),
    balance.draw_halvings: lambda: balance.draw_halvings(HALVINGS),
    balance.draw_counted: lambda: balance.draw_counted(COUNTED),
}
THEORY = (balance.draw_critical_sizes, balance.draw_halvings)
