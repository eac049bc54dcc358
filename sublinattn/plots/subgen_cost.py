"""SubGen's memory and time over n, with the slopes that the number of clusters gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .old_panels import OKABE_ITO, figure, legend_below, theory
from .style import PAGE, method, paper_style

_STREAMS: dict[str, dict[str, Any]] = {
    "64 clusters": {"color": OKABE_ITO["blue"], "marker": "o", "label": "SubGen, 64 clusters"},
    "sqrt(n) clusters": {"color": OKABE_ITO["sky"], "marker": "P", "label": r"SubGen, $2\sqrt{n}$ clusters"},
    "n clusters": {"color": OKABE_ITO["vermillion"], "marker": "^", "label": "SubGen, $n$ clusters"},
}
_PANELS = {
    "bytes": ("bytes held (MiB)", 2.0**-20),
    "token": (r"one token ($\mu$s)", 1.0),
    "query": ("one query (ms)", 1.0),
}


def subgen_over_n(rows: pd.DataFrame, exponents: dict[str, float]) -> Figure:
    """Three panels over n: bytes, time per token, time per query; medians and ranges.

    Parameters
    ----------
    rows : DataFrame
        quantity, method, n, replicate, value, as `lab.experiments.subgen_cost.over_n` gives them.
    exponents : mapping of method to the theory's exponent of n
        Drawn beside each line of the memory, and as a slope in the other panels.
    """
    with paper_style():
        fig = figure(PAGE, 2.5)
        axes = fig.subplots(1, 3, sharex=True)
        for ax, (quantity, (label, unit)) in zip(axes, _PANELS.items(), strict=True):
            part = rows[rows["quantity"] == quantity]
            for name, line in part.groupby("method", sort=False):
                _line(ax, line, unit, str(name))
                if not (name == "exact" and quantity == "token"):
                    _slope(ax, line, unit, exponents[str(name)])
            ax.set(xscale="log", yscale="log", xlabel="tokens $n$", ylabel=label)
            ax.set_xscale("log", base=2)
        legend_below(fig, *axes, columns=3)
    return fig


def _line(ax: Axes, line: pd.DataFrame, unit: float, name: str) -> None:
    table = line.groupby("n")["value"].agg(["min", "median", "max"]) * unit
    reach = [table["median"] - table["min"], table["max"] - table["median"]]
    style = method("exact", label="exact cache") if name == "exact" else _STREAMS[name]
    ax.errorbar(table.index, table["median"], yerr=reach, elinewidth=0.7, capsize=1.5, **style)


def _slope(ax: Axes, line: pd.DataFrame, unit: float, exponent: float) -> None:
    """The theory's slope, over the last factor of 8, through the last point."""
    last = line["n"].max()
    n = np.array([max(last / 8, line["n"].min()), last], float)
    end = float(line[line["n"] == last]["value"].median()) * unit
    ax.plot(n, end * (n / last) ** exponent, **theory("theory's slope", linewidth=0.8))


def rows_per_chunk(rows: pd.DataFrame) -> Figure:
    """Tokens per second over the rows of a chunk: median and range.

    Parameters
    ----------
    rows : DataFrame
        rows, replicate, tokens_per_second, as `lab.experiments.subgen_cost.by_rows` gives them.
    """
    with paper_style():
        fig = figure(PAGE / 2, 2.2)
        ax = fig.subplots()
        table = rows.groupby("rows")["tokens_per_second"].agg(["min", "median", "max"])
        reach = [table["median"] - table["min"], table["max"] - table["median"]]
        ax.errorbar(table.index, table["median"], yerr=reach, elinewidth=0.7, capsize=1.5, **method("subgen"))
        ax.set(xscale="log", yscale="log", xlabel="tokens per update", ylabel="tokens per second")
        ax.set_xscale("log", base=2)
    return fig
