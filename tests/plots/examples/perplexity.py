"""Losses over contexts, and of replaced layers, as `perplexity` measures them."""

from examples import table
from sublinattn.methods.hyperattention.claims.replaced_layers import HYPER, LOCAL, UNIFORM, ZERO
from sublinattn.methods.hyperattention.studies import perplexity
from sublinattn.methods.hyperattention.studies.perplexity import ALPHA, FIRST, GREEDY, LAST

CONTEXTS = table(
    "n stretched passage bits",
    *((n, n > 256, passage, passage + 200 / n) for n in (128, 256, 512) for passage in (1, 2, 3)),
)
COSTS = {LAST: 0.2, FIRST: 0.1, ALPHA: 0.1, GREEDY: 0.05}
"""What half of the layers add: from the first and by alpha they are the same layers."""
REPLACED = table(
    "n stretched method order replaced perplexity relative low high attention forward",
    *(
        (n, n > 256, name, order, r, 4.0**x if r else 4.0, x, 0.98 * x, 1.02 * x, 1.0 - r / 9, 1.0 - r / 18)
        for n in (256, 1024)
        for name, order, half in (
            *((HYPER, order, cost) for order, cost in COSTS.items()),
            *((LOCAL, LAST, 0.4), (UNIFORM, LAST, 0.3), (ZERO, LAST, 2.0)),
        )
        for r, x in ((0, 1.0), (1, 1 + half), (2, 1.5 + (half if name != HYPER else 0)))
    ),
)

FIGURES = {
    perplexity.draw_context: lambda: perplexity.draw_context(CONTEXTS, unit="byte"),
    perplexity.draw_layers: lambda: perplexity.draw_layers(REPLACED, unit="byte"),
    perplexity.draw_time: lambda: perplexity.draw_time(REPLACED),
}
YARDSTICKS = (perplexity.draw_layers,)
