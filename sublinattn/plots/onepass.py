"""Error, memory, and time of the streaming methods over n."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .old_panels import figure, handles, theory
from .style import PAGE, method, paper_style

_BEST: dict[str, Any] = {
    "color": "black",
    "linestyle": ":",
    "marker": "",
    "linewidth": 1.2,
    "label": r"best $k$-sparse answer",
}
_SCAN: dict[str, Any] = {"linestyle": "-.", "markerfacecolor": "white"}


def streaming_over_n(rows: pd.DataFrame) -> Figure:
    """Four panels over n: relative error, bytes held, seconds to absorb, seconds to decode; medians and ranges.

    Parameters
    ----------
    rows : DataFrame
        quantity, method, n, replicate, value, as `lab.experiments.onepass.over_n` gives them.
    """
    with paper_style():
        fig = figure(PAGE, 4.6)
        (error, memory), (absorb, decode) = fig.subplots(2, 2, sharex=True)
        _panel(error, rows, "error", 1.0)
        error.axhline(1.0, **_plain("zero"))
        error.set_ylabel(r"$\|\mathrm{out}-y\|_F\,/\,\|y\|_F$")
        _panel(memory, rows, "bytes", 2.0**-20)
        memory.set_ylabel("bytes held (MiB)")
        _panel(absorb, rows, "absorb", 1.0)
        absorb.set_ylabel("keys and queries read (s)")
        _panel(decode, rows, "decode", 1.0)
        decode.set_ylabel("decoding (s)")
        n = np.array(sorted(rows["n"].unique()), float)
        fused = (
            rows[(rows["quantity"] == "bytes") & (rows["method"] == "one-pass fused")].groupby("n")["value"].median()
        )
        memory.plot(n, 0.6 * 2.0**-20 * fused.iloc[0] * np.log(n) / np.log(n[0]), **theory(r"slope of $\log n$"))
        last = rows[(rows["quantity"] == "absorb") & (rows["method"] == "streaming state")]["value"].max()
        absorb.plot(n, 0.4 * last * n / n[-1], **{**theory("slope of $n$"), "linestyle": (0, (4, 1, 1, 1))})
        for ax in (absorb, decode):
            ax.set_xlabel("tokens $n$")
        fig.legend(*handles(error, memory, absorb, decode), loc="outside lower center", ncols=3)
    return fig


def _plain(name: str) -> dict[str, Any]:
    style = method(name)
    return {"color": style["color"], "label": style["label"], "linewidth": 1.0}


def _panel(ax: Axes, rows: pd.DataFrame, quantity: str, scale: float) -> None:
    part = rows[rows["quantity"] == quantity]
    for name, line in part.groupby("method", sort=False):
        how, _, decoder = str(name).partition(", ")
        table = line.groupby("n")["value"].agg(["min", "median", "max"]) * scale
        table = table[table["median"] > 0]  # a sample of all keys is exact: not on a log axis
        if table.empty:
            continue
        if how == "best k-sparse":
            ax.plot(table.index, table["median"], **_BEST)
            continue
        reach = [table["median"] - table["min"], table["max"] - table["median"]]
        style = method(how)
        if decoder == "scan":
            style = {**style, **_SCAN, "label": f"{style['label']}, by scan"}
        ax.errorbar(table.index, table["median"], yerr=reach, elinewidth=0.7, capsize=1.5, **style)
    ax.set(xscale="log", yscale="log")
    ax.set_xscale("log", base=2)
