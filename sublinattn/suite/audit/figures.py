"""The figures of an audit: the advice, what it saves over the tolerance, errors, hardness, and the theorems' sizes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ...plots.heads import head_maps
from ...plots.panels import facets, finish, grid
from ...plots.style import METHODS, paper_style
from .advice import choices, share_text
from .measure import Audit

BEST = "best of all"
LARGE = 2
"""Larger errors have the colour of this one: twice what answering zero has."""
TOLERANCES = tuple(np.geomspace(0.01, 1, 41))

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


def errors(measured: pd.DataFrame, share: float) -> Figure:
    """Relative error of every method at one share, a map over layers and query heads each; the most accurate first.

    Parameters
    ----------
    measured : DataFrame
        `Audit.errors`.
    share : float
        One of those measured.
    """
    rows = measured[(measured["share"] == share) & (measured["method"] != "exact")]
    order = rows.groupby("method")["relative"].median().sort_values().index
    table = rows.pivot(index=["layer", "head"], columns="method", values="relative").clip(1e-3, LARGE).reset_index()
    label = "relative error"
    return head_maps(table, {name: METHODS[name]["label"] for name in order}, groups={label: tuple(order)})


@paper_style()
def advised(recommended: pd.DataFrame) -> Figure:
    """What each key head takes: its method as a colour, its share as text; layers across, key heads down.

    Parameters
    ----------
    recommended : DataFrame
        What `advice` gives.
    """
    names = [name for name in METHODS if name in set(recommended["method"])]
    cells = recommended.assign(code=recommended["method"].map(names.index))
    codes, shares = (cells.pivot(index="key_head", columns="layer", values=name) for name in ("code", "share"))
    fig, (ax,) = grid(1, 1, height=0.75 + 0.17 * len(codes))
    colours = ["white" if name == "exact" else METHODS[name]["color"] for name in names]
    ax.pcolormesh(codes.to_numpy(), cmap=ListedColormap(colours), vmin=-0.5, vmax=len(names) - 0.5, edgecolor="#BBBBBB")
    for row, (_, its) in enumerate(shares.iterrows()):
        for column, share in enumerate(its):
            colour = "#999999" if share == 1 else "white"
            ax.text(column + 0.5, row + 0.5, share_text(share), ha="center", va="center", fontsize=4.5, color=colour)
    ax.set(xlabel="layer", ylabel="key head", xlim=(0, codes.shape[1]), ylim=(len(codes), 0))
    ax.set_yticks(np.arange(len(codes)) + 0.5, codes.index)
    step = max(1, codes.shape[1] // 15)
    ax.set_xticks(np.arange(0, codes.shape[1], step) + 0.5, codes.columns[::step])
    ax.grid(False)
    for name, colour in zip(names, colours, strict=True):
        ax.scatter([], [], marker="s", color=colour, edgecolor="#BBBBBB", label=METHODS[name]["label"])
    finish(fig)
    return fig


def saved_by_tolerance(audit: Audit, tolerances: Sequence[float] = TOLERANCES) -> pd.DataFrame:
    """Bytes that remain when every key head takes the least share within a tolerance.

    Returns
    -------
    DataFrame
        method ("best of all", or one method alone beside the exact cache), tolerance, share (bytes of all caches over
        the exact ones').
    """
    table, rows = choices(audit), []
    exact = table.loc[table["method"] == "exact", "nbytes"].sum()
    for method in [BEST, *(name for name in table["method"].unique() if name != "exact")]:
        its = table if method == BEST else table[table["method"].isin([method, "exact"])]
        for tolerance in tolerances:
            least = its[its["error"] <= tolerance].groupby(["layer", "key_head"])["nbytes"].min()
            rows.append({"method": method, "tolerance": tolerance, "share": least.sum() / exact})
    return pd.DataFrame(rows)


@paper_style()
def tolerances(audit: Audit, tolerance: float) -> Figure:
    """Bytes of all caches over the tolerance: the best method for each key head, and each method alone.

    Parameters
    ----------
    audit : Audit
    tolerance : float
        Marked by a line.
    """
    rows = saved_by_tolerance(audit)
    alone = [name for name in METHODS if name in set(rows["method"])]
    looks = {name: {**METHODS[name], "marker": "", "linewidth": 1.0} for name in alone}
    looks[BEST] = {"color": "black", "linewidth": 1.8, "marker": "", "label": "best method for each key head"}
    return facets(
        rows, x="tolerance", y="share", hue="method", looks=looks, interval=0, logx=True, ylim=(0, 1.05), height=2.6,
        xlabel="largest relative error of a query head", ylabel="bytes of all caches / exact",
        each=lambda ax, _: ax.axvline(tolerance, color="#999999", linestyle=":", linewidth=0.8),
    )  # fmt: skip
