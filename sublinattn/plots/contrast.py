"""Pairs on one scale: with an assumption and without it; honest trials and sabotaged ones."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .old_panels import OKABE_ITO, figure, handles, legend_below, spread, theory
from .style import PAGE, method, paper_style

_VARIANTS = {
    "kept": {"color": OKABE_ITO["blue"], "marker": "o", "label": "assumption holds"},
    "dropped": {"color": OKABE_ITO["vermillion"], "marker": "^", "label": "assumption dropped"},
    "uniform": method("uniform", label="uniform sampling, equal budget"),
    "zero": method("zero"),
    "exact": method("exact", label="exact (rounding)"),
}
_FLOOR = 1e-8  # a deviation of 0 is drawn here


def _rates(ax: Axes, table: pd.DataFrame, rows: list[object], key: str) -> None:
    variants = [name for name in _VARIANTS if (table["variant"] == name).any()]
    for place, variant in enumerate(variants):
        part = table[table["variant"] == variant].set_index(key).loc[rows]
        at = np.arange(len(rows)) + 0.15 * (place - (len(variants) - 1) / 2)
        reach = np.maximum([part["rate"] - part["low"], part["high"] - part["rate"]], 0)
        ax.errorbar(part["rate"], at, xerr=reach, linestyle="none", capsize=1.5, elinewidth=0.8, **_VARIANTS[variant])
    ax.set(xlim=(-0.03, 1.03), ylim=(len(rows) - 0.5, -0.5))


def dropped_assumptions(rows: pd.DataFrame, rates: pd.DataFrame, *, eps: float) -> Figure:
    """Left: error of the output, median and 10 to 90 percent range; right: how often it exceeds eps, with 99 percent
    limits.

    Parameters
    ----------
    rows : DataFrame
        assumption, input, variant, error.
    rates : DataFrame
        assumption, variant, rate, low, high.
    eps : float
        What counts as a failure.
    """
    with paper_style():
        names = list(rows["assumption"].unique())
        fig = figure(PAGE, 0.9 + 0.48 * len(names))
        left, right = fig.subplots(1, 2, sharey=True, width_ratios=(3, 2))
        for place, (variant, style) in enumerate(_VARIANTS.items()):
            if variant == "exact":
                continue
            table = spread(rows[rows["variant"] == variant], ["assumption"], "error").set_index("assumption").loc[names]
            reach = np.maximum([table["median"] - table["low"], table["high"] - table["median"]], 0)
            at = np.arange(len(names)) + 0.15 * (place - 2)
            left.errorbar(table["median"], at, xerr=reach, linestyle="none", capsize=1.5, elinewidth=0.8, **style)
        edge = rows.loc[rows["variant"] != "exact", "error"].min() / 3
        exact = _VARIANTS["exact"] | {"marker": "<"}
        left.plot([edge] * len(names), np.arange(len(names)) + 0.3, linestyle="none", **exact)
        left.axvline(eps, **theory(f"failure: above {eps:g}"))
        left.set(xscale="log", xlabel=r"$\|\mathrm{out} - PV\|\;/\;(\|P\|\,\|V\|)$")
        inputs = rows.drop_duplicates("assumption").set_index("assumption")["input"]
        left.set_yticks(range(len(names)), [f"{name}\n({inputs[name]})" for name in names])
        _rates(right, rates, list(names), "assumption")
        right.set_xlabel("failure rate")
        fig.legend(*handles(left), loc="outside lower center", ncols=3)
    return fig


def dropped_in_claims(rates: pd.DataFrame) -> Figure:
    """Failure rates of the claims' own trials, with 99 percent limits.

    Parameters
    ----------
    rates : DataFrame
        claim, assumption, drop, variant, rate, low, high.
    """
    with paper_style():
        keyed = rates.assign(
            key=rates["claim"] + "\n" + rates["assumption"] + rates["drop"].map(lambda i: f" ({i + 1})" if i else "")
        )
        keys = list(keyed["key"].unique())
        fig = figure(PAGE, 0.8 + 0.33 * len(keys))
        ax = fig.subplots()
        _rates(ax, keyed, list(keys), "key")
        ax.set_yticks(range(len(keys)), keys)
        ax.set_xlabel("share of the claim's trials that fail")
        legend_below(fig, ax, columns=2)
    return fig


def sabotage_overview(rows: pd.DataFrame) -> Figure:
    """Per claim, the largest deviation of an honest trial and of each sabotage's, over what the claim allows.

    Parameters
    ----------
    rows : DataFrame
        claim, variant ("honest" or a sabotage), deviation.
    """
    with paper_style():
        worst = rows.groupby(["claim", "variant"], sort=False)["deviation"].max().reset_index()
        labels = [
            name if variant == "honest" else f"{variant}   "
            for name, variant in zip(worst["claim"], worst["variant"], strict=True)
        ]
        fig = figure(PAGE, 0.7 + 0.17 * len(worst))
        ax = fig.subplots()
        for honest, style in ((True, _VARIANTS["kept"]), (False, _VARIANTS["dropped"])):
            here = worst[(worst["variant"] == "honest") == honest]
            ax.plot(
                np.maximum(here["deviation"], _FLOOR),
                here.index,
                linestyle="none",
                **style | {"label": "as claimed" if honest else "sabotaged"},
            )
        ax.axvline(1, **theory("what the claim allows"))
        ax.set(
            xscale="log", xlabel="largest deviation of a trial / what the claim allows (0 is drawn at the left edge)"
        )
        ax.set_yticks(range(len(worst)), labels, fontsize=6)
        ax.set_ylim(len(worst) - 0.5, -0.5)
        legend_below(fig, ax, columns=3)
    return fig
