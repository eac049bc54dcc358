"""Costs, counts and radii of clusters, as `clusterability` measures them."""

import numpy as np

from examples import table
from sublinattn.methods.subgen.studies import clusterability

SETS = (("a", "synthetic", "keys"), ("r", "real", "keys"), ("r", "real", "values"))
COSTS = table(
    "input source what variant share radius",
    *((*s, v, x, 0.5) for s in SETS for v in (clusterability.CAPTURED, clusterability.NULL) for x in (0.01, 0.1)),
)
COUNTS = table(
    "input source what relative share widest",
    *((*s, x, 0.5, widest) for s in SETS for x, widest in ((0.1, np.nan), (0.2, 1.0), (0.4, 1.5))),
)
GROWN = table(
    "input source n clusters ratio parts",
    *(("a", "synthetic", n, 8, 1.0, 8.0) for n in (128, 512)),
    *(("r", "real", n, n / 8, 2.0, np.nan) for n in (64, 128)),
)
HEADS = table("layer head delta r ratio factor", *((i, j, 2.0 + i, 1.0, 3.0, 1e9) for i in (0, 1) for j in (0, 1, 2)))
ONLINE = table(
    "input source share promised reached",
    *((i, s, x, 3.0, 1.5) for i, s in (("a", "synthetic"), ("r", "real")) for x in (1 / 32, 1 / 8)),
)

FIGURES = {
    clusterability.draw_costs: lambda: clusterability.draw_costs(COSTS),
    clusterability.draw_over_delta: lambda: clusterability.draw_over_delta(COUNTS),
    clusterability.draw_over_n: lambda: clusterability.draw_over_n(GROWN),
    clusterability.draw_heads: lambda: clusterability.draw_heads(HEADS),
    clusterability.draw_online: lambda: clusterability.draw_online(ONLINE),
}
THEORY = (clusterability.draw_over_delta, clusterability.draw_over_n, clusterability.draw_online)
