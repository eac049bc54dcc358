"""From which n a method holds fewer bytes than the exact cache, over the width of the heads."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from .old_panels import figure, legend_below, theory
from .style import COLUMN, method, paper_style


def crossing_lengths(rows: pd.DataFrame) -> Figure:
    """A line per method, beside 2^d.

    Parameters
    ----------
    rows : DataFrame
        d, method ("one-pass paper", "one-pass fused", "streaming state"), n (fewer bytes from there on).
    """
    with paper_style():
        fig = figure(COLUMN, 2.9)
        ax = fig.subplots()
        for name in ("one-pass paper", "one-pass fused", "streaming state"):
            part = rows[rows["method"] == name].sort_values("d")
            ax.plot(part["d"], part["n"], **method(name))
        d = np.geomspace(rows["d"].min(), rows["d"].max(), 50)
        ax.plot(d, 2**d, **theory("$2^d$"))
        ax.set(
            xscale="log",
            yscale="log",
            xlabel="head width $d = d_v$",
            ylabel="tokens $n$ from which on it\nis smaller than the cache",
        )
        widths = sorted(rows["d"].unique())
        ax.set_xticks(widths, [str(x) for x in widths])
        ax.xaxis.set_minor_formatter(NullFormatter())
        legend_below(fig, ax, columns=2)
    return fig
