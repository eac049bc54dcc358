"""Error against budget and against position, always with the yardsticks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from .old_panels import figure, grid, handles, lines, spread
from .style import PAGE, method, paper_style

_ORDER = ("hyper practical", "hyper practical, sinks exact", "hyper theory", "uniform", "zero")


def _style(name: str) -> dict[str, Any]:
    if name == "hyper practical, sinks exact":  # the same method, so the same colour
        return method("hyper practical", markerfacecolor="white", linestyle=":", label="practical, sinks exact")
    return method(name)


def error_against_budget(rows: pd.DataFrame) -> Figure:
    """A panel per input: median error of each method and its 10 to 90 percent range.

    Exact attention's error is rounding, decades below all else: marks at the lower edge, with its size beside them.

    Parameters
    ----------
    rows : DataFrame
        input, source, n, method, budget, error.
    """
    with paper_style():
        inputs = list(rows["input"].unique())
        fig = figure(PAGE, 3.6)
        axes = grid(fig, len(inputs), 4, sharex=True)
        lowest = rows.loc[rows["method"] != "exact", "error"].quantile(0.01)
        for ax, name in zip(axes, inputs, strict=False):
            part = rows[rows["input"] == name]
            for place, how in enumerate(_ORDER):
                if (part["method"] == how).any():
                    table = spread(part[part["method"] == how], ["budget"], "error")
                    lines(
                        ax, table.assign(budget=table["budget"] * 1.05 ** (place - 2)), "budget", _style(how)
                    )  # bars side by side
            ax.set(xscale="log", yscale="log", ylim=(lowest / 4, 60))
            ax.set_title(name, fontsize=7, fontweight="bold" if (part["source"] == "real").all() else "normal")
            _exact_at_edge(ax, part[part["method"] == "exact"], "budget")
            budgets = sorted(rows["budget"].unique())[::2]
            ax.xaxis.set_major_locator(FixedLocator(budgets))
            ax.xaxis.set_minor_locator(NullLocator())
            ax.set_xticklabels(map(str, budgets))
            ax.tick_params(labelbottom=True)
        fig.supxlabel("budget (key columns per query)", fontsize=8)
        fig.supylabel(r"$\|\mathrm{out} - PV\|\;/\;(\|P\|\,\|V\|)$", fontsize=8)
        found, labels = handles(*axes[: len(inputs)])
        if len(axes) > len(inputs):
            axes[-1].legend(found, labels, loc="center", fontsize=6)
        else:
            fig.legend(found, labels, loc="outside upper center", ncols=3)
    return fig


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
