"""What a mask catches, input by input, beside a random mask of the same size."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from .old_panels import OKABE_ITO, figure, legend_below, spread
from .style import PAGE, paper_style

_MASKS = {"sortLSH": ("blue", "o", -0.13), "random": ("orange", "D", 0.13)}
_PANELS = {"heavy_share": "share of heavy entries in the mask", "mass_share": "share of softmax mass in the mask"}


def mask_shares(rows: pd.DataFrame) -> Figure:
    """Medians and 10 to 90 percent ranges over replicates.

    Parameters
    ----------
    rows : DataFrame
        input, mask ("sortLSH" or "random"), heavy_share, mass_share.
    """
    with paper_style():
        inputs = list(rows["input"].unique())
        fig = figure(PAGE, 0.9 + 0.27 * len(inputs))
        axes = fig.subplots(1, len(_PANELS), sharey=True)
        for ax, (value, label) in zip(axes, _PANELS.items(), strict=True):
            for mask, (color, marker, shift) in _MASKS.items():
                table = spread(rows[rows["mask"] == mask], ["input"], value).set_index("input").loc[inputs]
                reach = np.maximum([table["median"] - table["low"], table["high"] - table["median"]], 0)
                at = np.arange(len(inputs)) + shift
                ax.errorbar(
                    table["median"],
                    at,
                    xerr=reach,
                    fmt=marker,
                    color=OKABE_ITO[color],
                    label=f"{mask} mask",
                    capsize=1.5,
                )
            ax.set(xlabel=label, xlim=(0, 1.0))
            ax.set_yticks(range(len(inputs)), inputs)
            ax.set_ylim(len(inputs) - 0.5, -0.5)
        legend_below(fig, axes[0], columns=2)
    return fig
