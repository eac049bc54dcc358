"""Sparse recovery: how much worse than the best k-sparse answer, over the accuracy asked for."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from .old_panels import OKABE_ITO, figure, lines, spread, theory
from .style import PAGE, method, paper_style

_DECODERS = {
    "identify": {"color": OKABE_ITO["sky"], "marker": "P", "label": "identification"},
    "scan": {"color": OKABE_ITO["blue"], "marker": "o", "markerfacecolor": "white", "linestyle": "-.", "label": "scan"},
}


def recovery_excess(rows: pd.DataFrame) -> Figure:
    """A panel per signal: `||T - y|| / ||tail_k(y)|| - 1` of both decoders, the promise `eps1`, what is proven, zero.

    Parameters
    ----------
    rows : DataFrame
        signal, eps1, method, excess, proven, as `lab.experiments.recovery.over_accuracy` gives them.
    """
    with paper_style():
        fig = figure(PAGE, 2.7)
        signals = list(rows["signal"].unique())
        axes = fig.subplots(1, len(signals), sharey=True)
        for ax, name in zip(axes, signals, strict=True):
            part = rows[rows["signal"] == name]
            table = spread(part, ["method", "eps1"], "excess")
            for decoder, style in _DECODERS.items():
                lines(ax, table[table["method"] == decoder], "eps1", style)
            zero = table[table["method"] == "zero"].sort_values("eps1")
            ax.plot(zero["eps1"], zero["median"], **method("zero"))
            asked = part[["eps1", "proven"]].drop_duplicates().sort_values("eps1")
            ax.plot(asked["eps1"], asked["eps1"], **theory(r"promised: $\varepsilon_1$"))
            ax.plot(asked["eps1"], asked["proven"], **theory("proven for these sizes", linestyle=":"))
            ax.set(xscale="log", yscale="log", xlabel=r"$\varepsilon_1$", title=name)
            ax.set_xticks(asked["eps1"], [f"{eps:g}" for eps in asked["eps1"]])
            ax.minorticks_off()
        axes[0].set_ylabel(r"$\|T-y\|_2\,/\,\|\mathrm{tail}_k(y)\|_2-1$")
        fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return fig
