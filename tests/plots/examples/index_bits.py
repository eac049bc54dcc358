"""Bits told over bytes, as `index_bits` measures them."""

import numpy as np

from examples import table
from sublinattn.lab.comparison import index_bits
from sublinattn.lab.workloads.bits import PACKED

INDEX = table(
    "n replicate method share nbytes right bits",
    *(
        (256, r, m, b, int(2**17 * b), 0.5 + b / 2, 256 * b**2)
        for r in (0, 1)
        for m in ("uniform", "subgen", "sinks")
        for b in (0.125, 0.25)
    ),
    *((256, r, "exact", np.nan, 2**17, 1.0, 256.0) for r in (0, 1)),
    *((256, r, "zero", np.nan, 0, 0.5, 0.0) for r in (0, 1)),
    *((256, r, PACKED, np.nan, 32, 1.0, 256.0) for r in (0, 1)),
)

FIGURES = {index_bits.draw: lambda: index_bits.draw(INDEX)}
THEORY = (index_bits.draw,)
