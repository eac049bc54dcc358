"""The phase picture: the rank that accuracy 1/n takes, over n, B/sqrt(log n) and d/log n [AS23, Theorem 1.4].

Notebook 07.
"""

from __future__ import annotations

import math
import re

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from ....lab.run import Run
from ....plots.panels import finish, grid, theory_line
from ....plots.style import LOOKS, paper_style
from ..claims.corollary2_2_degree import crossing
from ..claims.theorem1_4_phase import log_rank

MEASURED = (10, 20, 40)
"""log2 of the n of the pictures by the measured degree."""
EXPLICIT = {"2^40": 40 * math.log(2), "10^1000": 1000 * math.log(10), "10^(10^6)": 1e6 * math.log(10)}
"""log n of those by Taylor's bound; the first one is measured as well, for comparison."""
LAST_MEASURED = 600.0  # of log n: float64 has no smaller eps
NAMES = {"minimax": "minimax, measured", "explicit": "Taylor's bound"}
EXPONENTS = (0.25, 0.5, 1, 2, 4, 8)  # of n, named on the colour bar

# How B grows with log n: name, factor, exponent.
REGIMES = (
    ("B = 1", 1.0, 0.0),
    ("B = (log n)^(1/4)", 1.0, 0.25),
    ("B = sqrt(log n) / 2", 0.5, 0.5),
    ("B = sqrt(log n)", 1.0, 0.5),
)


def exponent(polynomial: str, log_n: float, radius: float, d: float) -> float:
    """`log t / log n` for accuracy 1/n on [-R, R]; the degree is interpolated."""
    return log_rank(d, crossing(polynomial, log_n, radius)) / log_n


def maps(run: Run) -> pd.DataFrame:
    """`log t / log n` over the plane, by the measured minimax degree and by Taylor's explicit bound.

    Returns
    -------
    DataFrame
        polynomial ("minimax", "explicit"), size (n, in words), log_n, entries (B/sqrt(log n)), width (d/log n, not
        rounded to a whole d), degree, exponent.

    Notes
    -----
    Parameters of the run: points along each axis, largest_width, powers (log2 of the n at which the degree is
    measured).
    """
    points = run.given("points", run.pick(smoke=11, standard=21, full=41))
    largest_width = run.given("largest_width", 10)
    measured = {f"2^{power}": power * math.log(2) for power in run.given("powers", MEASURED)}
    rows = []
    for polynomial, sizes in (("minimax", measured), ("explicit", EXPLICIT)):
        for size, log_n in sizes.items():
            for entries in np.geomspace(0.1, 1, points):
                degree = crossing(polynomial, log_n, float(entries**2 * log_n))
                for width in np.geomspace(0.1, largest_width, points):
                    value = log_rank(width * log_n, degree) / log_n
                    rows.append((polynomial, size, log_n, entries, width, degree, value))
    columns = ["polynomial", "size", "log_n", "entries", "width", "degree", "exponent"]
    return pd.DataFrame(rows, columns=columns)


def share_below(table: pd.DataFrame) -> pd.DataFrame:
    """For each picture the largest d/log n at which `t < n`, at the smallest and at the largest B/sqrt(log n)."""
    below = table[table["exponent"] < 1]
    ends = {"small B": table["entries"].min(), "B = sqrt(log n)": table["entries"].max()}
    widest = {
        name: below[np.isclose(below["entries"], b)].groupby(["polynomial", "size"], sort=False)["width"].max()
        for name, b in ends.items()
    }
    return pd.DataFrame(widest).reindex(table.set_index(["polynomial", "size"]).index.unique())


def curves(run: Run) -> pd.DataFrame:
    """`log t / log n` over n at d = log n, for each way in which B may grow.

    Returns
    -------
    DataFrame
        regime, polynomial, log_n, exponent. The minimax degree is measured where R is at most 30 and log n at most
        LAST_MEASURED; Taylor's explicit bound covers all n.
    """
    return run.table(_curve, REGIMES, ["regime", "polynomial", "log_n", "exponent"])


def _curve(run: Run, regime: str, factor: float, power: float) -> list[tuple[str, str, float, float]]:
    """The rows of `curves` of one regime."""
    last = run.pick(smoke=250.0, standard=LAST_MEASURED, full=LAST_MEASURED)
    points = run.pick(smoke=8, standard=16, full=24)
    rows = []
    sizes = [("explicit", x) for x in np.geomspace(7, 1e9, 100)]
    sizes += [("minimax", x) for x in np.geomspace(7, last, points) if factor**2 * x ** (2 * power) <= 30]
    for polynomial, log_n in sizes:
        radius = factor**2 * log_n ** (2 * power)
        rows.append((regime, polynomial, log_n, exponent(polynomial, float(log_n), float(radius), log_n)))
    return rows


