"""All batch methods beside each other: spectral error where each may spend as much as so many key columns per query.

Notebook 03.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ....core.exact import attention
from ....core.timing import peak_bytes
from ....lab.comparison.batch import BATCH, Batch
from ....lab.run import Run
from ....lab.workloads.inputs import CLUSTERED, GAUSSIAN_MEAN, HEAVY_VALUES, PLANTED, REAL, SINKS, Input, each_draw
from ....lab.workloads.reference import Reference
from ....plots.panels import facets
from ....plots.style import paper_style, series

D = 64
INPUTS = (GAUSSIAN_MEAN, CLUSTERED, PLANTED, HEAVY_VALUES, SINKS, REAL)
EXACT, ZERO = "exact", "answering zero"


def measure(run: Run, *, inputs: tuple[Input, ...] = INPUTS) -> pd.DataFrame:
    """Error of every method on every input for two budgets. Nothing was tuned: parameters follow from the budget.

    Parameters of the run: n, d, d_v, inputs, budgets, methods (besides uniform sampling), replicates.

    Returns
    -------
    DataFrame
        input, source, n, replicate (fresh input, for "real" a random head; fresh draws), method, budget, error.
    """
    n = run.given("n", run.pick(smoke=1024, standard=4096, full=16384))
    replicates, heads = run.pick(smoke=(3, 8), standard=(12, 72), full=(12, 72))
    cells = each_draw(run, n, inputs, replicates=replicates, heads=heads)
    return run.table(_errors, cells, ["input", "source", "n", "replicate", "method", "budget", "error"])


def _errors(run: Run, n: int, what: Input, replicate: int) -> list[tuple[Any, ...]]:
    """The rows of one input."""
    rows: list[tuple[Any, ...]] = []
    rng = run.rng("equal budget", what.label, replicate)
    x = what.draw(n, run.given("d", D), rng, run.xp, d_v=run.given("d_v", None))
    y, size = Reference(x), len(x.q)
    yardsticks = {EXACT: attention(x.q, x.k, x.v, scale=x.scale), ZERO: np.zeros_like(y.output)}
    errors = {name: y.error(out) for name, out in yardsticks.items()}
    for budget in run.given("budgets", run.pick(smoke=(64, 256), standard=(128, 512), full=(256, 1024))):
        base = (what.label, what.source, size, replicate)
        rows += [(*base, name, budget, error) for name, error in errors.items()]
        for name, method in compared(run).items():
            rng = run.rng("equal budget", what.label, replicate, name, budget)
            if budget < size:
                out = method.answer(x.q, x.k, x.v, budget=budget, scale=x.scale, rng=rng)
                rows.append((*base, name, budget, np.nan if out is None else y.error(out)))
    return rows


def compared(run: Run) -> dict[str, Batch]:
    """The methods that the run compares: uniform sampling, which is the unit, and those of its parameter `methods`."""
    wanted = run.given("methods", tuple(BATCH))
    return {name: method for name, method in BATCH.items() if name.split(",")[0] in ("uniform", *wanted)}


@paper_style()
def draw(rows: pd.DataFrame) -> Figure:
    """A panel per input: each method's error, median and 10 to 90 percent range, for each budget.

    Exact attention's is rounding, decades below the others': it is left to the caption.
    """
    shown = rows[rows["method"] != EXACT].dropna(subset="error")
    budgets = {budget: f"{budget} columns" for budget in sorted(rows["budget"].unique())}
    looks = {budget: {**look, "label": budgets[budget]} for budget, look in series(*budgets).items()}
    xlabel = r"$\|\mathrm{out} - PV\|\;/\;(\|P\|\,\|V\|)$"
    return facets(
        shown, x="error", y="method", hue="budget", facet="input", columns=3, looks=looks, logx=True, xlabel=xlabel
    )


def compare(rows: pd.DataFrame) -> pd.DataFrame:
    """Median error over that of uniform sampling at the same budget, by method (rows) and input and budget (columns).

    nan where a method has no parameters for the budget.
    """
    rows = rows[rows["method"] != EXACT]
    medians = rows.groupby(["method", "input", "budget"], sort=False)["error"].median().unstack(["input", "budget"])
    return (medians / medians.loc["uniform"]).sort_index(axis=1, level=0, sort_remaining=True).round(2)


def costs(run: Run, *, n: int, budget: int) -> pd.DataFrame:
    """What each method costs at a budget, on a Gaussian input.

    Returns
    -------
    DataFrame
        By method: its parameters, operations over those of exact attention, largest number of bytes held at once over
        those of q, k and v (with the answer's; on the CPU each thread has a tile), whether it has a causal form, and
        what is proved of its error.
    """
    xp, d = run.xp, run.given("d", D)
    exact = 4.0 * n * n * d
    x = GAUSSIAN_MEAN.draw(n, d, run.rng("costs"), xp)
    lines = []
    for name, method in compared(run).items():
        call = partial(method.answer, x.q, x.k, x.v, budget=budget, scale=x.scale, rng=0)
        call()  # what is compiled or imported first is not the method's
        held = peak_bytes(xp, call) / (x.q.nbytes + x.k.nbytes + x.v.nbytes)
        options = ", ".join(f"{key} {value}" for key, value in (method.within(budget, n) or {}).items())
        lines.append((name, options, method.operations(budget, n, d) / exact, held, method.causal, method.guarantee))
    columns = ["method", "parameters", "operations / exact's", "bytes / of q, k, v", "causal", "guarantee"]
    return pd.DataFrame(lines, columns=columns).set_index("method").round(3)
