"""Notebook 20: tables, findings and figures of replaced layers, as `perplexity` measures them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ....lab.statistics import mean_and_reach
from ....plots.layout import ticks
from ....plots.panels import facets, finish, grid, theory_line
from ....plots.style import LOOKS, method, paper_style
from ..claims.replaced_layers import (
    HYPER,
    HYPER_HEAVY,
    HYPER_SINKS,
    LOCAL,
    SINKS,
    UNIFORM,
    UNIFORM_SINKS,
    WINDOW,
    ZERO,
)
from .perplexity import ALPHA, ERROR, FIRST, GREEDY, HARM, HYPER_64, LAST, NONE_EXACT, ORDERED, REPORTED, SOME_EXACT

NAMES = {
    HYPER: "HyperAttention",
    HYPER_SINKS: f"HyperAttention, first {SINKS}",
    HYPER_64: "HyperAttention, first 64",
    HYPER_HEAVY: f"HyperAttention, heaviest {SINKS}",
    UNIFORM: "uniform sampling",
    UNIFORM_SINKS: f"uniform sampling, first {SINKS}",
    LOCAL: "own block",
    WINDOW: f"window, first {SINKS}",
    ZERO: "answering zero",
}
"""Methods as lines and sentences name them."""


# ------------------------------------------------------------------------------------------------------------- numbers
def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """One line per n, method, order and number of replaced layers.

    Returns
    -------
    DataFrame
        n, stretched, method, order, replaced, passages, perplexity (of a token: e to the power of the mean loss in nats
        over all passages), base2 (2 to that power, as the authors' public code has it), bits (per token), relative
        (mean over passages of log-perplexity over that of exact attention on the same passage) with lower and upper (99
        percent t-limits; nan for one or two passages), low and high (over passages), and attention and forward: seconds
        of the fastest passage, as a share of exact attention's.
    """
    seconds = ["attention", "forward"]
    by = ["n", "stretched", "method", "order", "replaced"]
    unreplaced = rows[rows["replaced"] == 0]
    exact: dict[Any, Any] = {n: part[seconds].min() for n, part in unreplaced.groupby("n")}
    lines = []
    for (n, *what), part in rows.groupby(by, sort=False):
        nats, relative = part["nats"].mean(), part["relative"].to_numpy()
        middle, reach = mean_and_reach(relative) if len(part) > 2 else (relative.mean(), np.nan)
        shares = part[seconds].min() / exact[n]
        means = (np.exp(nats), 2**nats, nats / np.log(2))
        limits = (middle - reach, middle + reach, relative.min(), relative.max())
        lines.append((n, *what, len(part), *means, middle, *limits, *shares))
    columns = [*by, "passages", "perplexity", "base2", "bits", "relative"]
    return pd.DataFrame(lines, columns=[*columns, "lower", "upper", "low", "high", *seconds])


def by_text(rows: pd.DataFrame) -> pd.DataFrame:
    """`relative` of half and of all of the layers, from the last on: a line per kind of text, number and method."""
    layers = rows["replaced"].max()
    part = rows[(rows["order"] == LAST) & rows["replaced"].isin((layers // 2, layers))]
    return part.pivot_table("relative", ["text", "replaced", "method"], "n", sort=False)


Lines = Mapping[tuple[int, str, str, int], Any]
"""The lines of a `summary`, each a mapping, by n, method, order and number of replaced layers."""


def findings(table: pd.DataFrame, *, unit: str) -> list[str]:
    """What a `summary` says, in sentences; limits in brackets are those of 99 percent over passages.

    Without limits, over one or two passages, nothing is judged.
    """
    layers, longest = int(table["replaced"].max()), int(table["n"].max())
    lines: Lines = {
        (line["n"], line["method"], line["order"], line["replaced"]): line for line in table.to_dict("records")
    }
    said = [_trade(lines, int(n), layers, unit) for n in table["n"].unique()]
    most, surest = max(zip(table["passages"], table["n"], strict=True))
    for own, *others in (NONE_EXACT, SOME_EXACT):
        line = lines[surest, own, LAST, layers // 2]
        rivals = [(name, lines[surest, name, LAST, layers // 2]) for name in others]
        words = [f"by {NAMES[name]} {_said(rival)}{_beside(line, rival)}" for name, rival in rivals]
        said.append(
            f"n = {surest}, {most} passages, the same layers: by {NAMES[own]} {_said(line)}, {', '.join(words)}."
        )
    ordered = max((n for n, _, order, _ in lines if order != LAST), default=0)
    for name in ORDERED if ordered else ():
        ranked = [line for key, line in lines.items() if key[:2] == (ordered, name) and key[3] == layers // 2]
        best, worst = (end(ranked, key=lambda line: float(line["relative"])) for end in (min, max))
        said.append(
            f"Which half of the layers is replaced, n = {ordered}, {NAMES[name]}: between {_said(best)} "
            f"({best['order']}) and {_said(worst)} ({worst['order']})."
        )
    half, every = (lines[longest, HYPER, LAST, number]["forward"] for number in (layers // 2, layers))
    said.append(
        f"n = {longest}: with half of the layers by HyperAttention a pass takes {half:.2f} of exact attention's time, "
        f"with all of them {every:.2f}; reported is {REPORTED[0]} with half, at 32768 tokens."
    )
    return said


def _trade(lines: Lines, n: int, layers: int, unit: str) -> str:
    """What half of the layers cost at n, beside what [HA24] reports."""
    exact = lines[n, HYPER, LAST, 0]
    told = []
    for name, words in ((HYPER, "no key exempt"), (HYPER_SINKS, f"the first {SINKS} keys exact")):
        line = lines[n, name, LAST, layers // 2]
        above, within = line["lower"] > REPORTED[1], line["upper"] <= REPORTED[1]
        verdict = "above" if above else "within" if within else "not clearly above or below"
        judged = f", {verdict} the reported {REPORTED[1]:.3f}" * bool(np.isfinite(line["lower"]))
        told.append(f"{_said(line)} with {words}{judged}")
    return (
        f"n = {n}, the last {layers // 2} of {layers} layers by HyperAttention: log-perplexity over exact attention's "
        f"is {'; '.join(told)}. Exact attention has perplexity {exact['perplexity']:.3g} of a {unit}, or "
        f"{exact['base2']:.3g} as 2 to the power of the loss in nats, the convention of the authors' public code."
    )


def _said(line: Mapping[str, Any]) -> str:
    limits = "" if np.isnan(line["lower"]) else f" [{line['lower']:.3f}, {line['upper']:.3f}]"
    return f"{line['relative']:.3f}{limits}"


def _beside(own: Mapping[str, Any], rival: Mapping[str, Any]) -> str:
    """Whether a rival loses more: where the limits of the two do not overlap, and nothing where there are none."""
    if np.isnan(own["lower"]):
        return ""
    more, less = rival["lower"] > own["upper"], rival["upper"] < own["lower"]
    return " (loses more)" if more else " (loses less)" if less else " (no clear difference)"


# ------------------------------------------------------------------------------------------------------------- drawing
@paper_style()
def draw_layers(table: pd.DataFrame) -> Figure:
    """Log-perplexity over exact attention's, layers replaced from the last on; a column of panels per n.

    Above, methods with no key exempt; below, with a few keys exact, on an axis of its own. Bars are full ranges over
    passages. The star is what [HA24] reports of half of the layers at 32k tokens. Where answering zero is far above
    everything else it leaves the panel, and its value stands there.
    """
    hollow = {"markerfacecolor": "white"}
    looks: dict[str, dict[str, Any]] = {
        HYPER: method("hyper practical"),
        UNIFORM: method("uniform", linestyle=":"),
        LOCAL: {**LOOKS["maroon"], "linestyle": ":"},
        ZERO: method("zero", linestyle=":"),
        HYPER_SINKS: method("hyper practical", **hollow),
        HYPER_64: {**LOOKS["cyan"], **hollow},
        HYPER_HEAVY: {**LOOKS["magenta"], **hollow},
        UNIFORM_SINKS: method("uniform", linestyle=":", **hollow),
        WINDOW: {**LOOKS["green"], "linestyle": ":"},
    }
    looks = {name: {**look, "label": "_" if name == ZERO else NAMES[name]} for name, look in looks.items()}
    groups = {"no key exempt": NONE_EXACT, "some keys exact": SOME_EXACT}
    part = table[table["order"] == LAST]
    rows = pd.concat(part[part["method"].isin(names)].assign(exempt=group) for group, names in groups.items())
    return _panels(rows, "tokens", "exempt", hue="method", looks=looks, legend="ends")


@paper_style()
def draw_orders(table: pd.DataFrame) -> Figure:
    """The same for HyperAttention, layers replaced in several orders; a row of panels per n.

    Orders that always replace the same layers share a line.
    """
    part = table[table["method"].isin(ORDERED)]
    part = part[part.groupby(["n", "method"])["order"].transform("nunique") > 1]
    names = {way: [way] for way in (LAST, FIRST, ALPHA, ERROR, HARM, GREEDY) if way in set(part["order"])}
    costs = part.pivot_table("relative", ["n", "method", "replaced"], "order")
    for way in list(names):
        twin = next(other for other in names if costs[other].equals(costs[way]))
        if twin != way:
            names[twin] += names.pop(way)
    colours = ("blue", "green", "magenta", "cyan", "brown", "brown")
    looks = {way: {**LOOKS[look], "label": " = ".join(names[way])} for way, look in zip(names, colours, strict=False)}
    rows = part.assign(exempt=part["method"].map({HYPER: "no key exempt", HYPER_SINKS: f"first {SINKS} keys exact"}))
    return _panels(rows, "exempt", "tokens", hue="order", looks=looks, legend=True)


def _panels(
    rows: pd.DataFrame, across: str, down: str, *, hue: str, looks: Mapping[str, Mapping[str, Any]], legend: Any
) -> Figure:
    """Panels over the number of replaced layers, for all `across` and `down`; each row has an axis of its own."""
    titles = [
        f"n = {n}{' (YaRN)' if stretched else ''}" for n, stretched in zip(rows["n"], rows["stretched"], strict=True)
    ]
    rows = rows.assign(tokens=titles)
    layers, last, shown = rows["replaced"].max(), rows[across].iloc[-1], rows[rows["method"] != ZERO]

    def each(ax: Axes, panel: pd.DataFrame) -> None:
        ticks(ax.xaxis, rows["replaced"].unique())
        ax.axhline(1, **method("exact", marker="", linewidth=0.8, label="_"))
        theory_line(ax, [0, layers], REPORTED[1], "_", linestyle=":", linewidth=0.8)
        ax.plot(layers / 2, REPORTED[1], "*", color="black", markersize=6, zorder=5, label="_")
        row = shown[shown[down] == panel[down].iloc[0]]
        low, high = min(row["low"].min(), 1), max(row["high"].max(), REPORTED[1])
        ax.set_ylim(low - 0.05 * (high - low), high + 0.15 * (high - low))
        zero = panel[panel["method"] == ZERO].groupby("replaced")["relative"].first()
        if len(zero) and zero.iloc[-1] > high:
            note = f"answering zero: up to {zero.iloc[-1]:.3g}"
            ax.text(0.98, 0.98, note, transform=ax.transAxes, va="top", ha="right", size=6)
        if legend == "ends" and panel[across].iloc[0] != last:
            for line in ax.get_lines():
                line.set_label("_")

    return facets(
        rows,
        x="replaced",
        y="relative",
        hue=hue,
        facet=across,
        row=down,
        looks=looks,
        limits=("low", "high"),
        bars=True,
        height=2.0,
        each=each,
        xlabel="layers replaced",
        ylabel={name: f"log-perplexity / exact\n({name})" for name in rows[down].unique()},
        legend=legend,
    )


@paper_style()
def draw_time(table: pd.DataFrame) -> Figure:
    """Seconds over n, with half and with all of the layers replaced from the last on; and the price in log-perplexity.

    Both are shares of exact attention's, and so is what [HA24] reports of half of the layers (star).
    """
    fig, (saved, price) = grid(2, 2, height=2.3)
    table = table[(table["order"] == LAST) & table["method"].isin(ORDERED)].sort_values("replaced")
    layers, hyper = table["replaced"].max(), table[table["method"] == HYPER]
    looks = {layers // 2: {**LOOKS["blue"], "label": "half"}, layers: {**LOOKS["brown"], "label": "all"}}
    for replaced, look in looks.items():
        part = hyper[hyper["replaced"] == replaced].sort_values("n")
        saved.plot(
            part["n"], part["forward"], **{**look, "label": f"whole pass, {look['label']} of the layers replaced"}
        )
        look |= {"label": f"attention, {look['label']} of the layers replaced", "markerfacecolor": "white"}
        saved.plot(part["n"], part["attention"], **look, linestyle=":")
    lengths = sorted(table["n"].unique())
    for place, n in enumerate(lengths):
        shade = mpl.colormaps["cividis"](0.8 * place / max(1, len(lengths) - 1))  # darker is shorter
        for name, exempt in ORDERED.items():
            part = table[(table["n"] == n) & (table["method"] == name)]
            look = {"color": shade, "marker": "osD^v"[place % 5], "label": f"n = {n}: 0 to {layers} layers replaced"}
            if exempt:
                label = "_" if place else f"hollow: first {exempt} keys exact"
                look |= {"linestyle": ":", "markerfacecolor": "white", "label": label}
            price.plot(part["forward"], part["relative"], **look)
    star: dict[str, Any] = {"linestyle": "", "marker": "*", "markersize": 8, "color": "black", "zorder": 5}
    saved.plot(32768, REPORTED[0], **star, label="half of the layers, n = 32k, reported [HA24]")
    price.plot(*REPORTED, **star)
    for ax in (saved, price):
        ax.axhline(1, **method("exact", marker="", linewidth=0.8))
    saved.set(xscale="log", xlabel="tokens $n$", ylabel="seconds / exact", ylim=(0, None))
    ticks(saved.xaxis, [*lengths, 32768], at_most=6)
    price.set(xlabel="seconds of the whole pass / exact", ylabel="log-perplexity / exact", xlim=(0, None))
    finish(fig)
    return fig
