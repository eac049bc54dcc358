"""The grammar of all figures. A table of measurements, one per line, goes in; a `Figure` comes out.

`facets(rows, x="budget", y="error", hue="method", facet="input", columns=4, logx=True, logy=True, exact="exact")`
    A panel per input, a line per method: median and 10 to 90 percent range of the replicates. Methods look as they are
    registered in `style.METHODS`; `looks={value: style}` replaces that, and chooses and orders what is drawn. A method
    without x is a horizontal line; `exact=` goes to the lower edge, with its size. Where y is text, dots are drawn.
`facets(..., facet="quantity", ylabel={"bytes": "bytes stored", "time": "seconds"})`
    Panels with y axes of their own; with `row="quantity"` it is whole rows of panels.
`facets(..., limits=("low", "high"))` draws limits already computed; `facets(..., each=function)` calls function(axes,
    rows of the panel) for what else it shows, such as `theory_line(ax, n, n, "$n^1$")`.
`fig, axes = grid(3, columns=3)`, then `lines(ax, rows, "n", "seconds", look)`, then `finish(fig, xlabel="tokens $n$")`
    is the same by hand. Elsewhere: `heads.heatmap(ax, table, label)` draws cells, `growth.growths(sizes, fits, labels)`
    exponents, `layout.ticks(ax.xaxis, values)` marks measured values; `style.series(*names)` gives looks to what is no
    method, `style.register(name, label, look)` gives a method its own.

All of it is called under `@paper_style()`. `finish`, with which `facets` ends, makes logarithmic ticks readable, puts
shared labels at the middle of the panels, and the legend into a free panel if it fits, else below; `legend="ends"`
names lines at their ends instead. The layout is fixed then: what a panel shows besides is drawn before, by `each`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .layout import finish as finish  # a word of the grammar
from .layout import ticks
from .style import LOOKS, METHODS, PAGE, THEORY, method

_ROW = 1.55
"""Height of a row of panels in inches, with its ticks and titles."""


# --------------------------------------------------------------------------------------------------------------- facets
def facets(
    rows: pd.DataFrame,
    *,
    x: str,
    y: str,
    hue: str | None = None,
    facet: str | None = None,
    row: str | None = None,
    columns: int = 3,
    looks: Mapping[Any, Mapping[str, Any]] | None = None,
    interval: int = 80,
    limits: tuple[str, str] | None = None,
    bars: bool = False,
    exact: str | None = None,
    logx: bool = False,
    logy: bool = False,
    ylim: tuple[float | None, float | None] | None = None,
    xlabel: str = "",
    ylabel: str | Mapping[Any, str] = "",
    titles: Callable[[Any], str] = str,
    width: float = PAGE,
    height: float = _ROW,
    each: Callable[[Axes, pd.DataFrame], object] | None = None,
    legend: bool | Literal["ends"] = True,
) -> Figure:
    """Small multiples: a panel per value of `facet`, a line (over text: a column of dots) per value of `hue`.

    Parameters
    ----------
    rows : DataFrame
        One measurement per line. A panel's title is bold where all of its `source` is "real".
    x, y : str
        Columns. Where `y` holds text, each of its values is a line of the panel, and `x` is what was measured.
    hue, facet, row : str, optional
        Columns: what lines, panels and rows of panels stand for, in the order of first appearance.
    columns : int
        Panels side by side, without `row`; with it, each row holds all facets.
    looks : mapping of hue to keyword arguments of `Axes.plot`, optional
        What is drawn, in this order. By default every hue, as `style.METHODS` has it.
    interval : int
        Percent of the replicates inside the band or bar; 100 where replicates are few, 0 for none.
    limits : two columns, optional
        Ends of the intervals, already computed; `y` is then drawn as it is.
    bars : bool
        Error bars side by side instead of bands.
    exact : str, optional
        The hue whose error is rounding, decades below all else: marks at the lower edge, with their size.
    logx, logy : bool
        Logarithmic axes.
    ylim : (bottom, top), optional
    xlabel, ylabel : str
        For all panels together. A mapping in place of `ylabel` gives each row of panels (without `row`, each panel) a
        label and a y axis of its own, and chooses and orders them.
    titles : function of the facet to its title
    width, height : float
        Inches of the figure's width, and of a row of panels.
    each : function of (axes, rows of the panel), optional
        Draws what else a panel shows; called when the scales are set.
    legend : bool or "ends"
        As for `finish`.
    """
    if limits:
        measured = y if pd.api.types.is_numeric_dtype(rows[y]) else x
        ends = (rows.assign(**{measured: rows[end]}) for end in limits)
        rows, interval = pd.concat([rows, *ends], ignore_index=True), 100
    shared = not isinstance(ylabel, Mapping)
    across = list(rows[facet].unique() if shared or row else ylabel) if facet else [None]
    down = list(rows[row].unique() if shared else ylabel) if row else [None]
    wide = len(across) if row else min(columns, len(across))
    categories = None if pd.api.types.is_numeric_dtype(rows[y]) else list(rows[y].unique())
    if looks is None:
        names = list(rows[hue].unique()) if hue else []
        looks = (
            {name: method(name) for name in sorted(names, key=list(METHODS).index)} if hue else {None: LOOKS["blue"]}
        )
    fig, axes = grid(
        *(len(down) * len(across), wide),
        width=width,
        height=height,
        sharex=True,
        sharey=True if shared else "row" if row else False,
    )
    panels = []
    for ax, (top, left) in zip(axes, ((top, left) for top in down for left in across), strict=True):
        chosen = np.ones(len(rows), bool)
        for column, value in ((row, top), (facet, left)):
            chosen &= (rows[column] == value).to_numpy() if column else True
        panels.append((ax, rows[chosen], top, left))
        for place, (name, look) in enumerate(looks.items()):
            part = rows[chosen & (rows[hue] == name).to_numpy()] if hue else rows[chosen]
            if (exact is not None and name == exact) or part.empty:
                continue
            middle = place - (len(looks) - 1) / 2
            if categories is not None:
                shift = 0.7 * middle / len(looks)
                part = part.assign(**{y: part[y].map(categories.index) + shift})
                lines(ax, part, x, y, {"linestyle": "none", **look}, interval=interval, bars=True, orient="y")
            elif part[x].isna().all():  # no budget, hence everywhere the same
                ax.axhline(part[y].median(), **{**look, "marker": ""})
            else:
                moved = part[x] * 1.04**middle if logx else part[x] + 0.01 * middle * np.ptp(rows[x].dropna())
                lines(ax, part.assign(**{x: moved}) if bars else part, x, y, look, interval=interval, bars=bars)
    for ax, part, top, left in panels:
        ax.set(**{"xscale": "log"} if logx else {}, **{"yscale": "log"} if logy else {})
        if categories is not None:
            ax.set_yticks(range(len(categories)), categories)
            ax.set_ylim(len(categories) - 0.5, -0.5)
        elif logx and rows[x].nunique() <= 16:
            ticks(ax.xaxis, rows[x].dropna().unique(), at_most=int(2.2 * width / wide))
        if facet and (shared or row) and top == down[0]:
            real = "source" in part and (part["source"] == "real").all()
            ax.set_title(titles(left), fontweight="bold" if real else "normal", fontsize=8 if wide < 4 else 7)
        if isinstance(ylabel, Mapping) and not (row and left != across[0]):
            ax.set_ylabel(ylabel[top if row else left])
    for ax, (bottom, top) in [(ax, ax.get_ylim()) for ax, *_ in panels]:
        if exact is not None:
            ax.set_ylim(bottom * (bottom / top) ** 0.2)  # room for the marks at the lower edge
        if ylim:
            ax.set_ylim(*ylim)
    for ax, part, *_ in panels:
        if exact is not None and hue and (part[hue] == exact).any():
            _at_edge(ax, part[part[hue] == exact], x, y, looks.get(exact, METHODS["exact"]))
        if each:
            each(ax, part)
    finish(fig, xlabel=xlabel, ylabel=ylabel if isinstance(ylabel, str) else "", legend=legend)
    return fig


def _at_edge(ax: Axes, exact: pd.DataFrame, x: str, y: str, look: Mapping[str, Any]) -> None:
    """Marks at the lower edge, and the size of what is too small for the axis."""
    at = np.unique(exact[x].dropna())
    place = ax.get_xaxis_transform()
    ax.plot(
        at,
        np.full(len(at), 0.03),
        **{**look, "linestyle": "none", "label": f"{look['label']} (rounding)"},
        transform=place,
        clip_on=False,
    )
    note = f"exact: {exact[y].median():.0e}".replace("e-0", "e-")
    ax.annotate(note, (0.98, 0.03), (0, 4), xycoords="axes fraction", textcoords="offset points", ha="right", size=6)


def grid(
    panels: int, columns: int, *, width: float = PAGE, height: float = _ROW, sharex: Any = False, sharey: Any = False
) -> tuple[Figure, list[Axes]]:
    """An empty figure and its panels, in rows of `columns`; `height` is that of a row, in inches.

    Pyplot does not know the figure, so that a notebook does not show it twice.
    """
    rows = -(-panels // columns)
    fig = Figure(figsize=(width, height * rows), layout="constrained")
    axes = fig.subplots(rows, columns, sharex=sharex, sharey=sharey, squeeze=False).ravel()
    for ax in axes[panels:]:
        ax.axis("off")
    for ax in axes[max(0, panels - columns) : panels]:
        ax.tick_params(labelbottom=True)  # also above a free place
    return fig, list(axes[:panels])


def lines(
    ax: Axes,
    rows: pd.DataFrame,
    x: str,
    y: str,
    look: Mapping[str, Any],
    *,
    interval: int = 80,
    bars: bool = False,
    orient: str = "x",
) -> None:
    """Median over the replicates, with the range of the middle `interval` percent of them as a band or as bars.

    Along `orient` = "y" the measurements are in x.
    """
    bars = bars or rows[x if orient == "x" else y].nunique() == 1  # a band over one point is not seen
    err: dict[str, Any] = {"elinewidth": 0.7, "capsize": 1.5} if bars else {"alpha": 0.15, "linewidth": 0}
    labels = {"xlabel": ax.get_xlabel(), "ylabel": ax.get_ylabel()}
    sns.lineplot(
        rows,
        x=x,
        y=y,
        ax=ax,
        orient=orient,
        estimator="median",
        errorbar=("pi", interval) if interval else None,
        err_style="bars" if bars else "band",
        err_kws=err,
        legend=False,
        **{"markeredgecolor": look["color"], **look},
    )
    ax.set(**labels)  # not the columns' names


def theory_line(ax: Axes, x: Any, y: Any, label: str = "theory", **overrides: Any) -> None:
    """What a theorem predicts or bounds: dashed and black, over the measurements. A number is a horizontal line."""
    x, y = np.broadcast_arrays(np.asarray(x, float), np.asarray(y, float))
    ax.plot(x, y, **{**THEORY, "label": label, "zorder": 4, **overrides})