def onsets(table: pd.DataFrame) -> pd.DataFrame:
    """`log10 n` from which `t < n` on, for each regime and polynomial (interpolated; inf: not up to the largest n)."""
    rows = []
    for (regime, polynomial), curve in table.groupby(["regime", "polynomial"], sort=False):
        x, y = np.log(curve["log_n"].to_numpy()), curve["exponent"].to_numpy()
        above = np.flatnonzero(y >= 1)
        if not above.size:
            where = x[0]
        elif above[-1] == len(y) - 1:
            where = math.inf
        else:
            i = above[-1]
            where = x[i] + (y[i] - 1) / (y[i] - y[i + 1]) * (x[i + 1] - x[i])
        largest = float(curve["log_n"].max()) / math.log(10)
        rows.append((regime, polynomial, math.exp(where) / math.log(10), largest))
    return pd.DataFrame(rows, columns=["regime", "polynomial", "log10 n from which t < n", "largest log10 n"])


# -------------------------------------------------------------------------------------------------------------- figures
@paper_style()
def draw_maps(rows: pd.DataFrame) -> Figure:
    """A row of panels per polynomial of `maps`, a panel per n; white lines where t = sqrt(n) (dashed) and t = n."""
    pictures = rows.groupby(["polynomial", "size"], sort=False)
    fig, axes = grid(pictures.ngroups, columns=3, height=1.95, sharex=True, sharey=True)
    norm = LogNorm(EXPONENTS[0], EXPONENTS[-1])
    for ax, ((kind, size), cells) in zip(axes, pictures, strict=True):
        table = cells.pivot(index="width", columns="entries", values="exponent")
        image = ax.pcolormesh(table.columns, table.index, table, norm=norm, shading="gouraud", rasterized=True)
        lines = ax.contour(table.columns, table.index, table, (0.5, 1.0), colors="white", linestyles=("--", "-"))
        ax.clabel(lines, fmt={0.5: r"$t = \sqrt{n}$", 1.0: "$t = n$"}, fontsize=6)
        in_tex = re.sub(r"\^(\d+)", r"^{\1}", str(size)).replace("(", "{").replace(")", "}")
        ax.set(xscale="log", yscale="log", title=f"$n = {in_tex}$\n{NAMES[str(kind)]}")
        ax.grid(False)
        _mark_head_dimension(ax, 64 / float(cells["log_n"].iloc[0]), table.index)
    for ax in axes[-3:]:
        ax.set_xlabel(r"$B/\sqrt{\log n}$")
        ax.xaxis.set_minor_formatter(NullFormatter())
    for ax in axes[::3]:
        ax.set_ylabel(r"$d/\log n$")
    bar = fig.colorbar(image, ax=axes, label=r"$\log t/\log n$", extend="both", pad=0.02)
    bar.set_ticks(EXPONENTS, labels=[f"{tick:g}" for tick in EXPONENTS])
    bar.minorticks_off()
    return fig


def _mark_head_dimension(ax: Axes, width: float, widths: pd.Index) -> None:
    """A line at d = 64, where the panel has it."""
    if widths.min() <= width <= widths.max():
        ax.axhline(width, color=LOOKS["orange"]["color"], linewidth=0.8)
        ax.annotate("$d = 64$", (1, width), (-2, -2), textcoords="offset points", ha="right", va="top", fontsize=6)


@paper_style()
def draw_curves(rows: pd.DataFrame) -> Figure:
    """`curves`, a colour per regime of B: lines by Taylor's bound, markers by the minimax polynomial as measured."""
    fig, (ax,) = grid(1, columns=1, height=2.6)
    for (regime, part), look in zip(
        rows.groupby("regime", sort=False), ("blue", "green", "orange", "brown"), strict=True
    ):
        bound, measured = (part[part["polynomial"] == kind] for kind in ("explicit", "minimax"))
        ax.plot(bound["log_n"], bound["exponent"], color=LOOKS[look]["color"], label=regime)
        ax.plot(measured["log_n"], measured["exponent"], linewidth=0.6, **LOOKS[look])
    below = rows[(rows["regime"] == REGIMES[1][0]) & (rows["polynomial"] == "explicit")]
    x = below["log_n"][below["log_n"] > 100].to_numpy()
    shape = np.log(np.log(x)) / np.log(x)
    theory_line(ax, x, shape * below["exponent"].iloc[-1] / shape[-1], r"$\propto\log\log\log n/\log\log n$")
    ax.axhline(1, color="black", linewidth=0.8)
    ax.annotate("$t = n$", (1e9, 1), (0, 2), textcoords="offset points", ha="right", fontsize=7)
    for power in (10, 20, 40):
        ax.axvline(power * np.log(2), color="#777777", linewidth=0.6, linestyle=(0, (1, 1.5)))
        ax.annotate(f"$n = 2^{{{power}}}$", (power * np.log(2), 0.27), rotation=90, ha="right", fontsize=6)
    ax.set(xscale="log", yscale="log", xlabel=r"$\log n$", ylabel=r"$\log t/\log n$ at $d = \log n$")
    ax.plot([], [], color="grey", label="by Taylor's bound")
    ax.plot([], [], color="grey", marker="o", linewidth=0.6, label="minimax, measured")
    finish(fig)
    ax.set_yticks(EXPONENTS[:-1], [f"{tick:g}" for tick in EXPONENTS[:-1]])
    ax.minorticks_off()
    return fig
