"""Where the points of a drawn figure lie, and their numbers in words: what a page shows on hover.

Read off the artists, so that every figure has it without a word of its own: markers of lines, points of scatter plots,
bars, and the cells of heat maps. Names come from the axes' labels, the panel's title and the legend.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.collections import PathCollection, QuadMesh
from matplotlib.colors import to_hex
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D

LIMIT = 2000
"""A figure with more points has none on hover: a reader could not tell them apart."""

Point = tuple[Any, Any, str]  # in the axes' own coordinates, and whose it is


def marks(fig: Figure) -> dict[str, Any]:
    """Size of a figure that was drawn, and its points: `{"size": [w, h], "points": [[x, y, text], ...]}`.

    In points of 1/72 inch, from the upper left corner.
    """
    width, height = (round(72 * float(side), 1) for side in fig.get_size_inches())
    found = []
    for ax in fig.axes:
        names = _names(fig, ax)
        whose = _plain(ax.get_title())
        for x, y, text in _points(fig, ax, names):
            place = ax.transData.transform((x, y)) * 72 / fig.dpi
            if ax.bbox.padded(2).contains(*ax.transData.transform((x, y))):
                words = ": ".join(part for part in (whose, text) if part)
                found.append([round(float(place[0]), 1), round(height - float(place[1]), 1), words])
    return {"size": [width, height], "points": found if len(found) <= LIMIT else []}


def _points(fig: Figure, ax: Axes, names: tuple[str, str]) -> Iterator[Point]:
    labels = _legend(fig, ax)

    categories = [_categories(axis) for axis in (ax.xaxis, ax.yaxis)]

    def said(x: float, y: float, whose: str) -> Point:
        parts = [whose] if whose else []
        for name, value, named in zip(names, (x, y), categories, strict=True):
            if named:
                parts.append(min((abs(place - value), label) for place, label in named.items())[1])
            else:
                parts.append(f"{name} = {value:.3g}")
        return x, y, ", ".join(parts)

    for line in ax.lines:
        if line.get_transform() == ax.transData and line.get_marker() not in ("", " ", "None", "none", None):
            places = np.asarray(line.get_xydata(), dtype=float)
            whose = labels.get(_look(line)) or labels.get((to_hex(line.get_color()),)) or _own(line)
            yield from (said(x, y, whose) for x, y in places.tolist() if np.isfinite([x, y]).all())
    for drawn in ax.collections:
        if isinstance(drawn, PathCollection):
            colours = np.atleast_2d(drawn.get_facecolor())
            for i, (x, y) in enumerate(np.ma.getdata(drawn.get_offsets()).tolist()):
                if np.isfinite([x, y]).all():
                    colour = to_hex(colours[i % len(colours)]) if len(colours) else ""
                    yield said(x, y, labels.get((colour,)) or _own(drawn))
        elif isinstance(drawn, QuadMesh):
            yield from _cells(np.asarray(drawn.get_coordinates()), _values(drawn))
    for image in ax.images:
        values = _values(image)
        if values.ndim == 2:
            left, right, bottom, top = image.get_extent()
            x, y = np.linspace(left, right, values.shape[1] + 1), np.linspace(top, bottom, values.shape[0] + 1)
            yield from _cells(np.stack(np.meshgrid(x, y), axis=-1), values)
    for bars in (c for c in ax.containers if isinstance(c, BarContainer)):
        for bar in bars.patches:
            x, y = bar.get_x() + bar.get_width() / 2, bar.get_y() + bar.get_height() / 2
            whose = labels.get((to_hex(bar.get_facecolor()),), "")
            size = bar.get_width() if bars.orientation == "horizontal" else bar.get_height()
            yield x, y, f"{whose}: {size:.3g}" if whose else f"{size:.3g}"


def _categories(axis: Axis) -> dict[float, str]:
    """Places and names on an axis whose ticks are names, not numbers; empty for one of numbers."""
    places = [float(place) for place in axis.get_ticklocs()]
    labels = dict(zip(places, (tick.get_text() for tick in axis.get_ticklabels()), strict=False))
    return labels if any(re.match(r"[A-Za-z(]{2}|[A-Za-z] ", label) for label in labels.values()) else {}


def _values(drawn: QuadMesh | AxesImage) -> np.ndarray:
    """What the colours stand for; nan where there is none."""
    return np.ma.masked_invalid(np.ma.asarray(drawn.get_array(), dtype=float)).filled(np.nan)


def _cells(corners: np.ndarray, values: np.ndarray) -> Iterator[Point]:
    smooth = values.size == corners.shape[0] * corners.shape[1]  # Gouraud shading has its values at the corners
    centres = corners if smooth else (corners[:-1, :-1] + corners[1:, 1:]) / 2
    for place, value in zip(centres.reshape(-1, 2), values.ravel(), strict=True):
        if np.isfinite(value):
            yield float(place[0]), float(place[1]), f"{value:.3g}"


def _legend(fig: Figure, ax: Axes) -> dict[tuple[str, ...], str]:
    """Entries of the legends by colour, marker and line style, and by colour where that is unique."""
    found: dict[tuple[str, ...], str] = {}
    for legend in [*([own] if (own := ax.get_legend()) else []), *fig.legends]:
        for handle, text in zip(legend.legend_handles, legend.get_texts(), strict=False):
            words = _plain(text.get_text())
            if isinstance(handle, Line2D):
                found.setdefault(_look(handle), words)
                colour = to_hex(handle.get_color())
            elif handle is not None and hasattr(handle, "get_facecolor"):
                face = np.atleast_2d(handle.get_facecolor())
                colour = to_hex(face[0]) if len(face) else ""
            else:
                continue
            found[(colour,)] = words if found.get((colour,), words) == words else ""
    return found


def _own(artist: Artist) -> str:
    label = str(artist.get_label())
    return "" if label.startswith("_") else _plain(label)


def _look(line: Line2D) -> tuple[str, ...]:
    return to_hex(line.get_color()), str(line.get_marker()), str(line.get_linestyle())


def _names(fig: Figure, ax: Axes) -> tuple[str, str]:
    """Names of the axes: their own labels, else those of a panel that shares the axis, else the figure's."""
    x, y = (
        next((label for o in [ax, *fig.axes] if (o is ax or group.joined(ax, o)) and (label := read(o))), "")
        for group, read in ((ax.get_shared_x_axes(), Axes.get_xlabel), (ax.get_shared_y_axes(), Axes.get_ylabel))
    )
    upright = [t.get_text() for t in fig.texts if t.get_rotation() == 90]  # as `layout` names the axes of all panels
    level = [t.get_text() for t in fig.texts if t.get_rotation() == 0 and t.get_position()[1] < 0.5]
    x, y = x or fig.get_supxlabel() or "".join(level[:1]), y or fig.get_supylabel() or "".join(upright[:1])
    return _plain(x) or "x", _plain(y) or "y"


def _plain(text: str) -> str:
    """A label without the marks of mathematics."""
    text = re.sub(r"\\(?:mathrm|mathbf|text|mathcal)|[${}]", "", text).replace("\\|", "|")
    text = re.sub(r"\\[,;:! ]", " ", text)
    return re.sub(r"\s+", " ", re.sub(r"\\([A-Za-z]+)", r"\1", text)).strip()
