"""The softmax matrix before and after sorting by the hash."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from .old_panels import OKABE_ITO, figure
from .style import PAGE, paper_style


def sorted_matrix(entries: pd.DataFrame, *, n: int, block_size: int) -> Figure:
    """Two panels on one logarithmic colour scale, the mask's block diagonal outlined in the second.

    Parameters
    ----------
    entries : DataFrame
        query, key, query_place, key_place, p: the entries to draw.
    n, block_size : int
        Tokens, and keys per block of the mask.
    """
    with paper_style():
        fig = figure(PAGE, 2.75)
        axes = fig.subplots(1, 2, sharey=True)
        norm = LogNorm(entries["p"].min(), entries["p"].max())
        for ax, (rows, columns), title in zip(
            axes, (("query", "key"), ("query_place", "key_place")), ("as given", "sorted by bucket"), strict=True
        ):
            p = np.full((n, n), np.nan)
            p[entries[rows], entries[columns]] = entries["p"]
            image = ax.imshow(p, norm=norm, cmap="cividis_r", interpolation="nearest")
            ax.set_title(title)
            ax.grid(False)
            ax.spines[:].set_visible(True)
        axes[0].set(xlabel="key (position)", ylabel="query (position, or rank)")
        axes[1].set(xlabel="key (rank in bucket order)")
        _outline(axes[1], n, block_size)
        fig.colorbar(image, ax=axes, label="softmax entry $P_{ij}$", shrink=0.85, pad=0.02)
    return fig


def _outline(ax: Axes, n: int, block_size: int) -> None:
    blocks = [Rectangle((start - 0.5, start - 0.5), block_size, block_size) for start in range(0, n, block_size)]
    ax.add_collection(PatchCollection(blocks, facecolor="none", edgecolor=OKABE_ITO["vermillion"], linewidth=0.9))
