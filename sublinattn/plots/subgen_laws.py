"""Laws of SubGen's samples and estimates: counts against laws, errors against bounds, the bias of the ratio."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from .old_panels import OKABE_ITO, figure, handles, legend_below, theory
from .style import PAGE, method, paper_style

_BLUE, _RED, _GREY = OKABE_ITO["blue"], OKABE_ITO["vermillion"], "#BBBBBB"
_MEASURED: dict[str, Any] = {"color": _BLUE, "marker": "o", "linestyle": "none", "elinewidth": 0.7, "capsize": 1.5}


def held_laws(rows: pd.DataFrame) -> Figure:
    """A row per law, as claimed (left) and sabotaged (right): how often each token is held, the law, its limits.

    Parameters
    ----------
    rows : DataFrame
        law, variant, token, count, expected, low, high; of each law the honest variant first.
    """
    with paper_style():
        laws = list(rows["law"].unique())
        fig = figure(PAGE, 0.7 + 1.25 * len(laws))
        axes = fig.subplots(len(laws), 2, sharey="row", squeeze=False)
        for line, law in zip(axes, laws, strict=True):
            here = rows[rows["law"] == law]
            for place, (ax, variant) in enumerate(zip(line, here["variant"].unique(), strict=True)):
                part = here[here["variant"] == variant]
                token = part["token"]
                ax.fill_between(
                    token, part["low"], part["high"], step="mid", color=_GREY, alpha=0.6, linewidth=0,
                    label="99 % limits, all tokens together",
                )  # fmt: skip
                ax.plot(token, part["expected"], **theory("law"))
                color, marker, label = ((_BLUE, "o", "as claimed"), (_RED, "^", "sabotaged"))[place]
                ax.plot(
                    token,
                    part["count"],
                    linestyle="none",
                    marker=marker,
                    color=color,
                    markersize=3,
                    label=label,
                    clip_on=False,
                )
                ax.set_title(f"{law}, {variant if place == 0 else f'sabotage “{variant}”'}")
            line[0].set_ylabel("times held")
            if here["expected"].max() > 50 * here["expected"].min():
                for ax in line:
                    ax.set_yscale("symlog", linthresh=10)
            line[0].set_ylim(0, None)
        for ax in axes[-1]:
            ax.set_xlabel("token, in the order of the values' norms")
        legend_below(fig, *axes[-1], columns=4)
    return fig


def _means(ax: Axes, rows: pd.DataFrame, x: str, value: str, label: str, z: float) -> None:
    """Means with limits, z standard errors to either side."""
    table = rows.groupby(x)[value].agg(["mean", "sem"])
    ax.errorbar(table.index, table["mean"], yerr=z * table["sem"], label=label, zorder=4, **_MEASURED)


def _sizes(ax: Axes, sizes: pd.Series) -> None:
    ticks = sorted(sizes.unique())
    ax.set_xscale("log")
    ax.set_xticks(ticks, [str(tick) for tick in ticks])
    ax.xaxis.set_minor_locator(NullLocator())


def estimator_errors(rows: pd.DataFrame, laws: pd.DataFrame, *, failure: float, z: float) -> Figure:
    """Squared error of z over s (left) and of tau over t (right): means and upper quantiles, against exact and bounds.

    Parameters
    ----------
    rows : DataFrame
        estimate ("z", "tau"), size, square.
    laws : DataFrame
        estimate, size, exact, bound, level, uniform, zero.
    failure : float
        Share of the draws above the quantile that is shown, and above Chebyshev's level at most.
    z : float
        Half width of the intervals, in standard errors.
    """
    with paper_style():
        fig = figure(PAGE, 3.3)
        axes = fig.subplots(1, 2)
        for ax, estimate in zip(axes, ("z", "tau"), strict=True):
            mine, law = (table[table["estimate"] == estimate] for table in (rows, laws))
            _means(ax, mine, "size", "square", "mean of the copies, 99 % limits", z)
            above = mine.groupby("size")["square"].quantile(1 - failure)
            label = f"exceeded by {failure:.0%} of the copies"
            ax.plot(above.index, above, linestyle="none", marker="v", color=_RED, label=label)
            ax.plot(law["size"], law["exact"], **theory("exact mean"))
            ax.plot(law["size"], law["bound"], **theory("bound on the mean", linestyle="-."))
            label = f"Chebyshev: exceeded by at most {failure:.0%}"
            ax.plot(law["size"], law["level"], **theory(label, linestyle=":"))
            ax.plot(law["size"], law["uniform"], **method("uniform", label="uniform sampling, exact mean"))
            ax.plot(law["size"], law["zero"], **method("zero"))
            ax.set_yscale("log")
            _sizes(ax, law["size"])
        axes[0].set(
            xlabel="value slots $s$", ylabel=r"$\|z - e^{Kq\top}V\|^2\;/\;(\|e^{Kq}\|\,\|V\|)^2$", title="numerator $z$"
        )
        axes[1].set(
            xlabel="samples per cluster $t$", ylabel=r"$(\tau / \mathrm{E}\,\tau - 1)^2$", title=r"normaliser $\tau$"
        )
        legend_below(fig, *axes, columns=2)
    return fig


def tau_bound(rows: pd.DataFrame, *, top: float = 1e12) -> Figure:
    """`t Var(tau) / E[tau]^2` over delta r, against `sinh(delta r)^2`: left planted clusters, right the real heads.

    Parameters
    ----------
    rows : DataFrame
        setting ("two-sided", "random", "real heads"), delta_r, whole, within, largest.
    top : float
        Upper end of the right panel, where the bound leaves it.
    """
    with paper_style():
        fig = figure(PAGE, 3.2)
        left, right = fig.subplots(1, 2)
        two, random, real = (rows[rows["setting"] == name] for name in ("two-sided", "random", "real heads"))
        looks = {
            "two-sided, worst cluster": (two, "within", "s", OKABE_ITO["green"]),
            "random, worst cluster": (random, "within", "^", _RED),
            "random, all clusters": (random, "whole", "o", _BLUE),
        }
        for label, (part, value, marker, color) in looks.items():
            left.plot(part["delta_r"], part[value], linestyle="none", marker=marker, color=color, label=label)
        for label, value, marker, color in (
            ("a head's worst query", "largest", "D", OKABE_ITO["orange"]),
            ("a head's median query", "whole", "v", OKABE_ITO["purple"]),
        ):
            right.plot(real["delta_r"], real[value], linestyle="none", marker=marker, color=color, label=label)
        for ax, part, title in ((left, pd.concat([two, random]), "planted clusters"), (right, real, "real heads")):
            at = np.geomspace(0.8 * part["delta_r"].min(), 1.25 * part["delta_r"].max(), 100)
            ax.plot(at, np.sinh(at) ** 2, **theory(r"bound: $\sinh(\delta r)^2$"))
            ax.set(xscale="log", yscale="log", xlabel=r"$\delta r$", title=title)
        right.set_ylim(0.3 * real["whole"].min(), top)
        left.set_ylabel(r"$t\,\mathrm{Var}(\tau)\,/\,(\mathrm{E}\,\tau)^2$")
        legend_below(fig, left, right, columns=3)
    return fig


def ratio_bias(rows: pd.DataFrame, laws: pd.DataFrame, *, z: float) -> Figure:
    """By how much the mean of z/tau is too long, over t (left) and over s (right), against its exact value.

    Parameters
    ----------
    rows : DataFrame
        varies ("t", "s"), s, t, along.
    laws : DataFrame
        varies, s, t, exact, first_order.
    z : float
        Half width of the intervals, in standard errors.
    """
    with paper_style():
        fig = figure(PAGE, 2.9)
        axes = fig.subplots(1, 2, sharey=True)
        for ax, varies, fixed, what in zip(axes, "ts", "st", ("samples per cluster", "value slots"), strict=True):
            mine, law = (table[table["varies"] == varies] for table in (rows, laws))
            _means(ax, mine, varies, "along", "mean of the copies, 99 % limits", z)
            ax.plot(law[varies], law["exact"], **theory(r"exact: $\mathrm{E}\,\tau\;\mathrm{E}\,\tau^{-1} - 1$"))
            label = r"first order: $\mathrm{Var}(\tau) / (\mathrm{E}\,\tau)^2$"
            ax.plot(law[varies], law["first_order"], **theory(label, linestyle=":"))
            ax.axhline(0, color=_GREY, linewidth=0.8)
            _sizes(ax, law[varies])
            ax.set(xlabel=f"{what} ${varies}$", title=f"${fixed} = {law[fixed].iloc[0]}$")
        axes[0].set_ylabel("relative bias along exact attention")
        fig.legend(*handles(axes[0]), loc="outside lower center", ncols=3)
    return fig
