"""Heat maps over the layers and heads of a model."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from .old_panels import figure
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
        lines = -(-len(quantities) // 2)
        fig = figure(PAGE, 1.65 * lines)
        axes = fig.subplots(lines, 2, sharex=True, sharey=True, squeeze=False).ravel()
        for ax, (column, title) in zip(axes, quantities.items(), strict=False):
            label, family = next((label, columns) for label, columns in groups.items() if column in columns)
            every = table[list(family)].to_numpy()
            shown = every[np.isfinite(every) & (every > 0)]
            values = shown if shown.size else np.ones(1)  # nothing to see
            cells = table.pivot(index="layer", columns="head", values=column)
            # Single heads, decades above the others, would take all the colours.
            low, high = values.min(), np.quantile(values, 0.97)
            looks = {"norm": LogNorm(low, high), "cmap": "cividis", "edgecolors": "white", "linewidth": 0.3}
            image = ax.pcolormesh(cells.columns, cells.index, cells, **looks)
            down, across = (np.arange(0, count, -(-count // 8)) for count in cells.shape)
            ax.set(title=title, xlabel="head", ylabel="layer", xticks=across, yticks=down)
            ax.set_ylim(cells.shape[0] - 0.5, -0.5)
            ax.grid(False)
            ax.label_outer()
            bar = fig.colorbar(image, ax=ax, label=label, pad=0.02, extend="max")
            if high < 100 * low:  # powers of ten alone would be too few ticks
                bar.set_ticks(LogLocator(10, (1.0, 2.0, 5.0) if high > 5 * low else range(1, 10)))
                bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
                bar.ax.yaxis.set_minor_locator(NullLocator())
    return fig
