"""Figures of growth claims: what was measured over each variable, its power-law fit, and the theory's slope."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .layout import finish, ticks
from .panels import grid, theory_line
from .style import LOOKS, paper_style

_SYMBOLS = {
    "varepsilon": r"\varepsilon",
    "kappa": r"\kappa",
    "alpha": r"\alpha",
    "rho": r"(e^{2\delta r})",
    "srank": r"\mathrm{srank}",
    "varepsilon_1": r"\varepsilon_1",
    "varepsilon_ties": r"\varepsilon_1",
}
_BLUE = LOOKS["blue"]["color"]


@paper_style()
def growths(
    sizes: pd.DataFrame,
    fits: pd.DataFrame,
    labels: Mapping[str, str],
    *,
    ylabel: str = "",
    reciprocal: Mapping[str, float] | None = None,
) -> Figure:
    """A panel per claim and variable, above it the measured exponent with its 99 percent limits and the theory's.

    Where a claim has several variables, each claim has a row of panels; else the panels wrap.

    Parameters
    ----------
    sizes : DataFrame
        As `lab.run.Run.sizes` gives them: claim, variable, x, replicate, size (inf where none was found up to the cap).
    fits : DataFrame
        As `lab.run.Run.fits` gives them.
    labels : mapping of claim id to the y axis's label
    ylabel : str
        What all the panels show, if it is the same.
    reciprocal : mapping of claim id to an exponent, optional
        Claims that bound a cost from below have fitted x to this power over the cost; drawn is the cost itself.
    """
    for claim, power in (reciprocal or {}).items():
        sizes, fits = _costs(sizes, fits, claim, power)
    by_claim = {claim: fits[fits["claim"] == claim] for claim in labels}
    columns = max(map(len, by_claim.values()))
    rows = columns > 1
    if rows:
        fig, cells = grid(columns * len(labels), columns, height=1.75)
        places = [cell for row, here in enumerate(by_claim.values()) for cell in cells[row * columns :][: len(here)]]
        for ax in set(cells) - set(places):
            ax.axis("off")
    else:
        fig, places = grid(len(labels), min(3, len(labels)), height=1.85)
    for ax, (_, fit) in zip(places, pd.concat(by_claim.values()).iterrows(), strict=True):
        claim, variable = fit["claim"], fit["variable"]
        growth_panel(ax, sizes[(sizes["claim"] == claim) & (sizes["variable"] == variable)], fit)
        if not rows or ax in cells[::columns]:
            ax.set_ylabel(labels[claim])
    finish(fig, ylabel=ylabel)
    return fig


def growth_panel(ax: Axes, data: pd.DataFrame, fit: pd.Series) -> None:
    """Replicates, their fit, and the theory's slope through the fit's middle; exponents as the title.

    Where no size was found up to the cap, an open triangle stands at the upper edge.
    """
    symbol, missing = _SYMBOLS.get(fit["variable"], fit["variable"]), data[np.isinf(data["size"])]
    points = data[np.isfinite(data["size"])]
    ax.plot(points["x"], points["size"], "o", color=_BLUE, markersize=2.5, alpha=0.6, label="replicate")
    if len(missing):
        look = {"marker": "^", "color": _BLUE, "markerfacecolor": "white", "linestyle": "none"}
        height = np.full(len(missing), 0.95)
        ax.plot(missing["x"], height, **look, transform=ax.get_xaxis_transform(), label="no size sufficed")
    low, high = (points["size"].min(), points["size"].max()) if len(points) else (1.0, 1.0)
    # A steep theory leaves the panel; its slope still shows.
    ax.set(xscale="log", yscale="log", ylim=(low / 3, high * (8 if len(missing) else 3)))
    if np.isfinite(fit["measured"]):
        fitted = data[~data["x"].isin(missing["x"])]  # the fit leaves out grid points with a size that was not found
        x = np.array([fitted["x"].min(), fitted["x"].max()])
        middle = np.exp([np.log(fitted["x"]).mean(), np.log(fitted["size"]).mean()])
        ax.plot(x, middle[1] * (x / middle[0]) ** fit["measured"], color=_BLUE, label="power-law fit")
        theory_line(ax, x, middle[1] * (x / middle[0]) ** fit["theory_exponent"], "theory's slope")
    lower, upper = (_decimals(fit[end]).replace("-", "\N{MINUS SIGN}") for end in ("lower", "upper"))
    ax.set_title(f"${symbol}^{{{_decimals(fit['measured'])}}}$ [{lower}, {upper}]\ntheory ${_theory(fit)}$", fontsize=7)
    ax.set_xlabel(f"${symbol}$" + (", near-ties" if fit["variable"] == "varepsilon_ties" else ""))
    ticks(ax.xaxis, data["x"], at_most=4)


def _costs(sizes: pd.DataFrame, fits: pd.DataFrame, claim: str, power: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Where x^power / cost was fitted: the cost, with its exponents."""
    sizes, fits = sizes.copy(), fits.copy()
    mine, fit = sizes["claim"] == claim, fits["claim"] == claim
    sizes.loc[mine, "size"] = sizes.loc[mine, "x"] ** power / sizes.loc[mine, "size"]
    exponents = ["measured", "upper", "lower", "theory_exponent"]  # the limits change places
    fits.loc[fit, ["measured", "lower", "upper", "theory_exponent"]] = power - fits.loc[fit, exponents].to_numpy()
    return sizes, fits


def _theory(fit: pd.Series) -> str:
    """The law, and where it is no power, the power that it looks like on this grid."""
    symbol = _SYMBOLS.get(fit["variable"], fit["variable"])
    law = fit["theory"].replace(r"\left(n \right)", " n").replace(r"\log{ n}", r"\log n")
    if "log" in law:
        return rf"{law} \approx {symbol}^{{{_decimals(fit['theory_exponent'])}}}"
    power = round(fit["theory_exponent"], 2) + 0
    return symbol if power == 1 else f"{symbol}^{{{power:g}}}"


def _decimals(value: float) -> str:
    """Two decimals, and never minus zero."""
    return f"{round(value, 2) + 0:.2f}"
