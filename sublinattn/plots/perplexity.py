"""A language model's loss: over the context, and over how many of its layers attend approximately."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from .old_panels import OKABE_ITO, figure, legend_below, theory
from .style import PAGE, method, paper_style

_ORDERS = {
    "from the last": {"color": OKABE_ITO["blue"], "marker": "o"},
    "from the first": {"color": OKABE_ITO["vermillion"], "marker": "^"},
    "least alpha first": {"color": OKABE_ITO["sky"], "marker": "P"},
    "greedily": {"color": OKABE_ITO["purple"], "marker": "v"},
}
_YARDSTICKS = {
    "own block": {"color": "black", "marker": "s", "markersize": 3, "linestyle": ":", "label": "own block alone"},
    "uniform": method("uniform", linestyle=":", label="uniform sampling and own block"),
    "zero": method("zero", linestyle=":"),
}


def bits_over_context(table: pd.DataFrame, *, unit: str) -> Figure:
    """Held-out bits of the same tokens over the context, and what each doubling of it changes; 99 percent limits.

    Parameters
    ----------
    table : DataFrame
        n, stretched, bits, reach, change, change_reach.
    unit : str
        What a token is: "byte" or "token".
    """
    with paper_style():
        fig = figure(PAGE, 2.6)
        axes = fig.subplots(1, 2)
        for stretched, style in (
            (False, {"label": "within the trained context"}),
            (True, {"label": "beyond it (YaRN)", "markerfacecolor": "white", "linestyle": ":"}),
        ):
            part = table[table["stretched"] == stretched]
            if len(part):
                for ax, name, reach in zip(axes, ("bits", "change"), ("reach", "change_reach"), strict=True):
                    look = {**method("exact"), **style, "elinewidth": 0.7, "capsize": 1.5}
                    ax.errorbar(part["n"], part[name], yerr=part[reach], **look)
        axes[0].set_ylabel(f"held-out bits per {unit}")
        axes[1].set_ylabel("change by the last doubling")
        axes[1].axhline(0, **theory("no change", linestyle=":"))
        for ax in axes:
            ax.set(xscale="log", xlabel="tokens up to the one predicted")
            ticks = list(table["n"])[:: 1 + len(table) // 6]
            ax.xaxis.set_major_locator(FixedLocator(ticks))
            ax.xaxis.set_minor_locator(NullLocator())
            ax.set_xticklabels([str(n) for n in ticks])
        legend_below(fig, *axes, columns=3)
    return fig


def perplexity_over_layers(table: pd.DataFrame, *, unit: str) -> Figure:
    """A column per n: perplexity over the number of replaced layers, and log-perplexity over that of exact attention.

    Below are HyperAttention and the uniform sample alone, with ranges over passages. Above, bars are exact attention's
    mean perplexity to the powers of these: perplexities themselves differ by passage far more than by method.

    Parameters
    ----------
    table : DataFrame
        n, stretched, method, order, replaced, perplexity, relative, low, high.
    unit : str
        What a token is: "byte" or "token".
    """
    with paper_style():
        sizes = sorted(table["n"].unique())
        fig = figure(PAGE, 4.6)
        axes = fig.subplots(2, len(sizes), sharex=True, sharey="row", squeeze=False)
        for (above, below), n in zip(axes.T, sizes, strict=True):
            panel = table[table["n"] == n]
            exact = panel.loc[panel["replaced"] == 0, "perplexity"].iloc[0]
            above.axhline(exact, **method("exact", marker=""))
            below.axhline(1, **method("exact", marker=""))
            for name, style in _ORDERS.items():
                part = panel[(panel["method"] == "hyper practical") & (panel["order"] == name)]
                style = {**style, "label": f"HyperAttention, {name}"}
                _over_layers(above, part, "perplexity", exact ** part[["low", "high"]], style)
                _over_layers(below, part, "relative", part[["low", "high"]], style)
            for name, style in _YARDSTICKS.items():
                part = panel[panel["method"] == name]
                style = {**style, "label": f"{style['label']}, {part['order'].iloc[0]}"}
                _over_layers(above, part, "perplexity", exact ** part[["low", "high"]], style)
                if name == "uniform":  # the others would set the scale
                    _over_layers(below, part, "relative", part[["low", "high"]], style)
            above.set(title=f"n = {n}" + (" (YaRN)" if panel["stretched"].iloc[0] else ""), yscale="log")
            below.set_xlabel("layers replaced")
            below.xaxis.set_major_locator(MaxNLocator(integer=True))
        ticks = [x * 10**i for i in range(5) for x in (1, 1.5, 2, 3, 5, 7)]
        axes[0, 0].yaxis.set_major_locator(FixedLocator(ticks))
        axes[0, 0].yaxis.set_minor_locator(NullLocator())
        axes[0, 0].yaxis.set_major_formatter(mpl.ticker.FormatStrFormatter("%g"))
        axes[0, 0].set_ylim(table["perplexity"].min() / 1.15, table["perplexity"].max() * 1.3)
        axes[0, 0].set_ylabel(f"perplexity of a {unit}")
        axes[1, 0].set_ylabel("log-perplexity / exact")
        legend_below(fig, axes[0, 0], columns=2)
    return fig


def perplexity_for_time(table: pd.DataFrame, *, reported: tuple[float, float]) -> Figure:
    """Time of attention and of the whole pass over the number of replaced layers, and what it costs in log-perplexity.

    Parameters
    ----------
    table : DataFrame
        n, method, order, replaced, relative, low, high, attention, forward (shares of exact attention's seconds); only
        HyperAttention from the last layer on is drawn.
    reported : tuple of float
        Share of the time and relative log-perplexity that the paper reports.
    """
    with paper_style():
        fig = figure(PAGE, 2.5)
        axes = fig.subplots(1, 3)
        shown = table[(table["method"] == "hyper practical") & (table["order"] == "from the last")]
        sizes = sorted(shown["n"].unique())
        for place, n in enumerate(sizes):
            part = shown[shown["n"] == n].sort_values("replaced")
            shade = mpl.colormaps["cividis"](0.8 * place / max(1, len(sizes) - 1))  # darker is shorter
            style = {"color": shade, "marker": "osD^v"[place % 5], "label": f"n = {n}"}
            axes[0].plot(part["replaced"], part["attention"], **style)
            axes[1].plot(part["replaced"], part["forward"], **style)
            _over_layers(axes[2], part, "relative", part[["low", "high"]], style, x="forward")
        axes[2].plot(*reported, linestyle="", marker="*", markersize=8, color="black", label="reported [HA24], n = 32k")
        top = 1.08 * shown[["attention", "forward"]].max().max()
        for ax, what in zip(axes, ("attention", "whole pass"), strict=False):
            ax.set(title=what, xlabel="layers replaced", ylim=(0, top))
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes[0].set_ylabel("seconds / exact")
        axes[2].set(title="price", xlabel="seconds of a pass / exact", ylabel="log-perplexity / exact", xlim=(0, top))
        for ax in axes:
            ax.axhline(1, **method("exact", marker="", linewidth=0.8))
        legend_below(fig, axes[2], columns=5)
    return fig


def _over_layers(
    ax: Axes, part: pd.DataFrame, y: str, limits: pd.DataFrame, style: dict[str, Any], *, x: str = "replaced"
) -> None:
    """One line, in the order of the number of replaced layers, with its limits (columns low, high)."""
    at = part["replaced"].to_numpy().argsort()
    middle, (low, high) = part[y].to_numpy()[at], limits.to_numpy()[at].T
    reach = np.maximum([middle - low, high - middle], 0)
    ax.errorbar(part[x].to_numpy()[at], middle, yerr=reach, elinewidth=0.7, capsize=1.5, **style)
