"""Degree of the polynomial over accuracy and interval, and the rank that follows from it."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .old_panels import OKABE_ITO, figure, legend_below, theory
from .style import PAGE, paper_style

BASES = {
    "taylor": {"color": OKABE_ITO["vermillion"], "marker": "^", "label": "Taylor"},
    "chebyshev": {"color": OKABE_ITO["orange"], "marker": "s", "label": "Chebyshev"},
    "minimax": {"color": OKABE_ITO["blue"], "marker": "o", "label": "minimax"},
}
_SERIES = (("blue", "o"), ("vermillion", "^"), ("green", "s"), ("orange", "D"), ("purple", "v"))
_DOTTED = (0, (1, 1.5))


def degree_curves(rows: pd.DataFrame, laws: pd.DataFrame, constants: pd.DataFrame, leading: pd.DataFrame) -> Figure:
    """Minimal degree over 1/eps and over R with the explicit bound and the law; right, the law's constant.

    Parameters
    ----------
    rows : DataFrame
        varies ("eps", "R"), what (basis, or "explicit"), eps, radius, degree.
    laws : DataFrame
        varies, eps, radius, degree.
    constants, leading : DataFrame
        radius, ratio, constant; and ratio, constant of the leading order.
    """
    with paper_style():
        fig = figure(PAGE, 2.7)
        axes = fig.subplots(1, 3)
        for ax, varies in zip(axes, ("eps", "R"), strict=False):
            part, line = rows[rows["varies"] == varies], laws[laws["varies"] == varies]
            for what, style in BASES.items():
                curve = part[part["what"] == what]
                ax.plot(_abscissa(curve), curve["degree"], **style)
            bound = part[part["what"] == "explicit"]
            ax.plot(_abscissa(bound), bound["degree"], **theory("Taylor's bound"))
            ax.plot(_abscissa(line), line["degree"], **theory("law, constant 1", linestyle=_DOTTED))
            ax.set_xscale("log")
        radius, eps = rows[rows["varies"] == "eps"]["radius"].iloc[0], rows[rows["varies"] == "R"]["eps"].iloc[0]
        axes[0].set(xlabel=r"$1/\varepsilon$", ylabel="smallest degree $g$", title=f"$R = {radius:g}$", ylim=(0, None))
        power = round(np.log10(eps))
        axes[1].set(xlabel="$R$", title=rf"$\varepsilon = 10^{{{power}}}$", yscale="log")
        _constant(axes[2], constants, leading)
        legend_below(fig, *axes[:2], columns=5)
    return fig


def _abscissa(part: pd.DataFrame) -> pd.Series:
    return 1 / part["eps"] if (part["varies"] == "eps").all() else part["radius"]


def _constant(ax: Axes, constants: pd.DataFrame, leading: pd.DataFrame) -> None:
    for (radius, part), (color, marker) in zip(constants.groupby("radius"), _SERIES, strict=False):
        ax.plot(part["ratio"], part["constant"], color=OKABE_ITO[color], marker=marker, label=f"$R = {radius:g}$")
    ax.plot(leading["ratio"], leading["constant"], **theory("leading order"))
    ax.set(xscale="log", xlabel=r"$\log(1/\varepsilon)/R$", title="minimax degree / law", ylim=(0, 1.7))
    ax.legend(loc="lower right", fontsize=6)


def rank_growth(rows: pd.DataFrame, *, columns: float) -> Figure:
    """Monomials (solid) and the paper's bound (dashed) over the degree and over the dimension.

    Parameters
    ----------
    rows : DataFrame
        d, degree, rank, bound.
    columns : float
        Number of keys at which exact attention has as many columns as the polynomial has features: a line.
    """
    with paper_style():
        fig = figure(PAGE, 2.8)
        axes = fig.subplots(1, 2, sharey=True)
        for ax, (x, other, chosen, name) in zip(
            axes, (("degree", "d", (4, 8, 16, 64), "d"), ("d", "degree", (2, 4, 8, 16), "g")), strict=True
        ):
            for value, (color, marker) in zip(chosen, _SERIES, strict=False):
                part = rows[rows[other] == value]
                how = {"color": OKABE_ITO[color], "marker": marker, "markersize": 2.5}
                ax.plot(part[x], part["rank"], **how, label=f"${name} = {value}$")
                ax.plot(part[x], part["bound"], color=OKABE_ITO[color], linestyle="--", linewidth=0.8)
            ax.axhline(columns, color=OKABE_ITO["black"], linewidth=0.8, linestyle=_DOTTED)
            ax.set(yscale="log", ylim=(1, 1e24))
            ax.legend(loc="upper left", ncols=2)
        axes[1].set_xscale("log", base=2)
        axes[0].set(xlabel="degree $g$", ylabel="rank", xticks=range(0, 17, 4))
        axes[1].set(xlabel="dimension $d$")
        axes[1].annotate(
            f"$2^{{{round(np.log2(columns))}}}$\nkeys", (1.02, columns), xycoords=("axes fraction", "data"), va="center"
        )
        fig.legend(
            [
                axes[0].plot([], [], color="grey")[0],
                axes[0].plot([], [], color="grey", linestyle="--", linewidth=0.8)[0],
            ],
            ["rank $C(d+g, g)$", "the paper's bound $C(2(d+g), 2g)$"],
            loc="outside lower center",
            ncols=2,
        )
    return fig
