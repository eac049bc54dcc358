"""How much worse than the best k-sparse answer the decoders are, over the accuracy eps1 that they promise.

Notebook 08.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ....core.backends import asnumpy, to_device
from ....lab.run import Run
from ....plots.layout import ticks
from ....plots.panels import facets, theory_line
from ....plots.style import method, paper_style, series
from ....theory.symbols import estimate_spread, recovery_factor
from ...countsketch.countsketch import CountSketch
from ...countsketch.recovery import FAILURE, bit_tables_for, tables_for, width_for
from ..onepass import DECODERS

K, COLUMNS = 32, 4
SIGNALS = ("power law", "spikes over noise", "flat")
ACCURACIES = (1.0, 0.5, 0.25, 0.1)


def signal(name: str, n: int, rng: np.random.Generator, *, k: int = K, columns: int = COLUMNS) -> np.ndarray:
    """Columns (n, columns): entries `rank^-1` of random sign in random order; k ones over Gaussian noise of the same
    total energy as 0.04 of theirs; all Gaussian."""
    if name == "power law":
        ranks = np.stack([rng.permutation(n) + 1.0 for _ in range(columns)], axis=1)
        return rng.choice([-1.0, 1.0], size=ranks.shape) / ranks
    y = rng.standard_normal((n, columns))
    if name == "spikes over noise":
        y *= 0.2 * math.sqrt(k / n)
        for c in range(columns):
            y[rng.choice(n, k, replace=False), c] = rng.choice([-1.0, 1.0], k)
    return y


def over_accuracy(run: Run) -> pd.DataFrame:
    """Excess `||T - y|| / ||tail_k(y)|| - 1` of each column.

    Returns
    -------
    DataFrame
        signal, eps1, method ("identify", "scan", "zero"), replicate, column, excess, bytes (of the sketch), proven (the
        excess that `theory.symbols.recovery_factor` proves for these sizes, inf where it proves none).
    """
    n = run.given("n", run.pick(smoke=2**13, standard=2**15, full=2**18))
    replicates = run.given("replicates", run.pick(smoke=5, standard=30, full=30))
    k, columns = run.given("k", K), run.given("columns", COLUMNS)
    if k >= n:
        raise ValueError(f"k must be below n = {n}, got {k}")
    cells = [
        (name, eps1, replicate, n, k, columns)
        for name in run.given("signals", SIGNALS)
        for eps1 in run.given("eps1", ACCURACIES)
        for replicate in range(replicates)
    ]
    return run.table(_excesses, cells, ["signal", "eps1", "method", "replicate", "column", "excess", "bytes", "proven"])


def _excesses(run: Run, name: str, eps1: float, r: int, n: int, k: int, columns: int) -> list[tuple[Any, ...]]:
    """The rows of one signal."""
    rows: list[tuple[Any, ...]] = []
    width, tables = width_for(k, eps1), tables_for(n * columns, eps1)
    spread = estimate_spread(k, width=width, tables=tables, entries=n * columns, failure=2 * FAILURE)
    proven = recovery_factor(spread * k / width, twice=False) - 1
    rng, xp = run.rng("recovery", name, eps1, r), run.xp
    y = signal(name, n, rng, k=k, columns=columns)
    sketch = CountSketch.seeded(
        n, columns, tables=tables, width=width, bit_tables=bit_tables_for(k * columns, eps1), rng=rng
    )
    sketch.allocate(xp, np.float64)
    sketch.add(0, to_device(y, xp))
    tail = np.sqrt(np.sort(y**2, axis=0)[: n - k].sum(axis=0))
    for decoder, decode in DECODERS.items():
        indices, values = map(asnumpy, decode(xp, sketch, k))
        for c in range(columns):
            rest = y[:, c].copy()
            rest[indices[c]] -= values[c]
            excess = float(np.linalg.norm(rest) / tail[c] - 1)
            rows.append((name, eps1, decoder, r, c, excess, sketch.nbytes, proven))
    for c in range(columns):
        excess = float(np.linalg.norm(y[:, c]) / tail[c] - 1)
        rows.append((name, eps1, "zero", r, c, excess, 0, proven))
    return rows


@paper_style()
def draw(rows: pd.DataFrame) -> Figure:
    """A panel per signal: excess of both decoders and of answering zero, the promised eps1, and what is proven."""
    looks = dict(zip(DECODERS, series("decoded by identification", "decoded by scan").values(), strict=True))
    looks["zero"] = method("zero")

    def add_promises(ax: Axes, panel: pd.DataFrame) -> None:
        promised = panel[["eps1", "proven"]].drop_duplicates().sort_values("eps1")
        theory_line(ax, promised["eps1"], promised["eps1"], r"promised: $\varepsilon_1$")
        theory_line(ax, promised["eps1"], promised["proven"], "proven for these sizes", linestyle=":")
        ticks(ax.xaxis, promised["eps1"])

    labels: dict[str, Any] = {"xlabel": r"$\varepsilon_1$", "ylabel": r"$\|T-y\|_2\,/\,\|\mathrm{tail}_k(y)\|_2-1$"}
    options: dict[str, Any] = {"looks": looks, "logx": True, "logy": True, "height": 2.0, "each": add_promises}
    return facets(rows, x="eps1", y="excess", hue="method", facet="signal", **labels, **options)
