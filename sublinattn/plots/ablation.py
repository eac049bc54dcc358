"""SubGen taken apart: which part costs what, error over s and t against the theory, and the other settings."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .old_panels import OKABE_ITO, figure, grid, handles, legend_below, lines, theory
from .style import PAGE, method, paper_style

_NUMERATORS: dict[str, dict[str, Any]] = {
    "value-norm": method("value-norm", label="value-norm slots"),
    "uniform": method("uniform", label="uniform slots"),
    "exact": method("exact", label="exact numerator"),
}


def ablation_parts(rows: pd.DataFrame) -> Figure:
    """A panel per input: relative error of every normaliser with every numerator, medians and full ranges.

    An error below 1/10000 (both exact) is drawn at the left edge.

    Parameters
    ----------
    rows : DataFrame
        input, source, replicate, normaliser, numerator ("zero" for both: answering zero), relative.
    """
    with paper_style():
        inputs = list(rows["input"].unique())
        fig = figure(PAGE, 4.4)
        axes = grid(fig, len(inputs), 3, sharex=True, sharey=True)
        names = [name for name in rows["normaliser"].unique() if name != "zero"]
        right = 2 * rows["relative"].quantile(0.995)
        for ax, name in zip(axes, inputs, strict=False):
            part = rows[rows["input"] == name]
            zero = part.loc[part["normaliser"] == "zero", "relative"].median()
            ax.axvline(zero, **method("zero", marker="", linewidth=1.0))
            for place, (numerator, style) in enumerate(_NUMERATORS.items()):
                groups = part[part["numerator"] == numerator].groupby("normaliser")["relative"]
                table = groups.agg(["min", "median", "max"]).clip(lower=1e-4)
                y = [names.index(str(normaliser)) + 0.22 * (place - 1) for normaliser in table.index]
                reach = [table["median"] - table["min"], table["max"] - table["median"]]
                ax.errorbar(
                    table["median"], y, xerr=reach, elinewidth=0.7, capsize=1.5, **{**style, "linestyle": "none"}
                )
            ax.set(xscale="log", xlim=(0.7e-4, right), ylim=(len(names) - 0.5, -0.5), yticks=range(len(names)))
            ax.set_yticklabels(names)
            ax.set_title(name, fontsize=7, fontweight="bold" if (part["source"] == "real").all() else "normal")
            ax.tick_params(labelbottom=True)
        axes[0].set_ylabel("normaliser")
        axes[len(inputs) - 1].set_xlabel(r"$\|\mathrm{out}-\mathrm{Attn}\|_F\;/\;\|\mathrm{Attn}\|_F$")
        if len(axes) > len(inputs):
            axes[-1].legend(*handles(*axes[: len(inputs)]), loc="center")
        else:
            legend_below(fig, *axes, columns=4)
    return fig


def ablation_curves(rows: pd.DataFrame) -> Figure:
    """Error over s (left) and over t (right): of the answer, of the part that varies alone, and the theory's line.

    Parameters
    ----------
    rows : DataFrame
        varies ("s", "t"), replicate, x, what ("answer", "part"), error, law.
    """
    with paper_style():
        fig = figure(PAGE, 2.9)
        axes = fig.subplots(1, 2, sharey=True)
        blue, sky = OKABE_ITO["blue"], OKABE_ITO["sky"]
        titles = {"s": ("slots $s$", "numerator alone"), "t": ("samples per cluster $t$", "normaliser alone")}
        for ax, (varies, (title, part)) in zip(axes, titles.items(), strict=True):
            here = rows[rows["varies"] == varies]
            lines(ax, _ranges(here[here["what"] == "part"], "x", "error"), "x",
                  {"color": sky, "marker": "P", "markersize": 6, "label": part})  # fmt: skip
            lines(ax, _ranges(here[here["what"] == "answer"], "x", "error"), "x",
                  {"color": blue, "marker": "o", "label": "answer"})  # fmt: skip
            law = here.groupby("x")["law"].median()
            label = r"exact law, $\propto s^{-1/2}$" if varies == "s" else r"bound, $\propto t^{-1/2}$"
            ax.plot(law.index, law, **theory(label))
            ax.set(xscale="log", yscale="log", xlabel=title)
            ax.set_xscale("log", base=2)
            ax.legend(loc="lower left" if varies == "s" else "upper right")
        axes[0].set_ylabel(r"error $/\;(\|\mathrm{softmax}(Kq)\|_2\,\|V\|)$")
    return fig


def ablation_settings(rows: pd.DataFrame) -> Figure:
    """Clusters and error over delta, error over the recent window's share of the bytes and over t at equal bytes.

    Parameters
    ----------
    rows : DataFrame
        input, replicate, varies ("delta", "window", "t"), x, relative, clusters, uniform.
    """
    with paper_style():
        fig = figure(PAGE, 4.6)
        axes = fig.subplots(2, 2).ravel()
        panels = (
            ("delta", "clusters", r"$\delta$ / norm of the first key", "clusters / $n$"),
            ("delta", "relative", r"$\delta$ / norm of the first key", "relative error"),
            ("window", "relative", "share of the bytes for the recent window", "relative error"),
            ("t", "relative", "samples per cluster $t$, at equal bytes", "relative error"),
        )
        markers = "os^D"
        for ax, (varies, value, xlabel, ylabel) in zip(axes, panels, strict=True):
            here = rows[rows["varies"] == varies]
            for number, (name, part) in enumerate(here.groupby("input", sort=False)):
                color = f"C{number}"
                shift = 0.01 * (number - 1.5) if varies == "window" else 1.03 ** (number - 1.5)
                table = _ranges(part, "x", value)
                table["x"] = table["x"] + shift if varies == "window" else table["x"] * shift
                lines(ax, table, "x", {"color": color, "marker": markers[number % 4], "label": str(name)})
                if value == "relative" and varies != "delta":  # of other bytes there
                    ax.axhline(part["uniform"].median(), color=color, linestyle=":", linewidth=0.9)
            if value == "relative":
                _zero(ax)
            ax.set(yscale="log", xlabel=xlabel, ylabel=ylabel)
            if varies != "window":
                ax.set_xscale("log", base=2)
        axes[-1].plot([], [], color="#444444", linestyle=":", linewidth=0.9, label="uniform sampling, same bytes")
        fig.legend(*handles(axes[0], axes[-1]), loc="outside lower center", ncols=3)
    return fig


def _zero(ax: Axes) -> None:
    ax.axhline(1.0, **method("zero", marker="", linewidth=1.0))


def _ranges(rows: pd.DataFrame, x: str, value: str) -> pd.DataFrame:
    """Median and full range: there are few replicates."""
    table = rows.groupby(x)[value].agg(["min", "median", "max"]).reset_index()
    return table.rename(columns={"min": "low", "max": "high"}).replace(np.inf, np.nan)
