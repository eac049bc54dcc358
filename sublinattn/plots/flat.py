"""What a k-sparse answer loses: error and empty rows over how fast outputs fall, tails of outputs, rows of Psi."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from .old_panels import OKABE_ITO, figure, legend_below, lines, theory
from .style import COLUMN, PAGE, method, paper_style

_SPARSE = ("zero", "one-pass paper", "one-pass fused", "best k-sparse")  # those that leave rows 0


def flat_outputs(rows: pd.DataFrame, *, least: float) -> Figure:
    """Relative error, and share of rows that come back as 0, over the decay: medians and ranges over replicates.

    What is exact up to rounding is decades below all else: marks at the lower edge.

    Parameters
    ----------
    rows : DataFrame
        decay, n, method, error, rows_zero, keys.
    least : float
        Share of rows that must come back as 0 from d_v columns of k entries, `1 - k d_v / n`.
    """
    with paper_style():
        fig = figure(PAGE, 3.4)
        left, right = fig.subplots(1, 2)
        exact = (rows["method"] == "exact") | (rows["keys"] == rows["n"])
        styles: dict[str, dict[str, Any]] = {
            "zero": method("zero"),
            "uniform": method("uniform", label="uniform sampling, bytes of fused"),
            "uniform, state's bytes": method(
                "uniform", markerfacecolor="white", linestyle=":", label="uniform sampling, bytes of the state"
            ),
            **{name: method(name) for name in ("one-pass paper", "one-pass fused", "streaming state")},
            "best k-sparse": theory("best $k$-sparse answer", linestyle=":", zorder=5),
        }
        for name, style in styles.items():
            part = rows[(rows["method"] == name) & ~exact]
            if len(part):
                lines(left, _ranges(part, "decay", "error"), "decay", style)
                if name in _SPARSE:
                    lines(right, _ranges(part, "decay", "rows_zero"), "decay", style)
        shown = rows.loc[~exact, "error"]
        left.set(yscale="log", ylim=(shown.min() / 20, 3 * shown.max()), ylabel=r"$\|T - y\|_F\;/\;\|y\|_F$")
        _at_edge(left, rows[exact])
        right.set(ylim=(-0.03, 1.03), ylabel="share of rows that come back as 0")
        right.axhline(least, **theory("least share of rows, $1 - k d_v/n$"))
        right.annotate("all other methods: 0", (0.5, 0.05), xycoords="axes fraction", ha="center")
        decays = sorted(rows["decay"].unique())
        for ax in (left, right):
            ax.set_xlabel("decay of the rows (0: flat)")
            ax.set_xticks(decays, [f"{x:g}" for x in decays])
        legend_below(fig, left, right, columns=2)
    return fig


def _ranges(rows: pd.DataFrame, x: str, value: str) -> pd.DataFrame:
    """Median and whole range: there are few replicates."""
    table = rows.groupby(x)[value].agg(["min", "median", "max"]).reset_index()
    return table.rename(columns={"min": "low", "max": "high"})


def _at_edge(ax: Axes, rows: pd.DataFrame) -> None:
    """Marks at the lower edge: exact attention, and uniform sampling where all keys fit in its bytes."""
    edge = ax.get_ylim()[0]
    at = np.array(sorted(rows["decay"].unique()))
    exact = method("exact", linestyle="none", marker="v", label="exact (rounding)")
    ax.plot(at, np.full(len(at), 1.4 * edge), **exact)
    if (rows["method"] == "uniform").any():
        label = "uniform sampling, bytes of fused: all keys fit"
        ax.plot(at, np.full(len(at), 3.2 * edge), **method("uniform", linestyle="none", label=label))
    note = f"rounding: {rows['error'].max():.0e}"
    ax.annotate(note, (at[-1], 5 * edge), ha="right", fontsize=6)


def compressibility(rows: pd.DataFrame, *, kept: float) -> Figure:
    """Share of |y| outside the k largest entries per column, over k/n: left synthetic inputs, right the real heads.

    Parameters
    ----------
    rows : DataFrame
        input, source, n, replicate, share, tail.
    kept : float
        The k/n to mark.
    """
    with paper_style():
        fig = figure(PAGE, 3.0)
        axes = fig.subplots(1, 2, sharey=True)
        synthetic, real = (rows[rows["source"] == source] for source in ("synthetic", "real"))
        markers = iter("o^sDPX")
        for name, part in synthetic.groupby("input", sort=False):
            table = _band(part)
            style: dict[str, Any] = {"marker": next(markers), "markevery": 6, "label": name}
            (line,) = axes[0].plot(table.index, table["median"], **style)
            axes[0].fill_between(
                table.index, table["low"], table["high"], color=line.get_color(), alpha=0.2, linewidth=0
            )
        table = _band(real)
        sky = OKABE_ITO["sky"]
        axes[1].fill_between(
            table.index, table["min"], table["max"], color=sky, alpha=0.25, linewidth=0, label="all heads"
        )
        axes[1].fill_between(
            table.index, table["low"], table["high"], color=sky, alpha=0.5, linewidth=0, label="10 to 90 %"
        )
        axes[1].plot(table.index, table["median"], color=OKABE_ITO["black"], label="median head")
        for ax, part, title in zip(axes, (synthetic, real), ("synthetic", "real (MiniLM heads)"), strict=True):
            share = np.geomspace(part["share"].min(), 1, 200)
            ax.plot(share, np.sqrt(1 - share), **theory(r"entries of one size: $\sqrt{1 - k/n}$"))
            ax.axvline(kept, color="#777777", linestyle=":", label=f"$k = n/{round(1 / kept)}$")
            ax.set(xscale="log", xlabel="$k/n$", ylim=(0, 1.03), title=f"{title}, n = {part['n'].iloc[0]}")
        axes[0].set_ylabel(r"$\|\mathrm{tail}_k(y)\|_F\;/\;\|y\|_F$")
        legend_below(fig, *axes, columns=3)
    return fig


def _band(rows: pd.DataFrame) -> pd.DataFrame:
    groups = rows.groupby("share")["tail"]
    table = groups.quantile(np.array([0.1, 0.5, 0.9])).unstack().set_axis(["low", "median", "high"], axis=1)
    return table.join(groups.agg(["min", "max"]))


def falling_errors(rows: pd.DataFrame, rates: pd.DataFrame) -> Figure:
    """Error, and bytes held, over n: replicates, and the rate that counts as falling.

    Parameters
    ----------
    rows : DataFrame
        output, n, error, nbytes, cache.
    rates : DataFrame
        output, measured (exponent of n), wanted.
    """
    with paper_style():
        fig = figure(PAGE, 2.8)
        left, right = fig.subplots(1, 2)
        for (output, part), color, marker in zip(
            rows.groupby("output"), ("vermillion", "blue"), ("^", "o"), strict=True
        ):
            style = {"color": OKABE_ITO[color], "marker": marker, "linestyle": "none", "markersize": 2.5, "alpha": 0.6}
            left.plot(part["n"], part["error"], label=f"{output} outputs", **style)
            middle = np.exp([np.log(part["n"]).mean(), np.log(part["error"]).mean()])
            n = np.array([part["n"].min(), part["n"].max()], float)
            rate = rates.set_index("output").loc[output]
            left.plot(
                n, middle[1] * (n / middle[0]) ** rate["measured"], color=OKABE_ITO[color], label=f"fit, {output}"
            )
            left.plot(
                n,
                middle[1] * (n / middle[0]) ** rate["wanted"],
                **theory(f"what counts as falling: $n^{{{rate['wanted']:g}}}$"),
            )
            right.plot(part["n"], part["nbytes"] / 1024, **style)
        left.axhline(1, color=method("zero")["color"], linewidth=1.0, label="answering zero")
        right.plot(rows["n"], rows["cache"] / 1024, **method("exact", marker="", label="the exact cache"))
        left.set_ylabel(r"$\|T - y\|_F\;/\;\|y\|_F$")
        right.set_ylabel("bytes held (KiB)")
        for ax in (left, right):
            ax.set(xscale="log", yscale="log", xlabel="tokens $n$")
            _plain_ticks(ax)
        legend_below(fig, left, right, columns=3)
    return fig


def psi_rows(sizes: pd.DataFrame, fits: pd.DataFrame) -> Figure:
    """Rows of Psi at which its error is that of answering zero, over n, beside the theory's slope and the exact cache.

    Parameters
    ----------
    sizes : DataFrame
        x (n), size (rows; inf where none was found up to the cap).
    fits : DataFrame
        One row: theory (LaTeX), measured, lower, upper, theory_exponent.
    """
    with paper_style():
        fig = figure(COLUMN, 3.0)
        ax = fig.subplots()
        (fit,) = fits.to_dict("records")
        blue = OKABE_ITO["blue"]
        found = sizes[np.isfinite(sizes["size"])]
        n = np.array(sorted(sizes["x"].unique()))
        ax.plot(found["x"], found["size"], "o", color=blue, markersize=2.5, alpha=0.6, label="replicate")
        middle = np.exp([np.log(found["x"]).mean(), np.log(found["size"]).mean()])
        span = f"{fit['measured']:.2f} [{fit['lower']:.2f}, {fit['upper']:.2f}]"
        ax.plot(n, middle[1] * (n / middle[0]) ** fit["measured"], color=blue, label=f"fit, exponent {span}")
        label = f"theory: $n^{{o(1)}}$ as ${fit['theory']}$, exponent {fit['theory_exponent']:.2f}"
        ax.plot(n, middle[1] * (n / middle[0]) ** fit["theory_exponent"], **theory(label))
        ax.plot(n, n, **method("exact", marker="", label="$n$"))
        ax.set(xscale="log", yscale="log", xlabel="tokens $n$", ylabel=r"rows $m_2^*$ of $\Psi$")
        _plain_ticks(ax)
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_xticks(n, [f"{x:.0f}" for x in n])
        legend_below(fig, ax, columns=1)
    return fig


def _plain_ticks(ax: Axes) -> None:
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(LogLocator(10, (1.0, 2.0, 5.0)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())
