"""Caches: error against the bytes held, and needles found, with the yardsticks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from .old_panels import figure, grid, handles, legend_below, lines, theory
from .style import PAGE, method, paper_style

_ORDER = (
    "sinks",
    "heavy hitters",
    "k-center",
    "value-norm",
    "uniform",
    "subgen, hindsight",
    "subgen, window",
    "subgen",
)
_LABELS = {
    "error": r"$\|\mathrm{out}-\mathrm{Attn}\|_2\;/\;(\|\mathrm{softmax}(Kq)\|_2\,\|V\|)$, mean over queries",
    "relative": r"$\|\mathrm{out}-\mathrm{Attn}\|_F\;/\;\|\mathrm{Attn}\|_F$",
}


def style_of(name: str) -> dict[str, Any]:
    if name == "subgen, window":  # the same method, so the same colour
        return method("subgen", markerfacecolor="white", linestyle=":", label="SubGen, half a window")
    if name == "subgen, hindsight":
        return method("subgen", marker="", linestyle="--", label="SubGen, best settings in hindsight")
    if name == "heavy hitters, asked before":
        return method("heavy hitters", markerfacecolor="white", linestyle=":", label="H2O, asked all along")
    if name == "subgen, delta told":
        return method("subgen", marker="", linestyle="--", label=r"SubGen, told $\delta$")
    return method(name)


def cache_errors(rows: pd.DataFrame, value: str = "relative") -> Figure:
    """A panel per input: error of each cache over the bytes that it holds, medians and full ranges over replicates.

    Answering zero holds nothing: a line. Exact attention's error is rounding, decades below all else: a mark at the
    lower edge, with its size.

    Parameters
    ----------
    rows : DataFrame
        input, source, method, share, held, and `value`.
    value : "relative" or "error"
        What is drawn: the relative error, or that in the theorem's norm.
    """
    with paper_style():
        inputs = list(rows["input"].unique())
        fig = figure(PAGE, 6.4)
        axes = grid(fig, len(inputs), 3, sharex=True)
        shown = rows[~rows["method"].isin(["exact"])]
        low, high = shown[value].quantile([0.005, 0.995])
        for ax, name in zip(axes, inputs, strict=False):
            part = rows[rows["input"] == name]
            zero = part.loc[part["method"] == "zero", value].median()
            ax.axhline(zero, **method("zero", marker="", linewidth=1.0))
            for place, how in enumerate((*_ORDER, "streaming state")):
                if (part["method"] == how).any():
                    table = _ranges(part[part["method"] == how], value)
                    lines(
                        ax, table.assign(held=table["held"] * 1.03 ** (place - 4)), "held", style_of(how)
                    )  # bars apart
            ax.set(xscale="log", yscale="log", ylim=(low / 6, 2 * high))
            ax.set_title(name, fontsize=7, fontweight="bold" if (part["source"] == "real").all() else "normal")
            _exact(ax, part[part["method"] == "exact"], value)
            shares = sorted({*rows["share"].dropna(), 1.0})
            shares = shares[:: 1 + len(shares) // 5] if len(shares) > 5 else shares
            ax.xaxis.set_major_locator(FixedLocator(shares))
            ax.xaxis.set_minor_locator(NullLocator())
            ax.set_xticklabels(["1" if share == 1 else f"1/{round(1 / share)}" for share in shares])
            ax.yaxis.set_minor_locator(NullLocator())
            ax.tick_params(labelbottom=True)
        last = len(inputs) - 1
        axes[last - last % 3 + min(last % 3, 1)].set_xlabel("bytes held, as a share of all keys and values")
        fig.supylabel(_LABELS[value], fontsize=8)
        fig.legend(*handles(*axes[: len(inputs)]), loc="outside lower center", ncols=3)
    return fig


def _ranges(rows: pd.DataFrame, value: str) -> pd.DataFrame:
    """Per share: median bytes held, and median and full range of the value."""
    groups = rows.groupby("share", dropna=False)
    table = groups[value].agg(["min", "median", "max"]).rename(columns={"min": "low", "max": "high"})
    return table.assign(held=groups["held"].median())


def _exact(ax: Axes, exact: pd.DataFrame, value: str) -> None:
    edge = 1.4 * ax.get_ylim()[0]
    ax.plot(exact["held"].median(), edge, **method("exact", linestyle="none", label="exact (rounding)"))
    note = f"{exact[value].median():.0e}"
    ax.annotate(note, (1, edge), xytext=(-5, -1), textcoords="offset points", ha="right", fontsize=6)


def needles_found(table: pd.DataFrame, *, chance: float) -> Figure:
    """Share of the needles that each cache finds over its budget, with exact 99 percent limits.

    Parameters
    ----------
    table : DataFrame
        method, share (nan: no budget), rate, low, high.
    chance : float
        What a random answer finds.
    """
    with paper_style():
        fig = figure(PAGE, 2.9)
        ax = fig.subplots()
        order = (*_ORDER, "subgen, delta told", "heavy hitters, asked before")
        for place, how in enumerate(order):
            part = table[table["method"] == how].sort_values("share")
            if len(part):
                reach = [part["rate"] - part["low"], part["high"] - part["rate"]]
                x = part["share"] * 1.025 ** (place - len(order) / 2)  # bars side by side
                ax.errorbar(x, part["rate"], yerr=np.maximum(reach, 0), elinewidth=0.7, capsize=1.5, **style_of(how))
        for how, style in (("exact", {"marker": ""}), ("zero", {"marker": "", "linestyle": "-"})):
            ax.axhline(float(table.loc[table["method"] == how, "rate"].iloc[0]), **method(how, **style))
        ax.axhline(chance, **theory("chance", linestyle=":"))
        shares = sorted(table["share"].dropna().unique())
        x = np.geomspace(shares[0], shares[-1], 50)
        ax.plot(x, x, **theory("share of the tokens held"))
        ax.set(xscale="log", ylim=(-0.03, 1.05), xlabel="bytes allowed, as a share of all keys and values")
        ax.set_ylabel("needles found")
        ax.xaxis.set_major_locator(FixedLocator(shares))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_xticklabels([f"1/{round(1 / share)}" for share in shares])
        legend_below(fig, ax, columns=3)
    return fig
