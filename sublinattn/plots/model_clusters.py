"""Keys and values of a few heads in the plane."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .old_panels import figure
from .style import PAGE, paper_style


def projections(rows: pd.DataFrame) -> Figure:
    """A column per head, a row per set of points, coloured by the position in the text; above each panel, at the right,
    its share of the variance.

    Parameters
    ----------
    rows : DataFrame
        layer, head, what, position, x, y, share.
    """
    with paper_style():
        heads, sets = rows[["layer", "head"]].drop_duplicates(), rows["what"].unique()
        fig = figure(PAGE, 1.75 * len(sets))
        axes = fig.subplots(len(sets), len(heads), squeeze=False)
        for column, (layer, head) in zip(axes.T, heads.itertuples(index=False), strict=True):
            mine = rows[(rows["layer"] == layer) & (rows["head"] == head)]
            for ax, what in zip(column, sets, strict=True):
                part = mine[mine["what"] == what]
                looks = {"s": 3, "cmap": "cividis", "linewidths": 0, "rasterized": True}
                ax.scatter(part["x"], part["y"], c=part["position"], **looks)
                ax.set_aspect("equal", adjustable="datalim")
                ax.xaxis.set_major_locator(MaxNLocator(3))
                ax.yaxis.set_major_locator(MaxNLocator(4))
                ax.set_title(f"{part['share'].iloc[0]:.0%} of the variance")
            column[0].set_title(f"layer {layer}, head {head}\n{column[0].get_title()}")
        for ax, what in zip(axes[:, 0], sets, strict=True):
            ax.set_ylabel(what)
        fig.supxlabel("principal components / largest distance", fontsize=8)
        fig.colorbar(axes[0, 0].collections[0], ax=axes, label="position in the text", aspect=50, pad=0.01)
    return fig
