"""The sizes that the package gives `Phi`: how often heavy entries get in each other's way [ALSY23, CCF02]."""

from __future__ import annotations

from typing import Any

import numpy as np
import sympy as sp
from numpy.random import Generator

from ....core.backends import asnumpy
from ....theory import symbols
from ....theory.claim import Claim, Probability, Sabotage, Trial
from ..hashing import IndexHash, cubics
from ..recovery import FAILURE, bit_tables_for, tables_for, width_for


def lost_entries(
    rng: Generator,
    xp: Any,
    *,
    n: int,
    k: int,
    columns: int,
    eps1: float,
    narrow: int = 1,
    fewer: int = 1,
    fewer_bits: int = 1,
) -> Trial:
    """Entries that heavy ones spoil in at least half of the tables, and heavy ones never alone in a table with bits.

    Each column has k heavy entries in random places. Sabotages: width, tables or tables with bit counters divided.
    """
    width, tables = width_for(k, eps1) // narrow, tables_for(n * columns, eps1) // fewer
    bit_tables = bit_tables_for(k * columns, eps1) // fewer_bits
    bucket = asnumpy(IndexHash(cubics(rng, tables), width)(xp, xp.arange(n)[None])[0])
    each = np.arange(tables)[:, None]
    lost = 0
    for _ in range(columns):
        heavy = rng.choice(n, k, replace=False)
        load = np.bincount((bucket[:, heavy] + width * each).ravel(), minlength=tables * width).reshape(tables, width)
        load = load[each, bucket]  # heavy entries in the bucket of each entry, itself included
        load[:, heavy] -= 1
        lost += int((2 * (load > 0).sum(axis=0) > tables).sum() + (load[:bit_tables, heavy] > 0).all(axis=0).sum())
    facts = {"n": n, "k": k, "w": width, "tables": tables, "bit_tables": bit_tables}
    return Trial(float(lost), 0.0, facts=facts)


CLAIMS = (
    Claim(
        id="alsy23.sizes",
        paper="ALSY23",
        source="Sparse recovery (Phi): r = O(log n), w = O(k/eps1); constants derived here",
        basis="derived",
        title="In tables of this package's sizes no entry is lost to heavy ones, but for half of the allowed failures",
        statement=sp.Eq(symbols.norm(r"\text{lost}", "0"), 0),
        kind=Probability(p=FAILURE),
        trial=lost_entries,
        cases={
            "smoke": tuple(
                {"n": n, "k": k, "columns": columns, "eps1": eps1}
                for n, k, columns, eps1 in ((300, 16, 2, 1.0), (100, 32, 4, 0.8))
            )
        },
        max_trials={"smoke": 4000, "standard": 20000},
        sabotages=(
            Sabotage("half the width", "w = 2 k / eps1", {"narrow": 2}),
            Sabotage("half the tables", "r is divided by 2", {"fewer": 2}),
            Sabotage("half the bit tables", "bit counters in half as many tables", {"fewer_bits": 2}),
        ),
        remark=(
            "An entry is lost if heavy ones are in its bucket in more than half of the tables, or, of a heavy one, in "
            "all tables with bit counters. The noise of light entries comes on top: alsy23.recovery."
        ),
    ),
)
