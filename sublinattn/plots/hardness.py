"""Hardness of inputs over n, synthetic and real side by side."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from .old_panels import OKABE_ITO, figure, grid, handles, lines, spread, theory
from .style import PAGE, paper_style

_PARTS = {
    False: {"color": OKABE_ITO["blue"], "marker": "o", "label": "all keys sampled"},
    True: {"color": OKABE_ITO["vermillion"], "marker": "^", "linestyle": ":", "label": "first keys in the exact part"},
}
_SYMBOLS = {"alpha": r"$\alpha = n\,\max_j \|Pe_j\|_2^2$", "kappa": r"$\kappa$ (ratio of unmasked row sums)"}


def hardness_over_n(rows: pd.DataFrame, quantity: str) -> Figure:
    """A panel per input: medians with 10 to 90 percent ranges, against the lines n^0 and n^1.

    Parameters
    ----------
    rows : DataFrame
        input, source, n, exact_keys, and the quantity.
    quantity : {"alpha", "kappa"}
    """
    with paper_style():
        inputs = list(rows["input"].unique())
        fig = figure(PAGE, 3.5)
        axes = grid(fig, len(inputs), 4, sharex=True)
        for ax, name in zip(axes, inputs, strict=False):
            part = rows[rows["input"] == name]
            for exact, style in _PARTS.items():
                here = part[(part["exact_keys"] > 0) == exact]
                lines(ax, spread(here, ["n"], quantity), "n", style)
            ax.set(xscale="log", yscale="log")
            ax.set_title(name, fontweight="bold" if (part["source"] == "real").all() else "normal")
            _references(ax, part, quantity)
            _lengths(ax, rows["n"])
        for ax in axes[-4:]:
            ax.set_xlabel("tokens $n$")
        fig.supylabel(_SYMBOLS[quantity], fontsize=8)
        fig.legend(*handles(axes[0]), loc="outside lower center", ncols=4)
    return fig


def _references(ax: Axes, part: pd.DataFrame, quantity: str) -> None:
    """n^0 and n^1 through the median at the smallest n."""
    ends = part["n"].min(), part["n"].max()
    start = part[(part["n"] == ends[0]) & (part["exact_keys"] == 0)][quantity].median()
    ax.plot(ends, (start, start * ends[1] / ends[0]), **theory("$n^1$"))
    ax.plot(ends, (start, start), **theory("$n^0$", linestyle=(0, (1, 1.5))))


def _lengths(ax: Axes, n: pd.Series) -> None:
    ticks = sorted(n.unique())
    ticks = ticks[:: max(1, len(ticks) // 3)]
    ax.xaxis.set_major_locator(FixedLocator(ticks))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xticklabels([f"{tick // 1024}k" if tick >= 10240 else str(tick) for tick in ticks])


def column_profile(rows: pd.DataFrame) -> Figure:
    """Squared column norms by rank; left the synthetic inputs, right the real heads.

    Parameters
    ----------
    rows : DataFrame
        input, source, n, rank, value.
    """
    with paper_style():
        fig = figure(PAGE, 2.8)
        left, right = fig.subplots(1, 2, sharey=True)
        synthetic, real = (rows[rows["source"] == source] for source in ("synthetic", "real"))
        for name, part in synthetic.groupby("input", sort=False):
            table = spread(part, ["rank"], "value")
            left.plot(table["rank"], table["median"], label=name)
            left.fill_between(table["rank"], table["low"], table["high"], alpha=0.2, linewidth=0)
        table, whole = spread(real, ["rank"], "value"), real.groupby("rank")["value"].agg(["min", "max"])
        right.plot(table["rank"], table["median"], color=OKABE_ITO["black"], label="median head")
        right.fill_between(
            table["rank"],
            table["low"],
            table["high"],
            color=OKABE_ITO["blue"],
            alpha=0.35,
            linewidth=0,
            label="10 to 90 %",
        )
        right.fill_between(
            whole.index, whole["min"], whole["max"], color=OKABE_ITO["blue"], alpha=0.15, linewidth=0, label="all heads"
        )
        for ax, part, title in ((left, synthetic, "synthetic"), (right, real, "real (MiniLM heads)")):
            ax.axhline(1, **theory("uniform attention"))
            ax.set(
                xscale="log",
                yscale="log",
                xlabel="rank of the key, heaviest first",
                title=f"{title}, n = {part['n'].iloc[0]}",
            )
            ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=2)
        left.set(ylabel=r"$n\,\|Pe_j\|_2^2$", ylim=(0.01, 2 * rows["value"].max()))
    return fig
