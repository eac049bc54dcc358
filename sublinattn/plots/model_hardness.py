"""Quantities of every head of a decoder over n, with their geometric mean."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullFormatter, NullLocator

from .old_panels import OKABE_ITO, figure, grid, handles, lines, spread, theory
from .style import PAGE, paper_style

_MEAN = {"color": OKABE_ITO["vermillion"], "marker": "o", "linewidth": 2.0, "zorder": 4, "label": "geometric mean"}


def heads_over_n(
    rows: pd.DataFrame, panels: Mapping[str, str], *, growths: Collection[str], laws: Mapping[str, tuple[str, str]]
) -> Figure:
    """A panel per quantity: every head thin, in its layer's colour (geometric mean over replicates); their geometric
    mean thick, median and 10 to 90 percent range over replicates. Lengths beyond the trained context are shaded.

    Parameters
    ----------
    rows : DataFrame
        layer, head, replicate, n, trained, and the quantities.
    panels : mapping of column to title
    growths : columns
        Drawn in one range of values and against n^0 and n^1.
    laws : mapping of column to (column, label)
        What a quantity is compared with, and the legend's entry.
    """
    with paper_style():
        fig = figure(PAGE, 1.85 * -(-len(panels) // 3) + 0.4)
        axes = grid(fig, len(panels), 3, sharex=True, sharey=False)
        layers = int(rows["layer"].max()) + 1
        colours = ListedColormap(colormaps["cividis"](np.linspace(0, 0.9, layers)))
        logs = rows.assign(**{column: np.log(rows[column]) for column in panels})
        for ax, (column, title) in zip(axes, panels.items(), strict=False):
            for layer in range(layers):
                heads = logs[logs["layer"] == layer].pivot_table(column, "n", "head").apply(np.exp)
                ax.plot(heads.index, heads, color=colours(layer), linewidth=0.7, alpha=0.7)
            mean = np.exp(logs.groupby(["replicate", "n"])[column].mean()).reset_index()
            lines(ax, spread(mean, ["n"], column), "n", _MEAN)
            if column in growths:
                _references(ax, mean, column)
            if column in laws:
                law, label = laws[column]
                known = rows.groupby("n")[law].first()
                ax.plot(known.index, known, **theory(label, linestyle="-.", zorder=5))
            ax.set(xscale="log", yscale="log", title=title)
            low, high = ax.get_ylim()
            if high < 10 * low:  # at least a decade, so that small differences look small
                ax.set_ylim((low * high / 10) ** 0.5, (low * high * 10) ** 0.5)
            ax.yaxis.set_minor_formatter(NullFormatter())
            _lengths(ax, rows)
        together = [ax for ax, column in zip(axes, panels, strict=False) if column in growths]
        bottoms, tops = zip(*(ax.get_ylim() for ax in together), strict=True)
        for ax in together:
            ax.set_ylim(min(bottoms), max(tops))
        for ax in axes[-3:]:
            ax.set_xlabel("tokens $n$")
        mappable = ScalarMappable(BoundaryNorm(np.arange(layers + 1) - 0.5, layers), colours)
        fig.colorbar(mappable, ax=axes, label="layer", ticks=MaxNLocator(8, integer=True), aspect=40, pad=0.01)
        fig.legend(*handles(*axes), loc="outside lower center", ncols=3)
    return fig


def _references(ax: Axes, mean: pd.DataFrame, column: str) -> None:
    """n^0 and n^1 through the geometric mean at the smallest n."""
    ends = mean["n"].min(), mean["n"].max()
    start = mean.loc[mean["n"] == ends[0], column].median()
    ax.plot(ends, (start, start * ends[1] / ends[0]), **theory("$n^1$", zorder=5))
    ax.plot(ends, (start, start), **theory("$n^0$", linestyle=(0, (1, 1.5)), zorder=5))


def _lengths(ax: Axes, rows: pd.DataFrame) -> None:
    """Ticks at lengths that were measured; those beyond the trained context are shaded."""
    ticks, trained = sorted(rows["n"].unique()), rows["trained"].iloc[0]
    if ticks[-1] > trained:
        ax.axvspan(
            trained,
            ticks[-1] * 1.15,
            color="#777777",
            alpha=0.15,
            linewidth=0,
            label="beyond the trained context (YaRN)",
        )
    ticks = ticks[:: -(-len(ticks) // 4)]
    ax.set_xlim(rows["n"].min() / 1.15, rows["n"].max() * 1.15)
    ax.xaxis.set_major_locator(FixedLocator(ticks))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xticklabels([f"{tick // 1024}k" if tick >= 10240 else str(tick) for tick in ticks])
