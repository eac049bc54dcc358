"""Heat maps: of any table, and of quantities over the layers and heads of a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure

from .layout import finish, readable
from .panels import grid
from .style import paper_style


def log_colours(values: Any) -> LogNorm:
    """Logarithmic colours from the smallest positive value to the 97 percent quantile.

    Single cells, decades above the others, would take all the colours.
    """
    shown = np.asarray(values, float)
    shown = shown[np.isfinite(shown) & (shown > 0)]
    low, high = (shown.min(), np.quantile(shown, 0.97)) if shown.size else (1.0, 1.0)
    return LogNorm(low, max(high, 1.01 * low))


def heatmap(
    ax: Axes,
    table: pd.DataFrame,
    label: str,
    *,
    norm: Normalize | None = None,
    cmap: str = "cividis",
    **looks: Any,
) -> None:
    """Cells of a table, its index down and its columns across, with a few of their names.

    Parameters
    ----------
    ax, table
        Where, and what.
    label : str
        Of the colour bar.
    norm : Normalize, optional
        Colours of values, such as `log_colours(table)`; by default linear over all of them.
    cmap : str
    **looks
        Further arguments of `seaborn.heatmap`.
    """
    large = table.size > 2500  # lines between cells would hide them, and as vectors they fill megabytes
    above = norm is not None and norm.vmax is not None and np.nanmax(table.to_numpy(float)) > norm.vmax
    sns.heatmap(
        table,
        ax=ax,
        norm=norm,
        cmap=cmap,
        linewidths=0 if large else 0.3,
        rasterized=large,
        cbar_kws={"label": label, "pad": 0.02, "extend": "max" if above else "neither"},
        **looks,
    )
    ax.tick_params(length=2, rotation=0)
    ax.grid(False)
    if isinstance(norm, LogNorm):
        readable(ax.figure.axes[-1].yaxis)


@paper_style()
def head_maps(table: pd.DataFrame, quantities: Mapping[str, str], *, groups: Mapping[str, tuple[str, ...]]) -> Figure:
    """A map per quantity, one row of cells per layer; quantities of one group have the same logarithmic colours.

    Parameters
    ----------
    table : DataFrame
        layer, head, and the quantities.
    quantities : mapping of column to title
    groups : mapping of colour bar label to columns
        Every quantity in exactly one.
    """
    layers = table["layer"].nunique()
    columns = 2 if table["head"].nunique() > 12 or len(quantities) in (2, 4) else 3
    fig, axes = grid(len(quantities), columns, height=max(1.5, 0.5 + 0.085 * layers))
    for number, (ax, (column, title)) in enumerate(zip(axes, quantities.items(), strict=True)):
        label, family = next((label, family) for label, family in groups.items() if column in family)
        cells = table.pivot(index="layer", columns="head", values=column)
        heatmap(ax, cells, label, norm=log_colours(table[list(family)].to_numpy()))
        ax.set(title=title, xlabel="head", ylabel="layer" if number % columns == 0 else "")
    finish(fig)
    return fig
