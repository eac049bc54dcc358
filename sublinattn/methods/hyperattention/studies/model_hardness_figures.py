"""Figures of `model_hardness`."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, ListedColormap, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ....plots.heads import head_maps, heatmap
from ....plots.layout import ticks
from ....plots.panels import finish, grid, lines, theory_line
from ....plots.style import LOOKS, SERIES, paper_style
from ...caches.sink import SINKS
from .model_hardness import ALPHAS, EXACT, MATRICES, SHARED, WHICH, head_exponents

ROWS = {"block": "largest block", "causal": "all of $P$"}
COLUMNS = {"first": "without the first $c$ keys", "heaviest": "without the $c$ heaviest keys"}
TITLES = {
    "block": r"$\alpha$ of the block",
    f"block_first{SINKS}": rf"$\alpha$: first {SINKS} exact",
    f"block_heaviest{SINKS}": rf"$\alpha$: {SINKS} heaviest exact",
    "kappa": r"$\kappa$ of the block",
    "query_norm": "longest query",
    "entry": "$B$: largest entry",
}
"""Panels of the figure of layers over n."""
MEAN = {**LOOKS["rose"], "linewidth": 2.0, "zorder": 5, "label": "geometric mean of all heads"}


@paper_style()
def draw_without_keys(rows: pd.DataFrame) -> Figure:
    """alpha over n without c keys: a row of panels per matrix, the first c on the left, the c heaviest on the right.

    Geometric mean of all heads; median over passages and the range of the middle 80 percent.
    """
    fig, axes = grid(4, 2, height=2.0, sharex=True, sharey="row")
    logs = rows.assign(**{name: np.log(rows[name]) for name in ALPHAS})
    mean = logs.groupby(["replicate", "n"])[list(ALPHAS)].mean().apply(np.exp).reset_index()
    panels = [(matrix, which) for matrix in MATRICES for which in WHICH]
    for ax, (matrix, which) in zip(axes, panels, strict=True):
        ax.set(xscale="log", yscale="log")
        for number, c in enumerate((0, *EXACT)):
            look = {**LOOKS[SERIES[number]], "label": f"$c = {c}$" if c else "all keys"}
            lines(ax, mean, "n", f"{matrix}_{which}{c}" if c else matrix, look, bars=True)
        ends = mean["n"].min(), mean["n"].max()
        start = mean.loc[mean["n"] == ends[0], f"{matrix}_{which}{SINKS}"].median()
        theory_line(ax, ends, (start, start * ends[1] / ends[0]), "$n^1$")
        ax.set_title(COLUMNS[which] if matrix == panels[0][0] else "")
        ax.set_ylabel(rf"$\alpha$, {ROWS[matrix]}" if which == panels[0][1] else "")
        _lengths(ax, rows)
    finish(fig, xlabel="tokens $n$")
    return fig


@paper_style()
def draw_over_n(rows: pd.DataFrame) -> Figure:
    """A panel per quantity of `TITLES`: every head thin, in its layer's colour, and the geometric mean of all thick.

    Thin lines are geometric means over passages; of more than 40 heads each layer has one line, the mean of its heads.
    The thick line is the median over passages, with the range of the middle 80 percent. The panels of alpha have one
    range of values. Lengths beyond the trained context are shaded.
    """
    fig, axes = grid(len(TITLES), 3, height=1.85, sharex=True)
    layers = int(rows["layer"].max()) + 1
    thin = ["layer", "head"] if len(rows[["layer", "head"]].drop_duplicates()) <= 40 else ["layer"]
    colours = ListedColormap(colormaps["cividis"](np.linspace(0, 0.9, layers)))
    logs = rows.assign(**{column: np.log(rows[column]) for column in TITLES})
    for ax, (column, title) in zip(axes, TITLES.items(), strict=True):
        for _, one in logs.groupby(thin):
            over = np.exp(one.groupby("n")[column].mean())
            ax.plot(over.index, over, color=colours(one["layer"].iloc[0]), linewidth=0.7, alpha=0.7)
        mean = np.exp(logs.groupby(["replicate", "n"])[column].mean()).reset_index()
        lines(ax, mean, "n", column, MEAN, bars=True)
        ax.set(xscale="log", yscale="log", title=title)
        if column in ALPHAS:
            ends = mean["n"].min(), mean["n"].max()
            start = mean.loc[mean["n"] == ends[0], column].median()
            theory_line(ax, ends, (start, start * ends[1] / ends[0]), "$n^1$")
            theory_line(ax, ends, start, "$n^0$", linestyle=(0, (1, 1.5)))
        low, high = ax.get_ylim()
        if high < 10 * low:  # at least a decade, so that small differences look small
            ax.set_ylim((low * high / 10) ** 0.5, (low * high * 10) ** 0.5)
        _lengths(ax, rows)
    together = [ax for ax, column in zip(axes, TITLES, strict=True) if column in ALPHAS]
    bottoms, tops = zip(*(ax.get_ylim() for ax in together), strict=True)
    for ax in together:
        ax.set_ylim(min(bottoms), max(tops))
    axes[0].plot([], [], color="#888888", linewidth=0.7, label="one head" if len(thin) > 1 else "one layer's heads")
    mappable = ScalarMappable(BoundaryNorm(np.arange(layers + 1) - 0.5, layers), colours)
    fig.colorbar(mappable, ax=axes, label="layer", ticks=MaxNLocator(8, integer=True), aspect=40, pad=0.01)
    finish(fig, xlabel="tokens $n$")
    return fig


def _lengths(ax: Axes, rows: pd.DataFrame) -> None:
    """Ticks at the measured lengths; those beyond the trained context are shaded."""
    trained, shortest, longest = rows["trained"].iloc[0], rows["n"].min(), rows["n"].max()
    if longest > trained:
        label = "beyond the trained context (YaRN)"
        ax.axvspan(trained, longest * 1.15, color="#777777", alpha=0.15, linewidth=0, label=label)
    ax.set_xlim(shortest / 1.15, longest * 1.15)
    ticks(ax.xaxis, rows["n"].unique(), at_most=4)


@paper_style()
def draw_heads(table: pd.DataFrame) -> Figure:
    """Maps of `by_head`: a quantity each, one row of cells per layer."""
    titles = {
        **TITLES,
        "mass": "attention on the heaviest",
        "number": "which key is heaviest",
        "columns": "columns with 90 %",
    }
    groups = {
        r"$\alpha$": SHARED,
        r"$\kappa$": ("kappa",),
        "norm": ("query_norm",),
        "$B$": ("entry",),
        "share": ("mass",),
        "number of the key": ("number",),
        "columns": ("columns",),
    }
    return head_maps(table, titles, groups=groups)


@paper_style()
def draw_exponents(rows: pd.DataFrame) -> Figure:
    """Maps of every head's exponent of n of alpha of the block: with all keys, without the first 4, the 4 heaviest."""
    layers, wide = int(rows["layer"].max()) + 1, int(rows["head"].max()) >= 12
    fig, axes = grid(len(SHARED), 1 if wide else 3, height=max(1.7, 0.6 + 0.085 * layers))
    for number, (ax, quantity) in enumerate(zip(axes, SHARED, strict=True)):
        cells = head_exponents(rows, quantity)["exponent"].unstack("head")
        heatmap(ax, cells, "exponent of $n$", norm=TwoSlopeNorm(1.0, 0.0, 2.0), cmap="RdBu_r")
        ax.set(title=TITLES[quantity], xlabel="head", ylabel="layer" if wide or not number else "")
    finish(fig)
    return fig
