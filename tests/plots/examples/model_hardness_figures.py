"""Hardness of four heads, as `model_hardness.over_n` measures it; the longest beyond the trained n."""

from examples import table
from sublinattn.methods.hyperattention.studies import model_hardness
from sublinattn.methods.hyperattention.studies import model_hardness_figures as figures

COLUMNS = (*model_hardness.QUANTITIES, "mass", "mass_first", "columns", "position")
HEADS = table(
    "layer head replicate n trained " + " ".join(COLUMNS),
    *(
        (layer, head, r, n, 100, *[2.0 * n + layer + head + r] * len(COLUMNS))
        for layer in (0, 1)
        for head in (0, 1)
        for r in (0, 1)
        for n in (32, 64, 128)
    ),
)

FIGURES = {
    figures.draw_without_keys: lambda: figures.draw_without_keys(HEADS),
    figures.draw_over_n: lambda: figures.draw_over_n(HEADS),
    figures.draw_heads: lambda: figures.draw_heads(model_hardness.by_head(HEADS)),
    figures.draw_exponents: lambda: figures.draw_exponents(HEADS),
}
THEORY = (figures.draw_without_keys, figures.draw_over_n)
