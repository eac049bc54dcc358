"""The phase picture: log t / log n over the plane of entries and width, and over n."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from .old_panels import OKABE_ITO, figure, theory
from .style import PAGE, paper_style

_POLYNOMIALS = {"minimax": "minimax, measured", "explicit": "Taylor's bound"}
_SERIES = (("blue", "o"), ("green", "s"), ("orange", "D"), ("vermillion", "^"))
_TICKS = (0.25, 0.5, 1, 2, 4, 8)


def phase_maps(rows: pd.DataFrame) -> Figure:
    """A panel per n, a row per polynomial; white lines at `log t / log n` = 1/2 (dashed) and 1 (solid: t = n).

    Parameters
    ----------
    rows : DataFrame
        polynomial, size, log_n, entries (B/sqrt(log n)), width (d/log n), exponent.
    """
    with paper_style():
        fig = figure(PAGE, 3.9)
        kinds = list(rows["polynomial"].unique())
        axes = fig.subplots(len(kinds), 3, sharex=True, sharey=True, squeeze=False)
        norm = LogNorm(_TICKS[0], _TICKS[-1])
        for row, kind in zip(axes, kinds, strict=True):
            part = rows[rows["polynomial"] == kind]
            for ax, (size, cells) in zip(row, part.groupby("size", sort=False), strict=True):
                table = cells.pivot(index="width", columns="entries", values="exponent")
                image = ax.pcolormesh(table.columns, table.index, table, norm=norm, shading="gouraud", rasterized=True)
                lines = ax.contour(
                    table.columns, table.index, table, levels=(0.5, 1.0), colors="white", linestyles=("--", "-")
                )
                ax.clabel(lines, fmt={0.5: r"$t = \sqrt{n}$", 1.0: "$t = n$"}, fontsize=6)
                ax.set(xscale="log", yscale="log", title=f"$n = {_power(str(size))}$\n{_POLYNOMIALS[str(kind)]}")
                ax.grid(False)
                _width_of_a_head(ax, float(cells["log_n"].iloc[0]), table.index)
        for ax in axes[-1]:
            ax.set_xlabel(r"$B/\sqrt{\log n}$")
            ax.xaxis.set_minor_formatter(NullFormatter())
        for ax in axes[:, 0]:
            ax.set_ylabel(r"$d/\log n$")
        bar = fig.colorbar(image, ax=axes, label=r"$\log t/\log n$", extend="both", pad=0.02)
        bar.set_ticks(_TICKS, labels=[f"{tick:g}" for tick in _TICKS])
        bar.minorticks_off()
    return fig


def _power(size: str) -> str:
    """`10^(10^6)` in TeX."""
    return re.sub(r"\^(\d+)", r"^{\1}", size).replace("(", "{").replace(")", "}")


def _width_of_a_head(ax: Axes, log_n: float, widths: Iterable[float]) -> None:
    """Where d = 64 lies, if it does."""
    place, shown = 64 / log_n, list(widths)
    if shown[0] <= place <= shown[-1]:
        ax.axhline(place, color=OKABE_ITO["orange"], linewidth=0.8)
        ax.annotate("$d = 64$", (1, place), (-2, -2), textcoords="offset points", ha="right", va="top", fontsize=6)


def phase_curves(rows: pd.DataFrame) -> Figure:
    """`log t / log n` over log n for each regime of B: lines by Taylor's bound, markers by the minimax polynomial.

    Parameters
    ----------
    rows : DataFrame
        regime, polynomial, log_n, exponent.
    """
    with paper_style():
        fig = figure(PAGE, 3.2)
        ax = fig.subplots()
        for (regime, part), (color, marker) in zip(rows.groupby("regime", sort=False), _SERIES, strict=True):
            bound, measured = (part[part["polynomial"] == kind] for kind in ("explicit", "minimax"))
            ax.plot(bound["log_n"], bound["exponent"], color=OKABE_ITO[color], label=regime)
            ax.plot(measured["log_n"], measured["exponent"], color=OKABE_ITO[color], marker=marker, linewidth=0.6)
        below = rows[(rows["regime"] == rows["regime"].unique()[1]) & (rows["polynomial"] == "explicit")]
        x = below["log_n"][below["log_n"] > 100].to_numpy()
        shape = np.log(np.log(x)) / np.log(x)
        ax.plot(x, shape * below["exponent"].iloc[-1] / shape[-1], **theory(r"$\propto\log\log\log n/\log\log n$"))
        ax.axhline(1, color=OKABE_ITO["black"], linewidth=0.8)
        ax.annotate("$t = n$", (1e9, 1), (0, 2), textcoords="offset points", ha="right", fontsize=7)
        for power in (10, 20, 40):
            ax.axvline(power * np.log(2), color="#777777", linewidth=0.6, linestyle=(0, (1, 1.5)))
            ax.annotate(f"$n = 2^{{{power}}}$", (power * np.log(2), 0.27), rotation=90, ha="right", fontsize=6)
        ax.set(xscale="log", yscale="log", xlabel=r"$\log n$", ylabel=r"$\log t/\log n$ at $d = \log n$")
        ticks = (0.25, 0.5, 1, 2, 4)
        ax.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        ax.minorticks_off()
        ax.plot([], [], color="grey", label="by Taylor's bound")
        ax.plot([], [], color="grey", marker="o", linewidth=0.6, label="minimax, measured")
        fig.legend(loc="outside lower center", ncols=4)
    return fig
