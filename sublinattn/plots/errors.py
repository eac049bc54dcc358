"""Error against position, always with the yardsticks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .old_panels import figure, grid, handles, spread
from .style import PAGE, method, paper_style


def _exact_at_edge(ax: Axes, exact: pd.DataFrame, x: str, **overrides: Any) -> None:
    at, edge = np.unique(exact[x]), 1.3 * ax.get_ylim()[0]
    ax.plot(
        at,
        np.full(len(at), edge),
        **method("exact", linestyle="none", marker="v", label="exact (rounding)", **overrides),
    )
    note = f"exact: {exact['error'].median():.0e}"
    ax.annotate(note, (at[-1], edge), xytext=(0, 4), textcoords="offset points", ha="right", fontsize=6)


def error_by_position(rows: pd.DataFrame, *, leaf: int) -> Figure:
    """A panel per input: error of the output rows over their position under the causal mask, linear up to n.

    Parameters
    ----------
    rows : DataFrame
        input, method, position, error.
    leaf : int
        Positions before it (shaded) are exact; the recursion's nodes begin at its multiples.
    """
    with paper_style():
        inputs = list(rows["input"].unique())
        fig = figure(PAGE, 2.8)
        axes = grid(fig, len(inputs), len(inputs))
        lowest = rows.loc[(rows["method"] != "exact") & (rows["position"] > leaf), "error"].min()
        for ax, name in zip(axes, inputs, strict=True):
            part = rows[rows["input"] == name]
            for how in ("hyper practical", "uniform", "zero"):
                style = method(how, markersize=2)
                table = spread(part[part["method"] == how], ["position"], "error")
                ax.plot(table["position"], table["median"], **style)
                ax.fill_between(
                    table["position"], table["low"], table["high"], color=style["color"], alpha=0.2, linewidth=0
                )
            size = int(part["n"].iloc[0])
            for edge in range(size // 2, size, size // 4):
                ax.axvline(edge, color="#AAAAAA", linewidth=0.8, linestyle=":")
            ax.set(
                yscale="log",
                xlabel="position of the query",
                title=name,
                ylim=(lowest / 3, 3),
                xticks=range(0, size + 1, size // 4),
            )
            ax.axvspan(0, leaf, color="#EEEEEE", linewidth=0)
            exact = part[part["method"] == "exact"]
            _exact_at_edge(ax, exact, "position", markersize=2)
        axes[0].set_ylabel("error of the row / rms row of $V$")
        fig.legend(*handles(axes[0]), loc="outside lower center", ncols=4)
    return fig
