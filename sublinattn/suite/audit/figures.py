"""The figures of an audit: hardness, sizes that the theorems need, and the error of every method, head by head."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from ...plots.heads import head_maps, heatmap
from ...plots.panels import grid
from ...plots.style import METHODS, PAGE, paper_style

_HARDNESS = {
    "alpha": r"$\alpha$",
    "alpha_residual": r"$\alpha$, first 4 keys exact",
    "kappa": r"$\kappa$",
    "srank": "stable rank of $P$",
    "query_norm": r"largest query norm $\|q\|$",
    "entry_bound": "largest entry $B$",
    "delta_r_log": r"$\delta r / \log n$ at $n/32$ clusters",
    "tail": "error of the best $n/64$ output rows",
}
_COLOUR_BARS = {
    r"$\alpha$": ("alpha", "alpha_residual"),
    r"$\kappa$": ("kappa",),
    "srank": ("srank",),
    "norm": ("query_norm",),
    "$B$": ("entry_bound",),
    "ratio": ("delta_r_log",),
    "relative error": ("tail",),
}
_THEOREMS = {
    "hyper_size": "HyperAttention: samples",
    "subgen_size": "SubGen: stored rows",
    "onepass_size": "one pass: rows of the sketch",
    "polynomial_size": "polynomial: monomials",
}
_DECADES = (-2, -1, 0, 1, 2, 5, 10, 20, 50, 100, 300)
_ANNOTATED = 32
"""Up to so many heads, every cell of the errors shows its number."""


def hardness(heads: pd.DataFrame) -> Figure:
    """Heat maps over layers and heads of the quantities that the theorems assume to be small.

    Parameters
    ----------
    heads : DataFrame
        `Audit.heads`.
    """
    return head_maps(heads, _HARDNESS, groups=_COLOUR_BARS)


@paper_style()
def theorems(heads: pd.DataFrame) -> Figure:
    """The size that each theorem needs over n, one dot per head; left of the line the theorem says something.

    Parameters
    ----------
    heads : DataFrame
        `Audit.heads`.
    """
    fig, (ax,) = grid(1, 1, height=2.2)
    within = np.linspace(-0.3, 0.3, len(heads))  # heads of a theorem one below the other, the first layer on top
    decades = np.log10(heads[list(_THEOREMS)].div(heads["n"], axis=0).clip(upper=1e300))
    for row, column in enumerate(_THEOREMS):
        dots = ax.scatter(decades[column], row + within, c=heads["layer"], cmap="cividis", s=12, linewidths=0)
    ax.axvline(0, color="black", linewidth=0.8)
    low, high = min(-1.0, 1.1 * decades.min(axis=None)), 1.1 * max(2.0, decades.max(axis=None))
    ax.set_xscale("symlog", linthresh=2)  # sizes near n matter: a decade there is as wide as many far from it
    ax.set(xlabel="size / n", xlim=(low, high), xticks=[x for x in _DECADES if low <= x <= high])
    ax.xaxis.set_major_formatter(lambda x, _: f"$10^{{{x:.0f}}}$")
    ax.set(yticks=range(len(_THEOREMS)), yticklabels=_THEOREMS.values())
    ax.invert_yaxis()
    fig.colorbar(dots, ax=ax, label="layer", ticks=MaxNLocator(5, integer=True), pad=0.02)
    return fig


@paper_style()
def errors(measured: pd.DataFrame, advice: pd.DataFrame) -> Figure:
    """Relative error of every method (rows) on every head (columns), the most accurate method on top.

    With few heads each cell shows its number, and a frame marks the best cache of a head, dotted where that exceeds the
    tolerance. A dash stands where the streaming state cannot be built (see `error_over_bytes.unbudgeted`).

    Parameters
    ----------
    measured : DataFrame
        `Audit.errors`.
    advice : DataFrame
        What `advice` recommends.
    """
    table = measured.pivot(index="method", columns=["layer", "head"], values="relative").drop(index="exact")
    table = table.loc[table.median(axis=1).sort_values().index]
    few = table.shape[1] <= _ANNOTATED
    fig, (ax,) = grid(1, 1, width=PAGE, height=0.9 + 0.24 * len(table))
    shown = table.clip(1e-3, 10).set_axis(["{}.{}".format(*place) for place in table.columns.to_list()], axis=1)
    label = r"$\|\mathrm{out}-\mathrm{Attn}\|_F / \|\mathrm{Attn}\|_F$"
    numbers = table.map(_short).to_numpy() if few else None
    norm = LogNorm(np.nanmin(shown), 10)
    heatmap(ax, shown, label, norm=norm, annot=numbers, fmt="", annot_kws={"fontsize": 4.5})
    ax.set(xlabel="layer.head", ylabel="")
    ax.set_yticks(np.arange(len(table)) + 0.5, [METHODS[name]["label"] for name in table.index])
    if few:
        rows = {name: row for row, name in enumerate(table.index)}
        audited = advice[advice["best"] != ""]
        for column, (best, method) in enumerate(zip(audited["best"], audited["method"], strict=True)):
            for color, width, style in (("white", 1.6, "-"), ("#D55E00", 1.0, "-" if method == best else ":")):
                frame = Rectangle((column, rows[best]), 1, 1, fill=False, clip_on=False, edgecolor=color)
                frame.set(linewidth=width, linestyle=style)
                ax.add_patch(frame)
    return fig


def _short(value: float) -> str:
    """About three characters, since a cell is narrow."""
    if np.isnan(value):
        return "–"
    if np.isinf(value):
        return "∞"
    if value >= 1000:
        return f"1e{int(np.log10(value))}"
    return f"{value:.2f}".lstrip("0") if value < 1 else f"{value:.1f}" if value < 10 else f"{value:.0f}"
