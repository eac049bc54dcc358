"""Hardness of inputs: alpha and kappa over n, the column norms behind alpha, and both for each head of an encoder.

Source: [HA24] section 2. Notebook 02.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ....core.backends import asnumpy, to_device
from ....lab.run import Run
from ....lab.workloads import real
from ....lab.workloads.inputs import (
    ALPHA,
    CLUSTERED,
    GAUSSIAN,
    HEAVY_VALUES,
    KAPPA,
    PLANTED,
    REAL,
    SINKS,
    Input,
    chosen,
)
from ....plots.layout import finish
from ....plots.panels import facets, grid, lines, theory_line
from ....plots.style import LOOKS, paper_style, series
from ..hardness import Hardness, hardness

D = 64
SYNTHETIC = (GAUSSIAN, CLUSTERED, PLANTED, SINKS, HEAVY_VALUES, ALPHA, KAPPA)
SINK_KEYS = 4
"""First keys in the exact part of the synthetic inputs; of the real one it is [CLS], the first token, alone."""

LOOK_OF = {
    "all keys sampled": {**LOOKS["blue"], "label": "all keys sampled"},
    "first keys exact": {**LOOKS["brown"], "label": "first keys in the exact part"}
    | {"linestyle": ":", "markerfacecolor": "white"},
}
SYMBOLS = {"alpha": r"$\alpha = n\,\max_j \|Pe_j\|_2^2$", "kappa": r"$\kappa$ (largest / smallest row sum)"}


def _stack(xp: Any, n: int) -> tuple[Any, Any, float]:
    """First `n` tokens of all real heads, (layer * head, n, d) float32."""
    every = real()
    q, k = (np.ascontiguousarray(a[..., :n, :], np.float32).reshape(-1, n, a.shape[-1]) for a in (every.q, every.k))
    return to_device(q, xp), to_device(k, xp), every.scale


def _measure(run: Run, what: Input, n: int, rng: np.random.Generator, block_size: int, exact_keys: int) -> Hardness:
    if what == REAL:
        q, k, scale = _stack(run.xp, n)
    else:
        x = what.draw(n, run.given("d", D), rng, run.xp)
        q, k, scale = x.q[None], x.k[None], x.scale
    return hardness(q, k, scale=scale, block_size=block_size, exact_keys=exact_keys, rng=rng)


def block_size(run: Run) -> int:
    """Keys per block of the mask that kappa leaves out."""
    return run.given("block_size", 32)


def synthetic(run: Run, default: tuple[Input, ...] = SYNTHETIC) -> tuple[Input, ...]:
    """The synthetic inputs of a run; the real heads are shown beside them, whatever is chosen."""
    return chosen(run, default)


def over_n(run: Run) -> pd.DataFrame:
    """Measure alpha and kappa of every input over n, with all keys sampled and with the first keys in the exact part.

    Returns
    -------
    DataFrame
        input, source, n, replicate (fresh input; for "real" the head's number), exact_keys (first keys in the exact
        part), alpha, kappa, srank.
    """
    lengths = [2**i for i in run.pick(smoke=range(7, 11), standard=range(8, 14), full=range(9, 16))]
    lengths, size = run.given("n", lengths), block_size(run)
    if max(lengths) <= size:
        raise ValueError(f"n must hold one above block_size = {size}, got {lengths}")
    replicates, sinks = (
        run.given("replicates", run.pick(smoke=5, standard=10, full=10)),
        run.given("exact_keys", SINK_KEYS),
    )
    cells = [
        (what, n, exact_keys, replicate)
        for what in (*synthetic(run), REAL)
        for n in ((128, 256, 512) if what == REAL else lengths)
        for exact_keys in (0, 1 if what == REAL else sinks)
        for replicate in range(1 if what == REAL else replicates)
    ]
    return run.table(_at_n, cells, ["input", "source", "n", "replicate", "exact_keys", "alpha", "kappa", "srank"])


def _at_n(run: Run, what: Input, n: int, exact_keys: int, replicate: int) -> list[tuple[Any, ...]]:
    """The rows of `over_n` of one input: of the real one, a row for each head."""
    h = _measure(run, what, n, run.rng("over n", what.label, n, replicate), block_size(run), exact_keys)
    columns = (asnumpy(x) for x in (h.alpha_residual, h.kappa, h.srank))
    return [
        (what.label, what.source, n, replicate + head, exact_keys, *values)
        for head, values in enumerate(zip(*columns, strict=True))
    ]


def column_profile(run: Run) -> pd.DataFrame:
    """Measure the squared column norms of P, times n, from the heaviest key down: the first of them is alpha.

    Returns
    -------
    DataFrame
        input, source, n, replicate (or head), rank (about 40 of them, log-spaced), value.
    """
    n, replicates = run.pick(smoke=(512, 3), standard=(4096, 5), full=(16384, 5))
    n, replicates = max(run.given("n", (n,))), run.given("replicates", replicates)
    cells = [
        (what, 512 if what == REAL else n, replicate)
        for what in (*synthetic(run, SYNTHETIC[:-1]), REAL)
        for replicate in range(1 if what == REAL else replicates)
    ]
    return run.table(_falling, cells, ["input", "source", "n", "replicate", "rank", "value"])


def _falling(run: Run, what: Input, n: int, replicate: int) -> list[tuple[Any, ...]]:
    """The rows of `column_profile` of one input."""
    norms = asnumpy(_measure(run, what, n, run.rng("profile", what.label, replicate), 256, 0).column_norms)
    falling = -np.sort(-(norms**2) * norms.shape[1], axis=1)
    ranks = np.unique(np.geomspace(1, norms.shape[1], 40).round().astype(int))
    return [
        (what.label, what.source, norms.shape[1], replicate + i, int(rank), float(line[rank - 1]))
        for i, line in enumerate(falling)
        for rank in ranks
    ]


def head_maps(run: Run) -> pd.DataFrame:
    """Measure the hardness of every layer and head of the real input at its full length.

    Returns
    -------
    DataFrame
        layer, head, alpha, alpha_no_cls (without [CLS], the first token), alpha_no_special (without [SEP], the last
        token, either), kappa, srank, heaviest (the key whose column gives alpha).
    """
    xp = run.xp
    every = real()
    q, k, scale = _stack(xp, every.q.shape[-2])
    h = hardness(q, k, scale=scale, block_size=block_size(run), rng=run.rng("heads"))
    squares = len(k[0]) * asnumpy(h.column_norms) ** 2
    return pd.DataFrame(list(np.ndindex(*every.q.shape[:2])), columns=["layer", "head"]).assign(
        alpha=asnumpy(h.alpha),
        alpha_no_cls=squares[:, 1:].max(axis=1),
        alpha_no_special=squares[:, 1:-1].max(axis=1),
        kappa=asnumpy(h.kappa),
        srank=asnumpy(h.srank),
        heaviest=squares.argmax(axis=1),
    )


def exponents(rows: pd.DataFrame) -> pd.DataFrame:
    """Fit the growth of alpha and kappa over n.

    Returns
    -------
    DataFrame
        By input and exact_keys: medians at the largest n, and least-squares slopes of log alpha and log kappa on log n
        (nan for a single n).
    """
    table = []
    for key, group in rows.groupby(["input", "exact_keys"], sort=False):
        largest = group["n"].max()
        medians = group.loc[group["n"] == largest, ["alpha", "kappa"]].median()
        of = [
            np.polyfit(np.log(group["n"]), np.log(group[x]), 1) if group["n"].nunique() > 1 else [np.nan]
            for x in ("alpha", "kappa")
        ]
        slopes = (float(one[0]) for one in of)
        table.append((*key, largest, *medians, *slopes))
    columns = ["largest n", "median alpha", "median kappa", "exponent of alpha", "exponent of kappa"]
    return pd.DataFrame(table, columns=["input", "exact_keys", *columns]).set_index(["input", "exact_keys"]).round(3)


# -------------------------------------------------------------------------------------------------------------- figures
@paper_style()
def draw_over_n(rows: pd.DataFrame, quantity: str) -> Figure:
    """A panel per input of `over_n`: "alpha" or "kappa", and the slopes n^0 and n^1 through its first median."""

    def slopes(ax: Axes, panel: pd.DataFrame) -> None:
        first, last = panel["n"].min(), panel["n"].max()
        start = panel.loc[(panel["n"] == first) & (panel["exact_keys"] == 0), quantity].median()
        theory_line(ax, (first, last), (start, start * last / first), "slope $n^1$")
        theory_line(ax, (first, last), start, "slope $n^0$", linestyle=(0, (1, 1.5)))

    parts = np.where(rows["exact_keys"] == 0, *LOOK_OF)
    options: dict[str, Any] = {"columns": 4, "looks": LOOK_OF, "bars": True, "logx": True, "logy": True, "each": slopes}
    labels: dict[str, Any] = {"xlabel": "tokens $n$", "ylabel": SYMBOLS[quantity]}
    return facets(rows.assign(part=parts), x="n", y=quantity, hue="part", facet="input", **labels, **options)


@paper_style()
def draw_columns(profile: pd.DataFrame) -> Figure:
    """`column_profile`: left a line per synthetic input, right the median head and the ranges of the real heads."""
    fig, (left, right) = grid(2, columns=2, height=2.3, sharey=True)
    synthetic, real = (profile[profile["source"] == source] for source in ("synthetic", "real"))
    for name, look in series(*synthetic["input"].unique(), marker="").items():
        lines(left, synthetic[synthetic["input"] == name], "rank", "value", look)
    for interval, label in ((100, "_"), (80, "median head")):
        lines(right, real, "rank", "value", {**LOOKS["blue"], "marker": "", "label": label}, interval=interval)
    for ax, part, title in ((left, synthetic, "synthetic"), (right, real, "real (MiniLM heads)")):
        theory_line(ax, (1, part["n"].max()), 1, "uniform attention" if ax is right else "_")
        ax.set(xscale="log", yscale="log", title=f"{title}, n = {part['n'].max()}")
    left.set_ylim(0.01, 2 * profile["value"].max())
    finish(fig, xlabel="rank of the key, heaviest first", ylabel=r"$n\,\|Pe_j\|_2^2$", legend="ends")
    return fig
