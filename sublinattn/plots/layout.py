"""What stands around the panels of a figure: readable ticks, labels that panels share, legends, names at line ends."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from textwrap import fill
from typing import Any, Literal, cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

_LABEL, _GAP = 0.2, 0.05
"""Inches that a shared label takes, and between what stands below the panels."""


def ticks(axis: Axis, at: Iterable[float], *, at_most: int = 5) -> None:
    """Ticks at measured values, some left out where they are many or close to each other: 256, 4k, 1/8."""
    values = np.unique(np.asarray(list(at), float))
    places = np.log(values) if axis.get_scale() == "log" else values
    shown = [0]
    for number in range(1, len(values)):
        if places[number] - places[shown[-1]] > np.ptp(places) / (at_most + 0.5):
            shown.append(number)
    values = values[shown]
    halves = all(0 < value <= 1 and np.log2(value).is_integer() for value in values)
    axis.set_major_locator(FixedLocator(list(values)))
    axis.set_major_formatter(FuncFormatter(lambda x, _: f"1/{1 / x:.0f}" if halves and x < 1 else _short(x)))
    axis.set_minor_locator(NullLocator())


def readable(axis: Axis) -> None:
    """Several numbers on a logarithmic axis: powers of ten, or 1, 2, 5 times these where it spans too few of them."""
    low, high = sorted(axis.get_view_interval())
    decades = np.log10(high / low)
    if decades > 2:
        axis.set_major_locator(LogLocator(10, numticks=6))
        axis.set_minor_formatter(NullFormatter())
        return
    axis.set_major_locator(LogLocator(10, (1.0, 2.0, 5.0)) if decades > 0.7 else MaxNLocator(4))
    axis.set_major_formatter(FuncFormatter(lambda x, _: _short(x) if decades > 0.7 else f"{x:g}"))
    axis.set_minor_locator(NullLocator())


def _short(x: float) -> str:
    """Whole numbers to 1000 as they are, multiples of 1024 in these, the rest to two digits."""
    if x >= 1024 and x % 1024 == 0:
        return f"{x / 1024:g}k"
    if not (x < 1000 and float(x).is_integer()):
        x = float(f"{x:.2g}")
    unit, name = (1e6, "M") if x >= 1e6 else (1e3, "k") if x >= 1e4 else (1.0, "")
    return f"{x / unit:g}{name}"


def direct_labels(ax: Axes) -> None:
    """Name each labelled line at its right end, in its colour, in place of a legend; names keep clear of each other."""
    height = ax.get_window_extent().height / ax.figure.dpi * 72  # in points
    ends = []
    for line in ax.get_lines():
        x, y = np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)
        if str(line.get_label()).startswith("_") or not x.size:
            continue
        last = np.flatnonzero(np.isfinite(x) & np.isfinite(y))[-1]
        place = ax.transAxes.inverted().transform(line.get_transform().transform((x[last], y[last])))
        ends.append((min(max(place[1], 0.0), 1.0) * height, (x[last], y[last]), line))
    ends.sort(key=lambda end: end[0])
    size = 6.5
    step = 1.25 * size
    at = np.array([end[0] for end in ends])
    for _ in range(200):  # push overlapping names apart until none overlaps
        lack = np.maximum(step - np.diff(at), 0) / 2
        if lack.max(initial=0) < 0.01:
            break
        at[:-1] -= lack
        at[1:] += lack
        at[0], at[-1] = max(at[0], 0), min(at[-1], height)
    for (_, end, line), y in zip(ends, at, strict=True):
        arrow = {"arrowstyle": "-", "color": line.get_color(), "linewidth": 0.4, "shrinkA": 0, "shrinkB": 1}
        ax.annotate(
            str(line.get_label()),
            end,
            (1.03, y / height),
            xycoords=line.get_transform(),
            textcoords="axes fraction",
            va="center",
            size=size,
            color=line.get_color(),
            arrowprops=arrow,
            annotation_clip=False,
        )


def finish(fig: Figure, *, xlabel: str = "", ylabel: str = "", legend: bool | Literal["ends"] = True) -> None:
    """Readable ticks, labels at the middle of the panels, and one legend; the figure grows by what stands below them.

    The layout is found here, once for all formats: what a panel shows must be drawn before.

    Parameters
    ----------
    fig : Figure
        With all its panels drawn.
    xlabel, ylabel : str
        What the panels share.
    legend : bool or "ends"
        Name everything labelled, each label once: in the free panels if it fits there, else below. "ends" names lines
        at their right ends instead: where they are few.
    """
    panels = [ax for ax in fig.axes if ax.axison and ax.get_label() != "<colorbar>"]
    free = [ax for ax in fig.axes if not ax.axison]
    for ax in panels:
        for axis in (ax.xaxis, ax.yaxis):
            if axis.get_scale() == "log" and not isinstance(axis.get_major_locator(), FixedLocator):
                readable(axis)
    left, below = (_LABEL if label else 0.0 for label in (ylabel, xlabel))
    _lay_out(fig, left, below, grow=below)
    if legend == "ends":
        for ax in panels:
            direct_labels(ax)
        _lay_out(fig, left, below)
    elif legend:
        entries: dict[str, Any] = {}
        for ax in panels:
            for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
                entries.setdefault(label, handle)
        if entries and not (free and _legend_in(fig, entries, free)):
            height = _legend_below(fig, entries)
            _lay_out(fig, left, below + height, grow=height)
            below += height
    places = [ax.get_position() for ax in panels]
    wide, high = fig.get_size_inches()
    if ylabel:
        middle = (min(place.y0 for place in places) + max(place.y1 for place in places)) / 2
        label = fig.text(_GAP / wide, middle, ylabel, rotation=90, ha="left", va="center")
        room = min(1, 0.98 * fig.bbox.height / label.get_window_extent().height)
        label.set_fontsize(float(label.get_fontsize()) * room)
        half = label.get_window_extent().height / fig.bbox.height / 2  # beside a single row it may be as high as that
        label.set_y(min(max(middle, half), 1 - half))
    if xlabel:
        middle = (min(place.x0 for place in places) + max(place.x1 for place in places)) / 2
        fig.text(middle, (below - _LABEL + _GAP) / high, xlabel, ha="center", va="bottom")
    fig.set_layout_engine("none")


def _lay_out(fig: Figure, left: float, below: float, *, grow: float = 0.0) -> None:
    """Lay the panels out beside margins of `left` and `below` inches, in a figure `grow` inches higher than before."""
    fig.set_figheight(fig.get_figheight() + grow)
    wide, high = fig.get_size_inches()
    engine = cast(ConstrainedLayoutEngine, fig.get_layout_engine())
    engine.set(rect=(left / wide, below / high, 1 - left / wide, 1 - below / high))
    engine.execute(fig)


def _legend_in(fig: Figure, entries: Mapping[str, Any], free: list[Axes]) -> bool:
    """Put the legend where no panel is, if there is the room for it."""
    place = free[0].get_position()
    at = (place.x0, 0.0, 1 - place.x0, place.y0 + place.y1)
    looks: dict[str, Any] = {"fontsize": 6, "handlelength": 1.6, "borderpad": 0, "labelspacing": 0.6}
    labels = [label if "$" in label else fill(label, 18) for label in entries]
    legend = fig.legend(entries.values(), labels, loc="center", bbox_to_anchor=at, borderaxespad=0, **looks)
    box = legend.get_window_extent().transformed(fig.transFigure.inverted())
    if fits := box.width <= 0.99 - place.x0 and box.height <= 1.2 * place.height:
        return True
    legend.remove()
    return fits


def _legend_below(fig: Figure, entries: Mapping[str, Any]) -> float:
    """Put the legend at the lower edge, in as many columns as there is room for; its height in inches."""
    for columns in range(min(len(entries), 6), 0, -1):
        legend = fig.legend(entries.values(), entries, loc="lower center", ncols=columns, borderaxespad=0.2)
        box = legend.get_window_extent()
        if columns == 1 or box.width <= 0.99 * fig.bbox.width:
            break
        legend.remove()
    return box.height / fig.dpi + _GAP
