"""Small tables for the figures of clusterability and of SubGen's laws, and how each is drawn from them."""

from __future__ import annotations

import pandas as pd

from sublinattn import plots


def table(columns: str, *rows) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=columns.split())


HELD = table(
    "law variant token count expected low high",
    *((w, v, t, t, t, 0, 2 * t) for w in ("slots", "samples") for v in ("as claimed", "broken") for t in (1, 2, 100)),
)
SQUARES = table("estimate size square", *((e, s, x / s) for e in ("z", "tau") for s in (1, 8) for x in (0.5, 2.0)))
SQUARE_LAWS = table(
    "estimate size exact bound level uniform zero",
    *((e, s, 1 / s, 2 / s, 20 / s, 3 / s, 1.0) for e in ("z", "tau") for s in (1, 8)),
)
SPREADS = table(
    "setting delta_r whole within largest",
    *((s, x, x**2 / 2, x**2, x**2) for s in ("two-sided", "random", "real heads") for x in (0.5, 2.0)),
)
ALONG = table("varies s t along", *((v, s, s, x) for v in "st" for s in (1, 8) for x in (0.1, 0.2)))
ALONG_LAWS = table("varies s t exact first_order", *((v, s, s, 0.2, 0.1) for v in "st" for s in (1, 8)))

FIGURES = {
    "held_laws": lambda: plots.held_laws(HELD),
    "estimator_errors": lambda: plots.estimator_errors(SQUARES, SQUARE_LAWS, failure=0.1, z=2.6),
    "tau_bound": lambda: plots.tau_bound(SPREADS),
    "ratio_bias": lambda: plots.ratio_bias(ALONG, ALONG_LAWS, z=2.6),
}
