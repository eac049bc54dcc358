"""Hardness, theorems' sizes and errors of every head, as `audit` measures them."""

import numpy as np

from examples import table
from sublinattn.suite.audit import figures

HEADS = table(
    "layer head n alpha alpha_residual kappa srank query_norm entry_bound delta_r_log tail hyper_size subgen_size "
    "onepass_size polynomial_size",
    *((i, j, 64, *(2.0 + i + j,) * 8, 10.0**j, 1e30, 32, np.inf) for i in (0, 1) for j in (0, 1)),
)
ERRORS = table(
    "layer head method relative",
    *(
        (i, j, m, e * (1 + i + j))
        for i in (0, 1)
        for j in (0, 1)
        for m, e in (("exact", 1e-7), ("zero", 1.0), ("uniform", 0.3), ("sinks", 0.1), ("subgen", 40.0))
    ),
)
ADVICE = table("layer head best method", *((i, j, "sinks", "sinks" if i else "exact") for i in (0, 1) for j in (0, 1)))

FIGURES = {
    figures.hardness: lambda: figures.hardness(HEADS),
    figures.theorems: lambda: figures.theorems(HEADS),
    figures.errors: lambda: figures.errors(ERRORS, ADVICE),
}
