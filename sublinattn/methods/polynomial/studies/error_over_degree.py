"""Error of attention by a polynomial over its degree, beside the bound and sampling as many keys as features."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from ....core.backends import asnumpy, to_device
from ....core.exact import attention
from ....lab.run import Run
from ...baselines.uniform import uniform_attention
from ..approximants import BASES, approximant
from ..monomials import Monomials
from ..polynomial import PolynomialState

D, RADIUS = 4, 3.0
DEGREES = tuple(range(1, 13))


def over_degree(run: Run) -> pd.DataFrame:
    """Largest error of an output entry over `max|V|`, float64, logits up to RADIUS.

    Returns
    -------
    DataFrame
        method (a basis, "uniform": as many keys as features, or "zero"), degree, rank, n, replicate, error (nan where a
        normaliser is not positive), bound (`2 eps`, the polynomial's error on [-RADIUS, RADIUS]; nan for the
        yardsticks).
    """
    xp = run.xp
    n = run.pick(smoke=1024, standard=4096, full=16384)
    replicates = run.pick(smoke=5, standard=20, full=20)
    rows: list[tuple[Any, ...]] = []
    for r in range(replicates):
        rng = run.rng("over_degree", r)
        q, k, v = (rng.standard_normal((n, D)) for _ in range(3))
        q, k = (x / np.linalg.norm(x, axis=1).max() for x in (q, k))
        q, k, v = (to_device(x, xp) for x in (q, k, v))
        exact, size = asnumpy(attention(q, k, v, scale=RADIUS)), float(np.abs(asnumpy(v)).max())

        def error(out: Any, exact: np.ndarray = exact, size: float = size) -> float:
            return float(np.abs(asnumpy(out) - exact).max()) / size

        for degree in DEGREES:
            rank = Monomials(D, degree).rank
            for basis in BASES:
                radius = None if basis == "taylor" else RADIUS
                state = PolynomialState(D, D, degree=degree, scale=RADIUS, basis=basis, radius=radius).update(k, v)
                try:
                    found = error(state.attend(q))
                except ValueError:  # the row sums are not all positive: no attention at this degree
                    found = np.nan
                rows.append((basis, degree, rank, n, r, found, 2 * approximant(basis, degree, RADIUS).error))
            sample = uniform_attention(q, k, v, sample_size=min(rank, n), scale=RADIUS, rng=rng)
            rows.append(("uniform", degree, rank, n, r, error(sample), np.nan))
            rows.append(("zero", degree, rank, n, r, error(np.zeros_like(exact)), np.nan))
    return pd.DataFrame(rows, columns=["method", "degree", "rank", "n", "replicate", "error", "bound"])
