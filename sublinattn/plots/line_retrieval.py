"""Line retrieval by a real model: accuracy over the document's length, and over what each cache may hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from .caches import style_of
from .old_panels import figure, legend_below, theory
from .style import PAGE, method, paper_style

_ORDER = ("sinks", "heavy hitters", "k-center", "value-norm", "uniform", "subgen, window", "subgen")


def retrieval_over_length(table: pd.DataFrame, *, chance: float, chance_bits: float, enough: float) -> Figure:
    """Answers of exact attention over the document's length: share right, and bits of an answer's token.

    Parameters
    ----------
    table : DataFrame
        n, stretched, rate, low, high, bits, reach.
    chance, chance_bits : float
        Those of a random number.
    enough : float
        Accuracy from which on the model counts as answering.
    """
    with paper_style():
        fig = figure(PAGE, 2.5)
        axes = fig.subplots(1, 2)
        for stretched, style in ((False, {}), (True, {"markerfacecolor": "white", "linestyle": ":"})):
            part = table[table["stretched"] == stretched].sort_values("n")
            if len(part):
                label = "exact, beyond the trained context (YaRN)" if stretched else "exact"
                for ax, middle, reach in zip(axes, ("rate", "bits"), (_limits(part), part["reach"]), strict=True):
                    ax.errorbar(
                        part["n"], part[middle], yerr=reach, elinewidth=0.7, capsize=1.5,
                        **method("exact", label=label, **style),
                    )  # fmt: skip
        axes[0].axhline(enough, **theory(f"counts as answering: {enough:.0%}"))
        for ax, level in zip(axes, (chance, chance_bits), strict=True):
            ax.axhline(level, **theory("chance", linestyle=":"))
            ax.set(xscale="log", xlabel="tokens of the document")
            _ticks(ax, sorted(table["n"].unique()), str)
        axes[0].set(ylim=(-0.04, 1.05), ylabel="questions answered")
        axes[1].set(ylim=(0, 1.05 * (table["bits"] + table["reach"]).max()), ylabel="bits of an answer's token")
        legend_below(fig, *axes, columns=2)
    return fig


def retrieval_over_bytes(
    table: pd.DataFrame, *, chance: float, chance_bits: float, reported: tuple[float, float]
) -> Figure:
    """Answers under each cache over its budget, a column of panels per length: share right, bits of an answer's token.

    Parameters
    ----------
    table : DataFrame
        n, method, share (nan: no budget), rate, low, high, bits, reach.
    chance, chance_bits : float
        Those of a random number.
    reported : tuple of float
        Accuracy that [SG24] reports for its own method, and for sinks and heavy hitters.
    """
    with paper_style():
        lengths = sorted(table["n"].unique())
        fig = figure(PAGE, 4.9)
        axes = fig.subplots(2, len(lengths), sharex=True, sharey="row", squeeze=False)
        shares = sorted(table["share"].dropna().unique())
        held = np.geomspace(shares[0], shares[-1], 50)
        for column, n in zip(axes.T, lengths, strict=True):
            panel = table[table["n"] == n]
            for place, name in enumerate(_ORDER):
                part = panel[panel["method"] == name].sort_values("share")
                x = part["share"] * 1.03 ** (place - len(_ORDER) // 2)  # bars side by side
                for ax, middle, reach in zip(column, ("rate", "bits"), (_limits(part), part["reach"]), strict=True):
                    ax.errorbar(x, part[middle], yerr=reach, elinewidth=0.7, capsize=1.5, **style_of(name))
            for name in ("exact", "zero"):
                for ax, middle in zip(column, ("rate", "bits"), strict=True):
                    level = float(panel.loc[panel["method"] == name, middle].iloc[0])
                    ax.axhline(level, **method(name, marker=""))
            for ax, level in zip(column, (chance, chance_bits), strict=True):
                ax.axhline(level, **theory("chance", linestyle=":"))
                ax.set_xscale("log")
                _ticks(ax, shares, lambda share: f"1/{round(1 / share)}")
            column[0].plot(held, held, **theory("share of the tokens held"))
            for level, name in zip(reported, ("subgen", "sinks"), strict=True):
                label = "reported [SG24], 9k tokens: SubGen" if name == "subgen" else "reported: sinks, H2O"
                column[0].axhline(level, **method(name, marker="", linestyle=(0, (1, 3)), linewidth=0.9, label=label))
            column[0].set(ylim=(-0.04, 1.05), title=f"documents of {n} tokens")
            column[1].set(ylim=(0, 1.1 * max(chance_bits, table["bits"].max())), xlabel="bytes allowed / exact cache's")
        axes[0, 0].set_ylabel("questions answered")
        axes[1, 0].set_ylabel("bits of an answer's token")
        legend_below(fig, axes[0, 0], columns=3)
    return fig


def _limits(part: pd.DataFrame) -> np.ndarray:
    """Distances of an accuracy's limits from it."""
    return np.maximum([part["rate"] - part["low"], part["high"] - part["rate"]], 0)


def _ticks(ax: Axes, at: list[Any], text: Any) -> None:
    ax.xaxis.set_major_locator(FixedLocator(at))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xticklabels([text(x) for x in at])
