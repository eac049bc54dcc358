"""Error of attention by a polynomial over its degree."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from .degree import BASES
from .old_panels import figure, handles, lines, spread, theory
from .style import PAGE, method, paper_style


def error_over_degree(rows: pd.DataFrame) -> Figure:
    """A panel per basis: largest output error over the degree, its bound, and the yardsticks at as many keys.

    Parameters
    ----------
    rows : DataFrame
        method, degree, rank, error, bound, as `lab.experiments.polynomial.over_degree` gives them.
    """
    with paper_style():
        fig = figure(PAGE, 2.8)
        axes = fig.subplots(1, len(BASES), sharey=True)
        shown = rows[rows["error"].notna() & ~((rows["method"] == "uniform") & (rows["rank"] >= rows["n"]))]
        table = spread(shown, ["method", "degree"], "error")  # a sample of all keys is exact, and left out
        bounds = rows.groupby(["method", "degree"])["bound"].first().reset_index()
        for ax, (basis, style) in zip(axes, BASES.items(), strict=True):
            for yardstick in ("uniform", "zero"):
                lines(ax, table[table["method"] == yardstick], "degree", {**method(yardstick), "linewidth": 0.8})
            lines(ax, table[table["method"] == basis], "degree", {**style, "label": "measured"})
            bound = bounds[bounds["method"] == basis]
            ax.plot(bound["degree"], bound["bound"], **theory(r"bound $2\varepsilon$"))
            ax.set(yscale="log", xlabel="degree $g$", title=style["label"])
        axes[0].set_ylabel(r"$\max|\mathrm{out}-\mathrm{Attn}|\,/\,\max|V|$")
        fig.legend(*handles(*axes[:1]), loc="outside lower center", ncols=4)
    return fig
