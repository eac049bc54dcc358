"""Losses of replaced layers, as `perplexity_figures.summary` has them."""

from examples import table
from sublinattn.methods.hyperattention.claims.replaced_layers import HYPER, HYPER_SINKS
from sublinattn.methods.hyperattention.studies import perplexity_figures
from sublinattn.methods.hyperattention.studies.perplexity import (
    ALPHA,
    ERROR,
    FIRST,
    GREEDY,
    LAST,
    NONE_EXACT,
    SOME_EXACT,
)

COSTS = {LAST: 0.2, FIRST: 0.1, ALPHA: 0.1, ERROR: 0.15, GREEDY: 0.05}
"""What half of the layers add: from the first and by alpha they are the same layers."""
SERIES = (
    *(
        (name, order, cost / (1 + 4 * (name == HYPER_SINKS)))
        for name in (HYPER, HYPER_SINKS)
        for order, cost in COSTS.items()
    ),
    *((name, LAST, 0.3 + 0.1 * i) for i, name in enumerate(NONE_EXACT[1:-1])),
    (NONE_EXACT[-1], LAST, 2.0),
    *((name, LAST, 0.02 * (1 + i)) for i, name in enumerate(SOME_EXACT[1:])),
)
REPLACED = table(
    "n stretched method order replaced passages perplexity base2 relative lower upper low high attention forward",
    *(
        (
            n,
            n > 256,
            name,
            order,
            r,
            3,
            4.0**x,
            2.6**x,
            x,
            *(y * x if r else 1.0 for y in LIMITS),
            1 - r / 9,
            1 - r / 18,
        )
        for n in (256, 1024)
        for name, order, half in SERIES
        for r, x in ((0, 1.0), (1, 1 + half), (2, 1 + 2 * half))
        for LIMITS in [(0.9, 1.1, 0.98, 1.02)]
    ),
)

FIGURES = {
    perplexity_figures.draw_layers: lambda: perplexity_figures.draw_layers(REPLACED),
    perplexity_figures.draw_orders: lambda: perplexity_figures.draw_orders(REPLACED),
    perplexity_figures.draw_time: lambda: perplexity_figures.draw_time(REPLACED),
}
