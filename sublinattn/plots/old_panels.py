"""Transition: what the figures not yet moved to the grammar of `panels` share. Goes with the last of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .style import PAGE, THEORY

OKABE_ITO = {
    "black": "#000000",
    "orange": "#E69F00",
    "sky": "#56B4E9",
    "green": "#009E73",
    "yellow": "#F0E442",
    "blue": "#0072B2",
    "vermillion": "#D55E00",
    "purple": "#CC79A7",
}


def figure(width: float = PAGE, height: float = 2.6) -> Figure:
    """An empty figure; call it inside `paper_style`. Not known to pyplot, so that a notebook does not show it twice."""
    return Figure(figsize=(width, height), layout="constrained")


def grid(fig: Figure, panels: int, columns: int, *, sharex: Any = False, sharey: Any = True) -> list[Axes]:
    """`panels` axes in rows of `columns`; empty places at the end are free for a legend."""
    rows = -(-panels // columns)
    axes = fig.subplots(rows, columns, sharex=sharex, sharey=sharey, squeeze=False).ravel()
    for ax in axes[panels:]:
        ax.axis("off")
    return list(axes)


def lines(ax: Axes, table: pd.DataFrame, x: str, style: dict[str, Any]) -> None:
    """Medians over x with their range as error bars: the columns of `spread`."""
    table = table.sort_values(x)
    middle = table["median"].to_numpy()
    reach = np.maximum([middle - table["low"].to_numpy(), table["high"].to_numpy() - middle], 0)
    ax.errorbar(table[x], middle, yerr=reach, elinewidth=0.7, capsize=1.5, **style)


def theory(label: str = "theory", **overrides: Any) -> dict[str, Any]:
    """Keyword arguments of `Axes.plot` for what a theorem says."""
    return {**THEORY, "label": label, **overrides}


def spread(rows: pd.DataFrame, by: Sequence[str], value: str) -> pd.DataFrame:
    """Median and 10 to 90 percent range of `value` in each group: columns low, median, high."""
    table = rows.groupby(list(by), sort=False)[value].quantile(np.array([0.1, 0.5, 0.9])).unstack()
    table.columns = pd.Index(["low", "median", "high"])
    return table.reset_index()


def handles(*axes: Axes) -> tuple[list[Any], list[str]]:
    """Legend entries of several axes, each label once."""
    found: dict[str, Any] = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    return list(found.values()), list(found)


def legend_below(fig: Figure, *axes: Axes, columns: int) -> None:
    """One legend for all axes, under them."""
    fig.legend(*handles(*axes), loc="outside lower center", ncols=columns)
