"""Losses over contexts, as `context_gain` measures them."""

from examples import table
from sublinattn.methods.hyperattention.studies import context_gain

CONTEXTS = table(
    "n stretched passage text bits",
    *((n, n > 256, passage, "code", passage + 200 / n) for n in (128, 256, 512) for passage in (1, 2, 3)),
)

FIGURES = {context_gain.draw_context: lambda: context_gain.draw_context(CONTEXTS, unit="byte")}
