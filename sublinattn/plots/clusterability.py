"""Clusters of keys and values: cost of greedy k-center, clusters over delta and over n, delta found online."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from .old_panels import OKABE_ITO, figure, legend_below, lines, spread, theory
from .style import PAGE, paper_style

_WHAT: dict[str, dict[str, Any]] = {
    "keys": {"color": OKABE_ITO["blue"], "marker": "o", "label": "keys, real heads"},
    "values": {"color": OKABE_ITO["vermillion"], "marker": "^", "label": "values, real heads"},
    "keys before the rotation": {"color": OKABE_ITO["sky"], "marker": "s", "label": "keys before the rotation"},
}
_SYNTHETIC = tuple(
    zip((*(OKABE_ITO[c] for c in ("green", "orange", "purple", "sky")), "#882255"), "sDvPx", strict=True)
)


def _styles(rows: pd.DataFrame) -> Iterator[tuple[pd.DataFrame, dict[str, Any]]]:
    """The keys of each input, and how they are drawn: the same in every figure."""
    looks = iter(_SYNTHETIC)
    for name, part in rows.groupby("input", sort=False):
        if (part["source"] == "real").all():
            yield part, {**_WHAT["keys"], "linewidth": 1.8}
        else:
            color, marker = next(looks)
            yield part, {"color": color, "marker": marker, "label": f"keys, {name}"}


def _sets(real: pd.DataFrame) -> list[tuple[pd.DataFrame, dict[str, Any]]]:
    """What there is of the real heads, and how it is drawn."""
    return [(real[real["what"] == what], style) for what, style in _WHAT.items() if (real["what"] == what).any()]


def _band(ax: Axes, table: pd.DataFrame, x: str, style: dict[str, Any]) -> None:
    """Medians as a line, their 10 to 90 percent range as a band."""
    table = table.dropna().sort_values(x)
    ax.plot(table[x], table["median"], **style)
    ax.fill_between(table[x], table["low"], table["high"], color=style["color"], alpha=0.15, linewidth=0)


def kcenter_curves(rows: pd.DataFrame, *, captured: str, null: str, at: float) -> Figure:
    """Cost over m/n: left keys and values of the real heads, with their Gaussian twins; right synthetic keys.

    Parameters
    ----------
    rows : DataFrame
        input, source, what, variant, share, radius.
    captured, null : str
        Names of the variants to draw: the points themselves, and their twins.
    at : float
        The m/n at which inputs are compared.
    """
    with paper_style():
        fig = figure(PAGE, 3.1)
        left, right = fig.subplots(1, 2, sharey=True)
        real, synthetic = (rows[rows["source"] == source] for source in ("real", "synthetic"))
        for part, style in _sets(real):
            mine = spread(part, ["variant", "share"], "radius")
            _band(left, mine[mine["variant"] == captured], "share", {**style, "markevery": 2})
            twin = mine[mine["variant"] == null].sort_values("share")
            left.plot(twin["share"], twin["median"], color=style["color"], linestyle=":", marker="")
        left.plot([], [], color="#777777", linestyle=":", marker="", label=null)
        for part, style in _styles(synthetic):
            _band(right, spread(part, ["share"], "radius"), "share", {**style, "markevery": 2})
        for ax, title in ((left, real["input"].iloc[0]), (right, "synthetic")):
            ax.axvline(at, color=OKABE_ITO["black"], linewidth=0.6, linestyle="-.", label=f"$m = n/{1 / at:.0f}$")
            ax.set(xscale="log", xlabel="centres per point $m/n$", title=title)
        left.set(ylim=(0, None), ylabel="covering radius / largest distance")
        legend_below(fig, left, right, columns=3)
    return fig


def clusters_over_delta(rows: pd.DataFrame) -> Figure:
    """Top: clusters per point over delta; bottom: largest diameter of a cluster over delta, and the bound 2.

    Parameters
    ----------
    rows : DataFrame
        input, source, what, relative, share, widest.
    """
    with paper_style():
        fig = figure(PAGE, 4.2)
        axes = fig.subplots(2, 2, sharex=True, sharey="row")
        real, synthetic = (rows[rows["source"] == source] for source in ("real", "synthetic"))
        parts = [(0, part, style) for part, style in _sets(real)]
        parts += [(1, part, style) for part, style in _styles(synthetic)]
        for column, part, style in parts:
            for ax, value in zip(axes[:, column], ("share", "widest"), strict=True):
                _band(ax, spread(part, ["relative"], value), "relative", style)
        for ax, title in zip(axes[0], (real["input"].iloc[0], "synthetic"), strict=True):
            ax.set(xscale="log", yscale="log", title=title)
        for ax in axes[1]:
            ax.axhline(2, **theory("bound: $2\\delta$"))
            ax.set(ylim=(0, 2.2), xlabel=r"$\delta$ / largest distance")
            ax.xaxis.set_major_locator(LogLocator(10, (1.0, 2.0, 5.0)))
            ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            ax.xaxis.set_minor_locator(NullLocator())
        axes[0, 0].set_ylabel("clusters per point $m/n$")
        axes[1, 0].set_ylabel(r"widest cluster / $\delta$")
        legend_below(fig, *axes.ravel(), columns=3)
    return fig


def clusters_over_n(rows: pd.DataFrame) -> Figure:
    """Left: clusters at a fixed delta; right: `delta r / log n` at m = n/8; medians and 10 to 90 percent ranges.

    Parameters
    ----------
    rows : DataFrame
        input, source, n, clusters, ratio, parts.
    """
    with paper_style():
        fig = figure(PAGE, 3.2)
        left, right = fig.subplots(1, 2)
        for part, style in _styles(rows):
            lines(left, spread(part, ["n"], "clusters"), "n", style)
            lines(right, spread(part, ["n"], "ratio"), "n", style)
            if part["parts"].notna().all():
                known = part.groupby("n")["parts"].first()
                left.plot(known.index, known, **theory("parts that the stream has", zorder=5))
        for ax in (left, right):
            ax.set(xscale="log", yscale="log", xlabel="tokens $n$")
            _lengths(ax, rows["n"])
        left.set_ylabel(r"clusters at a fixed $\delta$")
        right.set_ylabel(r"$\delta r\,/\,\log n$ at $m = n/8$")
        legend_below(fig, left, right, columns=3)
    return fig


def _lengths(ax: Axes, n: pd.Series) -> None:
    ticks = [64, *sorted(tick for tick in n.unique() if tick > 64 and np.log2(tick / 128) % 2 == 0)]
    ax.xaxis.set_major_locator(FixedLocator(ticks))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xticklabels([f"{tick // 1024}k" if tick >= 10240 else str(tick) for tick in ticks])


def online_radius(rows: pd.DataFrame, *, promise: float) -> Figure:
    """Radius of the clusters that doubling delta finds, over the greedy one: what it promises, and what it reaches.

    Parameters
    ----------
    rows : DataFrame
        input, source, share, promised, reached.
    promise : float
        Factor of the least possible radius that doubling cannot exceed.
    """
    with paper_style():
        fig = figure(PAGE, 3.2)
        axes = fig.subplots(1, 2, sharey=True)
        offsets = np.geomspace(0.93, 1.075, rows["input"].nunique())  # so that error bars do not hide each other
        for (part, style), offset in zip(_styles(rows), offsets, strict=True):
            for ax, value in zip(axes, ("promised", "reached"), strict=True):
                table = spread(part, ["share"], value)
                lines(ax, table.assign(share=table["share"] * offset), "share", style)
        ticks = sorted(rows["share"].unique())
        for ax, title in zip(axes, ("promised (the cache's radius)", "reached"), strict=True):
            ax.axhline(promise, **theory(f"{promise:g} times the least possible radius, at most"))
            ax.axhline(1, color=OKABE_ITO["black"], linewidth=0.6, linestyle=":", label="greedy, offline")
            ax.set(xscale="log", yscale="log", xlabel="clusters allowed per token $m/n$", title=title)
            ax.set_xticks(ticks, [f"1/{1 / tick:.0f}" for tick in ticks])
            ax.xaxis.set_minor_locator(NullLocator())
            ax.yaxis.set_major_locator(FixedLocator([0.5, 1, 2, 4, 8]))
            ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            ax.yaxis.set_minor_locator(NullLocator())
            ax.set_ylim(0.45, 10)
        axes[0].set_ylabel("radius / radius of greedy k-center")
        legend_below(fig, *axes, columns=3)
    return fig
