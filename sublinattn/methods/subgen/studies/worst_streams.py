"""How many slots and samples SubGen needs on the worst instances an adversary found [SG24, Theorem 1].

The instances on record are the ends of climbs of `claims/hard_instances.py`; what is shown is measured with fresh
draws. Notebook 16.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ....lab.run import Run
from ....theory.adversary import Arrays
from ..claims import hard_instances as hard

RECORD = Path(__file__).parent / "hard_instances.npz"
BOUNDS = {"slots": 10.0, "samples": 10 * float(np.sinh(1) / np.e) ** 2}
"""What Chebyshev's inequality leaves of each ratio: `1/p = 10` with srank(V) = d_v, `10 sinh(1)^2 / e^2`."""


def record(part: str) -> Arrays:
    """The worst instance on record for the "slots" or the "samples"."""
    with np.load(RECORD) as archive:
        return {key.split()[1]: archive[key] for key in archive.files if key.split()[0] == part}


def measure(run: Run) -> pd.DataFrame:
    """Critical sizes over the theorem's without its constant, on inputs that are drawn and on those on record.

    At larger efforts a climb goes on from the record.

    Returns
    -------
    DataFrame
        part, instance ("drawn", "adversary"), replicate (fresh draws), ratio, bound (Chebyshev's inequality).
    """
    return run.table(_ratios, [(part,) for part in hard.RATIOS], ["part", "instance", "replicate", "ratio", "bound"])


def _ratios(run: Run, part: str) -> list[tuple[Any, ...]]:
    """The rows of one part."""
    steps, replicates = run.pick(smoke=(0, 3), standard=(300, 9), full=(3000, 9))
    rows: list[tuple[Any, ...]] = []
    (ratio, _), rng = hard.RATIOS[part], run.rng("worst", part)
    found = record(part)
    if steps:
        found = hard.worst(run.xp, part, found, rng, steps=steps)
    for name, arrays in (("drawn", hard.drawn(part, rng)), ("adversary", found)):
        for replicate in range(replicates):
            value = ratio(run.xp, arrays, draws=int(rng.integers(2**31))).ratio
            rows.append((part, name, replicate, value, BOUNDS[part]))
    return rows
