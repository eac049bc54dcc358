"""Heads in the plane, as `model_keys_values` projects them."""

from examples import table
from sublinattn.methods.subgen.studies import model_keys_values

PLANE = table(
    "layer head what position x y center share",
    *((i, 0, w, p, 0.1 * p, 0.2, p < 2, 0.5) for i in (0, 1) for w in ("keys", "values") for p in range(4)),
)

FIGURES = {model_keys_values.draw_projections: lambda: model_keys_values.draw_projections(PLANE)}
