"""Collision and adjacency probabilities of the hash over the angle, measured on theory."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from .old_panels import OKABE_ITO, figure, grid, legend_below, theory
from .style import PAGE, paper_style

_STYLE = {1: ("blue", "o"), 2: ("vermillion", "s"), 4: ("green", "^"), 8: ("purple", "D")}


def collision_curves(rates: pd.DataFrame, laws: pd.DataFrame) -> Figure:
    """Two panels: same bucket, neighbouring bucket.

    Parameters
    ----------
    rates : DataFrame
        event, bits, angle (degrees), rate, low, high.
    laws : DataFrame
        event, bits, angle (degrees), law.
    """
    with paper_style():
        fig = figure(PAGE, 2.7)
        events = list(laws["event"].unique())
        axes = grid(fig, len(events), len(events))
        for ax, event in zip(axes, events, strict=True):
            for law_line in (part for _, part in laws[laws["event"] == event].groupby("bits")):
                ax.plot(law_line["angle"], law_line["law"], **theory(zorder=1))
            for bits, part in rates[rates["event"] == event].groupby("bits"):
                color, marker = _STYLE[int(bits)]
                reach = np.abs([part["rate"] - part["low"], part["high"] - part["rate"]])
                label = f"r = {bits} bit" + "s" * (bits > 1)
                ax.errorbar(
                    part["angle"],
                    part["rate"],
                    yerr=reach,
                    fmt=marker,
                    color=OKABE_ITO[color],
                    label=label,
                    elinewidth=0.8,
                    capsize=1.5,
                )
            ax.set(xlabel="angle between the points (degrees)", title=f"{event}", xlim=(0, 180), ylim=(-0.02, 1.02))
            ax.set_xticks(range(0, 181, 45))
        axes[0].set_ylabel("probability")
        legend_below(fig, axes[0], columns=5)
    return fig
