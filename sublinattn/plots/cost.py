"""Time and memory over n, and the stages that the time goes to."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from .old_panels import OKABE_ITO, figure, handles, theory
from .style import PAGE, method, paper_style

_STAGES = {
    "hash": "sky",
    "sort": "purple",
    "gather": "yellow",
    "block": "blue",
    "sample": "vermillion",
    "merge": "green",
    "exact": "orange",
}
_CAUSAL = {False: {"linestyle": "-"}, True: {"linestyle": "-.", "markerfacecolor": "white"}}


def time_and_memory(rows: pd.DataFrame, exponents: pd.DataFrame) -> Figure:
    """Left: seconds, every replicate's range, and the fitted exponents; right: peak bytes.

    Parameters
    ----------
    rows : DataFrame
        quantity ("time", "memory"), method, causal, n, replicate, value.
    exponents : DataFrame
        method, causal, exponent, lower, upper.
    """
    with paper_style():
        fig = figure(PAGE, 3.4)
        left, right = fig.subplots(1, 2)
        for ax, quantity, scale in ((left, "time", 1.0), (right, "memory", 2.0**-20)):
            part = rows[rows["quantity"] == quantity]
            for (name, causal), line in part.groupby(["method", "causal"], sort=False):
                how = str(name)
                table = (line.groupby("n")["value"].agg(["min", "median", "max"]) * scale).reset_index()
                reach = [table["median"] - table["min"], table["max"] - table["median"]]
                label = f"{method(how)['label']}, {'causal' if causal else 'no mask'}"
                if quantity == "time":
                    fit = exponents[(exponents["method"] == how) & (exponents["causal"] == causal)].iloc[0]
                    label += f": $n^{{{fit['exponent']:.2f}}}$ [{fit['lower']:.2f}, {fit['upper']:.2f}]"
                style = {**method(how), **_CAUSAL[bool(causal)], "label": label}
                ax.errorbar(table["n"], table["median"], yerr=reach, elinewidth=0.7, capsize=1.5, **style)
            ax.set(xscale="log", yscale="log", xlabel="tokens $n$")
            _ticks(ax, part["n"])
            ax.yaxis.set_major_locator(LogLocator(10, (1.0,) if quantity == "time" else (1.0, 2.0, 5.0)))
            ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            ax.yaxis.set_minor_formatter(NullFormatter())
        hyper = rows[
            (rows["quantity"] == "time") & (rows["method"] == "hyper practical") & ~rows["causal"].astype(bool)
        ]
        n = np.array(sorted(hyper["n"].unique()), float)
        start = hyper[hyper["n"] == n[0]]["value"].median() * 0.5
        left.plot(n, start * n * np.log(n) / (n[0] * np.log(n[0])), **theory(r"slope of $n \log n$"))
        memory = rows[(rows["quantity"] == "memory")]
        right.plot(n, memory["value"].max() * 2.0**-20 * 1.6 * n / n[-1], **theory("slope of $n$"))
        left.set_ylabel("time (s)")
        right.set_ylabel("peak memory beyond inputs (MiB)")
        found, labels = handles(left)
        more, more_labels = handles(right)
        slope = more_labels.index("slope of $n$")
        fig.legend(
            [*found, more[slope]], [*labels, more_labels[slope]], loc="outside lower center", ncols=2, fontsize=6.5
        )
    return fig


def _ticks(ax: Axes, n: pd.Series) -> None:
    ticks = sorted(n.unique())[:: 2 if n.nunique() > 4 else 1]
    ax.xaxis.set_major_locator(FixedLocator(ticks))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xticklabels([f"{tick // 1024}k" for tick in ticks])


def stage_breakdown(rows: pd.DataFrame) -> Figure:
    """Stacked bars of thread-microseconds per token: level bars are linear time.

    Parameters
    ----------
    rows : DataFrame
        causal, n, stage, seconds.
    """
    with paper_style():
        fig = figure(PAGE, 2.6)
        axes = fig.subplots(1, 2, sharey=True)
        for ax, causal in zip(axes, (False, True), strict=True):
            part = rows[rows["causal"] == causal]
            sizes = sorted(part["n"].unique())
            bottom = np.zeros(len(sizes))
            for stage, color in _STAGES.items():
                seconds = part[part["stage"] == stage].set_index("n").loc[sizes, "seconds"].to_numpy()
                height = 1e6 * seconds / np.array(sizes)
                ax.bar(
                    range(len(sizes)),
                    height,
                    bottom=bottom,
                    color=OKABE_ITO[color],
                    width=0.6,
                    label=stage,
                    edgecolor="white",
                    linewidth=0.3,
                )
                bottom += height
            ax.set_xticks(range(len(sizes)), [f"{n // 1024}k" for n in sizes])
            ax.set(xlabel="tokens $n$", title="causal" if causal else "no mask")
            ax.grid(axis="x", visible=False)
        axes[0].set_ylabel("thread time per token (µs)")
        fig.legend(*handles(axes[0]), loc="outside right upper", reverse=True)
    return fig
