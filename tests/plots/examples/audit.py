"""Hardness, theorems' sizes and errors of every head, as `audit` measures them."""

import numpy as np

from examples import table
from sublinattn.suite.audit import figures
from sublinattn.suite.audit.measure import Audit

HEADS = table(
    "layer head n alpha alpha_residual kappa srank query_norm entry_bound delta_r_log tail hyper_size subgen_size "
    "onepass_size polynomial_size",
    *((i, j, 64, *(2.0 + i + j,) * 8, 10.0**j, 1e30, 32, np.inf) for i in (0, 1) for j in (0, 1)),
)
PLACES = tuple((i, j) for i in (0, 1) for j in (0, 1))
SHARES = (0.25, 0.5)
BYTES = {"exact": 1.0, "zero": 0.0}
METHODS = (("exact", 1e-7), ("zero", 1.0), ("uniform", 0.3), ("sinks", 0.1), ("subgen", 40.0))
ROWS = [
    (i, j, j, m, share, e * (1 + i + j) / share)
    for i, j in PLACES
    for m, e in METHODS
    for share in ((np.nan,) if m in BYTES else SHARES)
]
ERRORS = table("layer head key_head method share relative", *ROWS)
ERRORS["decoded"] = ERRORS["relative"]
CACHES = ERRORS[["layer", "key_head", "method", "share"]].assign(
    nbytes=[1000 * BYTES.get(row[3], row[4]) for row in ROWS], cache="", parameters="{}"
)
ADVICE = table("layer key_head method share", *((i, j, *(("sinks", 0.25) if i else ("exact", 1.0))) for i, j in PLACES))
AUDIT = Audit({"layers": 2}, HEADS, CACHES, ERRORS, ERRORS, ERRORS)

FIGURES = {
    figures.hardness: lambda: figures.hardness(HEADS),
    figures.theorems: lambda: figures.theorems(HEADS),
    figures.errors: lambda: figures.errors(ERRORS, 0.25),
    figures.advised: lambda: figures.advised(ADVICE),
    figures.tolerances: lambda: figures.tolerances(AUDIT, 0.1),
}
