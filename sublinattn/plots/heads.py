"""Heat maps over the layers and heads of a model."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from .panels import figure
from .style import PAGE, paper_style


def head_maps(table: pd.DataFrame, quantities: Mapping[str, str], *, groups: Mapping[str, tuple[str, ...]]) -> Figure:
    """One row of cells per layer; quantities of one group have the same logarithmic colour scale.

    Parameters
    ----------
    table : DataFrame
        layer, head, and the quantities.
    quantities : mapping of column to title
    groups : mapping of colour bar label to columns
        Every quantity in exactly one.
    """
    with paper_style():
        fig = figure(PAGE, 3.3)
        axes = fig.subplots(-(-len(quantities) // 2), 2, sharex=True, sharey=True).ravel()
        for ax, (column, title) in zip(axes, quantities.items(), strict=False):
            label, family = next((label, columns) for label, columns in groups.items() if column in columns)
            values = table[list(family)].to_numpy()
            cells = table.pivot(index="layer", columns="head", values=column)
            # Single heads, decades above the others, would take all the colours.
            norm = LogNorm(values.min(), np.quantile(values, 0.97))
            image = ax.pcolormesh(
                cells.columns, cells.index, cells, norm=norm, cmap="cividis", edgecolors="white", linewidth=0.3
            )
            ax.set(title=title, xlabel="head", ylabel="layer", xticks=range(0, cells.shape[1], 2), yticks=cells.index)
            ax.set_ylim(cells.shape[0] - 0.5, -0.5)
            ax.grid(False)
            ax.label_outer()
            fig.colorbar(image, ax=ax, label=label, pad=0.02, extend="max")
    return fig
