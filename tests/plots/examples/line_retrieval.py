"""Questions answered, as `line_retrieval` counts them."""

import numpy as np

from examples import table
from sublinattn.methods.subgen.studies import line_retrieval

CACHES = ("subgen", "subgen, window", "sinks", "heavy hitters", "k-center", "uniform", "value-norm")
ANSWERS = table(
    "task n method share rate low high bits reach",
    *(("passkey", n, m, b, 0.4, 0.3, 0.5, 2.0, 0.2) for n in (256, 512) for m in CACHES for b in (0.125, 0.25)),
    *(("passkey", n, m, np.nan, 0.4, 0.3, 0.5, 2.0, 0.2) for n in (256, 512) for m in ("exact", "zero")),
)
OVER_LENGTH = table(
    "task n stretched rate low high bits reach",
    *((task, n, n > 256, 0.9, 0.8, 0.95, 0.5, 0.1) for task in ("sentences", "passkey") for n in (128, 256, 512)),
)

FIGURES = {
    line_retrieval.draw_over_length: lambda: line_retrieval.draw_over_length(OVER_LENGTH),
    line_retrieval.draw_over_bytes: lambda: line_retrieval.draw_over_bytes(ANSWERS),
}
YARDSTICKS = (line_retrieval.draw_over_bytes,)
THEORY = (line_retrieval.draw_over_length,)
