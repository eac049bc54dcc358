"""Which part of the attention matrix each level of the causal recursion handles."""

from __future__ import annotations

import numpy as np
from matplotlib.colors import ListedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from .old_panels import OKABE_ITO, figure
from .style import COLUMN, paper_style

_LEVELS = ("yellow", "sky", "green", "orange", "purple", "vermillion")
_PALE = 0.65  # share of white in what is sampled


def recursion_map(level: np.ndarray, exact: np.ndarray) -> Figure:
    """The lower triangle, coloured by level; entries computed exactly are dark, those left to the sample pale.

    Parameters
    ----------
    level : int array, shape (n, n)
        0 for the leaves, then bottom up; -1 above the diagonal.
    exact : bool array, shape (n, n)
        Entries in a leaf, or in a block of the sortLSH mask.
    """
    with paper_style():
        fig = figure(COLUMN * 1.3, 3.1)
        ax = fig.subplots()
        strong = np.array([to_rgb(OKABE_ITO[name]) for name in _LEVELS])
        pale = strong * (1 - _PALE) + _PALE
        code = np.where(level < 0, 0, 1 + 2 * level + exact)
        colors = [(1.0, 1.0, 1.0), *(tuple(c) for pair in zip(pale, strong, strict=True) for c in pair)]
        ax.imshow(code, cmap=ListedColormap(colors), vmin=0, vmax=len(colors) - 1, interpolation="nearest")
        ax.set(xlabel="key (position)", ylabel="query (position)")
        ax.grid(False)
        depth = int(level.max())
        found = [Patch(facecolor=strong[0], label="leaf: exact")]
        for number in range(1, depth + 1):
            half = len(level) >> (depth - number + 1)
            found.append(
                Patch(
                    facecolor=pale[number],
                    edgecolor=strong[number],
                    linewidth=1.5,
                    label=f"level {number}: $A_{{21}}$ of {half} x {half}",
                )
            )
        ax.legend(handles=found, loc="upper right", framealpha=1.0)
    return fig
