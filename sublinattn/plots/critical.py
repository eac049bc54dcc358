"""Critical sample sizes over each variable, the measured fit beside the theory's slope."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from .old_panels import OKABE_ITO, figure, grid, theory
from .style import PAGE, paper_style

_SYMBOLS = {
    "varepsilon": r"$\varepsilon$",
    "kappa": r"$\kappa$",
    "alpha": r"$\alpha$",
    "n": "$n$",
    "d_v": "$d_v$",
    "rho": r"$e^{2\delta r}$",
    "srank": "srank$(P)$",
    "k": "$k$",
    "varepsilon_1": r"$\varepsilon_1$",
    "varepsilon_ties": r"$\varepsilon_1$, near-ties",
}


def critical_sizes(
    sizes: pd.DataFrame, fits: pd.DataFrame, titles: Mapping[str, str], *, size: str = "critical size $m^*$"
) -> Figure:
    """A row per claim, a panel per variable: replicates, their fit, and the theory's slope through the fit's middle.

    Where no size was found up to the cap, an open triangle stands at the upper edge.

    Parameters
    ----------
    sizes : DataFrame
        claim, variable, x, replicate, size (inf where none was found up to the cap).
    fits : DataFrame
        claim, variable, theory (LaTeX), measured, lower, upper, theory_exponent.
    titles : mapping of claim id to the row's name
    size : str
        What was searched for.
    """
    with paper_style():
        columns = int(fits.groupby("claim").size().max())
        fig = figure(PAGE, 1.55 * len(titles) + 0.3)
        axes = fig.subplots(len(titles), columns, squeeze=False)
        for row, (claim, title) in zip(axes, titles.items(), strict=True):
            here = fits[fits["claim"] == claim]
            for ax in row[len(here) :]:
                ax.axis("off")
            for ax, (_, fit) in zip(row, here.iterrows(), strict=False):
                data = sizes[(sizes["claim"] == claim) & (sizes["variable"] == fit["variable"])]
                _panel(ax, data, fit)
            row[0].set_ylabel(f"{title}\n{size}")
        fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return fig


def growths(sizes: pd.DataFrame, fits: pd.DataFrame, labels: Mapping[str, str], *, columns: int = 3) -> Figure:
    """A panel per claim and variable, `columns` in a row: replicates, their fit, and the theory's slope.

    Parameters
    ----------
    sizes, fits : DataFrame
        As for `critical_sizes`.
    labels : mapping of claim id to what was measured, with its unit
    """
    panels = [fit for claim in labels for _, fit in fits[fits["claim"] == claim].iterrows()]
    with paper_style():
        fig = figure(PAGE, 1.7 * -(-len(panels) // columns) + 0.3)
        axes = grid(fig, len(panels), columns, sharey=False)
        for ax, fit in zip(axes, panels, strict=False):
            _panel(ax, sizes[(sizes["claim"] == fit["claim"]) & (sizes["variable"] == fit["variable"])], fit)
            ax.set_ylabel(labels[fit["claim"]])
        fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return fig


def _panel(ax: Axes, data: pd.DataFrame, fit: pd.Series) -> None:
    found = data[np.isfinite(data["size"])]
    blue = OKABE_ITO["blue"]
    ax.set(xscale="log", yscale="log", xlabel=_SYMBOLS.get(fit["variable"], fit["variable"]))
    low, high = (found["size"].min(), found["size"].max()) if len(found) else (1.0, 1.0)
    ax.set_ylim(low / 4, high * 4)  # a steep theory leaves the panel; its slope still shows
    ax.plot(found["x"], found["size"], "o", color=blue, markersize=2.5, alpha=0.6, label="replicate")
    missing = data["x"][np.isinf(data["size"])]
    ax.plot(missing, np.full(len(missing), high * 3.2), "^", color=blue, markersize=3, markerfacecolor="white")
    if np.isfinite(fit["measured"]):
        fitted = data[~data["x"].isin(missing)]  # the fit leaves out grid points with a size that was not found
        x = np.array([fitted["x"].min(), fitted["x"].max()])
        middle = np.exp([np.log(fitted["x"]).mean(), np.log(fitted["size"]).mean()])
        ax.plot(x, middle[1] * (x / middle[0]) ** fit["measured"], color=blue, label="fit")
        ax.plot(x, middle[1] * (x / middle[0]) ** fit["theory_exponent"], **theory("theory's slope"))
    span = f"{fit['measured']:.2f} [{fit['lower']:.2f}, {fit['upper']:.2f}]"
    ax.set_title(f"{span}\ntheory {fit['theory_exponent']:.2f}", fontsize=6.5)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_minor_formatter(NullFormatter())
    ticks = _few(data["x"])
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])


def _few(x: pd.Series) -> list[float]:
    """The smallest, middle and largest of the grid, to label."""
    medians = sorted(float(f"{value:.2g}") for value in np.exp(np.quantile(np.log(x), [0.1, 0.5, 0.9])))
    return sorted(set(medians))
