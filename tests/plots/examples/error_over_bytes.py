"""Errors and needles over bytes, as `error_over_bytes` measures them."""

import numpy as np

from examples import table
from sublinattn.lab.comparison import error_over_bytes

CACHES = table(
    "input source method share held error relative",
    *(
        (i, "real" if i == "b" else "synthetic", m, b, 0.9 * b, 0.1 / b, 0.2 / b)
        for i in "abcd"
        for m in ("subgen", "subgen, window", "subgen, hindsight", "sinks", "heavy hitters", "uniform", "value-norm")
        for b in (0.125, 0.25)
    ),
    *((i, "synthetic", m, np.nan, b, e, e) for i in "abcd" for m, b, e in (("exact", 1.0, 1e-7), ("zero", 0.0, 1.0))),
)
NEEDLES = table(
    "method share rate low high",
    *((m, b, 0.4, 0.3, 0.5) for m in ("subgen", "subgen, delta told", "k-center", "uniform") for b in (0.125, 0.25)),
    *((m, np.nan, r, r, r) for m, r in (("exact", 1.0), ("zero", 0.0))),
)

FIGURES = {
    error_over_bytes.draw_errors: lambda: error_over_bytes.draw_errors(CACHES),
    error_over_bytes.draw_needles: lambda: error_over_bytes.draw_needles(NEEDLES, chance=0.1),
}
YARDSTICKS = (error_over_bytes.draw_errors, error_over_bytes.draw_needles)
