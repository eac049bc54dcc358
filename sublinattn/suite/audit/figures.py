"""An audit's figures: hardness and theorems' sizes over layers and heads, every method's error on every head."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.colors import LogNorm, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ...plots.heads import head_maps
from ...plots.old_panels import OKABE_ITO, figure
from ...plots.style import METHODS, PAGE, paper_style

_HARDNESS = {
    "alpha": r"$\alpha$",
    "alpha_residual": r"$\alpha$, first 4 keys exact",
    "kappa": r"$\kappa$",
    "srank": "stable rank of $P$",
    "query_norm": r"longest query $\|q\|$",
    "entry_bound": "largest entry $B$",
    "delta_r_log": r"$\delta r / \log n$ at $n/32$ clusters",
    "tail": "error of the best $n/64$ output rows",
}
_GROUPS = {
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
    "subgen_size": "SubGen: rows held",
    "onepass_size": "one pass: rows of the sketch",
    "polynomial_size": "polynomial: monomials",
}
_ANNOTATED = 32
"""Heads up to which errors are written into the cells."""


def audit_hardness(heads: pd.DataFrame) -> Figure:
    """Heat maps over layers and heads of what the theorems assume to be small.

    Parameters
    ----------
    heads : DataFrame
        `lab.audit.Audit.heads`.
    """
    return head_maps(heads, _HARDNESS, groups=_GROUPS)


def audit_theorems(heads: pd.DataFrame) -> Figure:
    """Heat maps of each theorem's size over n, in powers of ten: purple where it is below n, and says something.

    Parameters
    ----------
    heads : DataFrame
        `lab.audit.Audit.heads`.
    """
    with paper_style():
        fig = figure(PAGE, 3.4)
        axes = fig.subplots(2, 2, sharex=True, sharey=True).ravel()
        for ax, (column, title) in zip(axes, _THEOREMS.items(), strict=True):
            decades = np.log10(np.minimum(heads[column] / heads["n"], 1e300))
            cells = heads.assign(decades=decades).pivot(index="layer", columns="head", values="decades")
            reach = max(1.0, float(abs(decades).max()))
            norm = TwoSlopeNorm(0, -min(reach, 2), reach)
            image = ax.pcolormesh(
                cells.columns, cells.index, cells, norm=norm, cmap="PuOr_r", edgecolors="white", linewidth=0.3
            )
            down, across = (np.arange(0, count, -(-count // 8)) for count in cells.shape)
            ax.set(title=title, xlabel="head", ylabel="layer", xticks=across, yticks=down)
            ax.set_ylim(cells.shape[0] - 0.5, -0.5)
            ax.grid(False)
            ax.label_outer()
            fig.colorbar(image, ax=ax, label=r"$\log_{10}(\mathrm{size}/n)$", pad=0.02)
    return fig


def audit_errors(errors: pd.DataFrame, advice: pd.DataFrame) -> Figure:
    """Relative error of every method (rows) on every head (columns); the best cache of a head has a frame, dotted where
    it is not good enough. A dash: no streaming state (`lab.experiments.caches.unbudgeted`).

    Parameters
    ----------
    errors : DataFrame
        `lab.audit.Audit.errors`.
    advice : DataFrame
        `lab.advice.advice`.
    """
    with paper_style():
        table = errors.pivot(index="method", columns=["layer", "head"], values="relative").drop(index="exact")
        table = table.loc[table.median(axis=1).sort_values().index]
        fig = figure(PAGE, 0.9 + 0.24 * len(table))
        ax = fig.subplots()
        shown = np.clip(table.to_numpy(), 1e-3, 10)
        image = ax.imshow(shown, norm=LogNorm(np.nanmin(shown), 10), cmap="cividis", aspect="auto")
        heads = ["{}.{}".format(*place) for place in table.columns.to_list()]
        step = -(-len(heads) // _ANNOTATED)
        ax.set_xticks(range(0, len(heads), step), heads[::step], rotation=90 if len(heads) > 16 else 0)
        ax.set_yticks(range(len(table)), [METHODS[name]["label"] for name in table.index])
        ax.set_xlabel("layer.head")
        ax.grid(False)
        if len(heads) <= _ANNOTATED:
            for (row, column), value in np.ndenumerate(table.to_numpy()):
                colour = "white" if shown[row, column] < 0.5 else "black"
                ax.text(column, row, _short(value), ha="center", va="center", fontsize=4.5, color=colour)
        places = {name: place for place, name in enumerate(table.index)}
        for column, (best, taken) in enumerate(zip(advice["best"], advice["method"], strict=True)):
            corner, line = (column - 0.5, places[best] - 0.5), "-" if taken == best else ":"
            ax.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor="white", linewidth=1.6))
            ax.add_patch(
                Rectangle(corner, 1, 1, fill=False, edgecolor=OKABE_ITO["vermillion"], linewidth=1.0, linestyle=line)
            )
        fig.colorbar(
            image, ax=ax, label=r"$\|\mathrm{out}-\mathrm{Attn}\|_F / \|\mathrm{Attn}\|_F$", pad=0.01, extend="max"
        )
    return fig


def _short(value: float) -> str:
    """Three characters or so: a cell is narrow."""
    if np.isnan(value):
        return "–"
    if value >= 1000:
        return f"1e{int(np.log10(value))}"
    return f"{value:.2f}".lstrip("0") if value < 1 else f"{value:.1f}" if value < 10 else f"{value:.0f}"
