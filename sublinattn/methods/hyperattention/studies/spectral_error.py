"""Spectral error of HyperAttention over its budget, beside exact attention, uniform sampling and answering zero.

And from which n on the theorems say something, whatever the constant that they hide. Notebook 03.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import scipy
from matplotlib.figure import Figure

from ....core.exact import attention
from ....lab.run import Run
from ....lab.workloads.inputs import (
    CLUSTERED,
    GAUSSIAN,
    GAUSSIAN_MEAN,
    HEAVY_VALUES,
    PLANTED,
    REAL,
    SINKS,
    Input,
    each_draw,
)
from ....lab.workloads.instance import Instance
from ....lab.workloads.reference import Reference
from ....plots.panels import facets
from ....plots.style import paper_style
from ....theory import symbols
from ....theory.claim import evaluate
from ...baselines.uniform import uniform_attention
from ..hyper import hyper_attention

D = 64
INPUTS = (GAUSSIAN, GAUSSIAN_MEAN, CLUSTERED, PLANTED, HEAVY_VALUES, SINKS, REAL)
SINKS_EXACT = "hyper practical, sinks exact"
PRESCRIBED = {
    "ha24.lemma1": symbols.APPROXD_SIZE,
    "ha24.lemma2": symbols.AMM_GROWTH,
    "ha24.theorem1-exponents": symbols.APPROXD_SIZE,
}
"""Sample size of each theorem without its hidden constant: a multiple of log n (Lemma 1), or free of n (Lemma 2)."""
CONSTANTS = tuple(10.0**-i for i in range(9))


def methods(
    x: Instance, budget: int, exact_keys: int, rng: np.random.Generator, lsh_bits: int | None = None
) -> Iterator[tuple[str, Any]]:
    """Outputs of all methods that touch `budget` key columns per query.

    Practical: half for the block, half for the sample; keys moved into the exact part come out of the sample. Theory:
    half for the block, a quarter each for ApproxD's uniform keys and for the row-norm keys (ApproxD's test queries,
    which see all keys, are not counted).
    """
    arrays, half = (x.q, x.k, x.v), budget // 2
    common: dict[str, Any] = {"scale": x.scale, "rng": rng}
    block: dict[str, Any] = {**common, "block_size": half, "lsh_bits": lsh_bits, "min_exact": 0}
    yield "hyper practical", hyper_attention(*arrays, sample_size=half, **block)
    if exact_keys:
        yield SINKS_EXACT, hyper_attention(*arrays, sample_size=half - exact_keys, exact_keys=exact_keys, **block)
    yield "hyper theory", hyper_attention(*arrays, sample_size=half // 2, estimator="theory", **block)
    yield "uniform", uniform_attention(*arrays, sample_size=budget, **common)


def measure(run: Run, *, inputs: tuple[Input, ...] = INPUTS) -> pd.DataFrame:
    """Error of every method on every input over the budget.

    Parameters of the run: n, d, d_v, inputs, budgets (those below n), lsh_bits,
    replicates.

    Returns
    -------
    DataFrame
        input, source, n, replicate (fresh input, for "real" a random head; fresh draws), method, budget (key columns
        per query), error.
    """
    n = run.given("n", run.pick(smoke=1024, standard=4096, full=16384))
    replicates, heads = run.pick(smoke=(6, 24), standard=(12, 72), full=(12, 72))  # heads differ more than draws do
    wanted = run.given("budgets", ())
    if wanted and min(wanted) >= n:
        raise ValueError(f"budgets must hold one below n = {n}, got {wanted}")
    cells = each_draw(run, n, inputs, replicates=replicates, heads=heads)
    return run.table(_errors, cells, ["input", "source", "n", "replicate", "method", "budget", "error"])


def _errors(run: Run, n: int, what: Input, replicate: int) -> list[tuple[Any, ...]]:
    """The rows of one instance."""
    rng = run.rng("error", what.label, replicate)
    x = what.draw(n, run.given("d", D), rng, run.xp, d_v=run.given("d_v", None))
    size = x.q.shape[0]
    y = Reference(x)
    base = (what.label, what.source, size, replicate)
    exact = y.error(attention(x.q, x.k, x.v, scale=x.scale))
    zero = y.error(np.zeros_like(y.output))
    rows: list[tuple[Any, ...]] = []
    for budget in run.given("budgets", ()) or [2**i for i in range(5, size.bit_length() - 1)]:
        if budget >= size:
            continue
        rows.append((*base, "exact", budget, exact))
        rows.append((*base, "zero", budget, zero))
        for method, out in methods(x, budget, what.exact_keys, rng, run.given("lsh_bits", None)):
            rows.append((*base, method, budget, y.error(out)))
    return rows


@paper_style()
def draw(rows: pd.DataFrame) -> Figure:
    """A panel per input of `measure`: median error of each method and its 10 to 90 percent range, over the budget."""
    labels: dict[str, Any] = {
        "xlabel": "budget (key columns per query)",
        "ylabel": r"$\|\mathrm{out} - PV\|\;/\;(\|P\|\,\|V\|)$",
    }
    # On real heads some draws of the theory estimator are worse still than 100.
    scales: dict[str, Any] = {"logx": True, "logy": True, "ylim": (None, 100), "exact": "exact"}
    return facets(rows, x="budget", y="error", hue="method", facet="input", columns=4, **scales, **labels)


def compare(rows: pd.DataFrame) -> pd.DataFrame:
    """Compare each method with answering zero and with uniform sampling.

    Returns
    -------
    DataFrame
        By input and method: the smallest budget whose median error is below that of answering zero (nan: none), and
        the median error over uniform sampling's at the same budget, geometric mean over budgets.
    """
    medians = rows.groupby(["input", "method", "budget"], sort=False)["error"].median().unstack("method")
    lines = []
    for name, table in medians.groupby("input", sort=False):
        for method in table.columns.difference(["zero", "uniform", "exact"], sort=False):
            if table[method].isna().all():
                continue
            below = table.index.get_level_values("budget")[table[method] < table["zero"]]
            ratio = float(np.exp(np.log(table[method] / table["uniform"]).mean()))
            lines.append((name, method, float(min(below, default=np.nan)), ratio))
    columns = ["input", "method", "budget to beat zero", "error / uniform's"]
    return pd.DataFrame(lines, columns=columns).set_index(["input", "method"]).round(3)


def onsets(run: Run) -> pd.DataFrame:
    """From which n on a theorem asks for fewer than n samples, over the constant that it hides.

    Its claims must have been checked by this run: alpha, kappa, the stable rank, d_v and eps are those of their cases.

    Returns
    -------
    DataFrame
        By claim and constant c: smallest and largest onset over the cases (1 where c is so small that every n will do),
        and the share of the cases whose own n is beyond their onset.
    """
    lines = []
    for claim, size in PRESCRIBED.items():
        facts = [case["facts"] for case in run.record(claim)["cases"]]
        for constant in CONSTANTS:
            found = [onset(constant * evaluate(size, one), one["n"], in_log_n=size.has(symbols.n)) for one in facts]
            beyond = np.mean([n < one["n"] for n, one in zip(found, facts, strict=True)])
            lines.append((claim, constant, min(found), max(found), float(beyond)))
    columns = ["claim", "constant", "smallest onset", "largest onset", "cases beyond it"]
    return pd.DataFrame(lines, columns=columns).set_index(["claim", "constant"])


def onset(size: float, n: float, *, in_log_n: bool) -> float:
    """The n from which on `m < n`, for m that is `size` at `n` and grows like log n, or not at all."""
    if not in_log_n:
        return max(size, 1.0)
    factor = size / np.log(n)  # n = factor log n has two solutions if factor > e, of which this is the larger one
    return float(-factor * scipy.special.lambertw(-1 / factor, -1).real) if factor > np.e else 1.0
