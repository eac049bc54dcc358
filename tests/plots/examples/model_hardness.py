"""Hardness of four heads, and of many, as `model_hardness.over_n` measures it; the longest beyond the trained n."""

from examples import table
from sublinattn.methods.hyperattention.studies import model_hardness

HEADS = table(
    "layer head replicate n trained uniform " + " ".join(model_hardness.QUANTITIES),
    *(
        (layer, head, r, n, 100, 4 / n, *[2.0 * n + layer + head + r] * 6, 0.1 / n)
        for layer in (0, 1)
        for head in (0, 1)
        for r in (0, 1)
        for n in (64, 128)
    ),
)

FIGURES = {model_hardness.draw_over_n: lambda: model_hardness.draw_over_n(HEADS)}
THEORY = (model_hardness.draw_over_n,)
