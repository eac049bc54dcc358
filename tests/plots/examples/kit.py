"""Figures that the kit itself draws: fits of growth claims, maps over layers and heads."""

import numpy as np

from examples import table
from sublinattn.plots.growth import growths
from sublinattn.plots.heads import head_maps

SIZES = table(
    "claim variable x replicate size",
    *((c, v, x, r, 2 * x + r) for c, v in (("a", "n"), ("a", "kappa"), ("b", "n")) for x in (10, 100) for r in (0, 1)),
    ("a", "n", 1000, 0, np.inf),
)
FITS = table(
    "claim variable theory measured lower upper theory_exponent",
    ("a", "n", r"\log{\left(n \right)}", -0.001, -0.002, 1.0, 0.2),
    ("a", "kappa", r"\kappa^{7}", 0.9, 0.8, 1.0, 7.0),
    ("b", "n", "1", 0.1, 0.0, 0.3, 0.0),
)
LAYERS = table("layer head alpha kappa", *((i, j, 1.0 + i, 0.0) for i in range(30) for j in range(9)))

FIGURES = {
    growths: lambda: growths(SIZES, FITS, {"a": "Lemma", "b": "bytes"}, ylabel="size", reciprocal={"b": 1}),
    head_maps: lambda: head_maps(
        LAYERS, {"alpha": "alpha", "kappa": "kappa"}, groups={"a": ("alpha",), "k": ("kappa",)}
    ),
}
THEORY = (growths,)
