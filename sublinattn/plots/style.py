"""One look for every figure: legible in a paper's column, safe for colour-blind readers, one colour per method.

This file imports no Matplotlib before a figure is drawn, so that a method can register its look anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

from ..core.names import suggestion

COLUMN, PAGE = 3.25, 5.5
"""Widths in inches: one column of two, and the text width of a one-column paper."""

LOOKS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        name: MappingProxyType({"color": color, "marker": marker})
        for name, color, marker in (
            ("charcoal", "#4D4D4D", "s"),
            ("grey", "#999999", "x"),
            ("orange", "#E69F00", "D"),
            ("blue", "#0072B2", "o"),
            ("brown", "#B15928", "^"),
            ("sky", "#56B4E9", "d"),
            ("violet", "#762A83", ">"),
            ("maroon", "#661100", "*"),
            ("magenta", "#AA4499", "p"),
            ("green", "#117733", "v"),
            ("olive", "#997700", "<"),
            ("cyan", "#66CCEE", "P"),
            ("indigo", "#332288", "X"),
            ("teal", "#44AA99", "h"),
            ("rose", "#EE6677", "8"),
        )
    }
)
"""Colours, each with a marker of its own: a grey print still tells them apart.

Colours of methods that share a figure differ by at least 19 in CIELAB, also as a protanope, a deuteranope or a
tritanope sees them (Machado, Oliveira and Fernandes 2009). Black is the theory's.
"""

SERIES = (
    *("blue", "brown", "green", "orange", "magenta", "cyan", "indigo", "olive"),
    *("rose", "teal", "maroon", "violet", "sky"),
)
"""Looks of series that are no methods, in the order in which `series` takes them."""

METHODS: dict[str, dict[str, Any]] = {}
"""Keyword arguments of `Axes.plot` per method: color, marker and label. Filled by `register` and `variant`."""

THEORY: Mapping[str, Any] = MappingProxyType(
    {"color": "black", "linestyle": "--", "linewidth": 1.0, "marker": "", "label": "theory"}
)
"""Keyword arguments of `Axes.plot` for what a theorem predicts or bounds."""

RC: Mapping[str, Any] = MappingProxyType(
    {
        "figure.figsize": (PAGE, 0.62 * PAGE),
        "figure.constrained_layout.use": True,  # keeps the width exact, which a tight bounding box does not
        "font.family": "DejaVu Sans",  # ships with Matplotlib: the same glyphs on every machine
        "font.size": 8,
        "axes.titlesize": 8,
        "axes.labelsize": 8,
        "figure.labelsize": 8,
        "legend.fontsize": 7,
        "xtick.labelsize": 7,
        "ytick.labelsize": 7,
        "xtick.minor.size": 1.2,
        "ytick.minor.size": 1.2,
        "axes.prop_cycle": "cycler('color', {})".format([LOOKS[name]["color"] for name in SERIES]),
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.linewidth": 0.6,
        "axes.axisbelow": True,
        "axes.grid": True,
        "grid.color": "#DDDDDD",
        "grid.linewidth": 0.5,
        "lines.linewidth": 1.2,
        "lines.markersize": 3.5,
        "legend.framealpha": 0.85,
        "legend.edgecolor": "none",
        "image.cmap": "cividis",
        "svg.fonttype": "path",  # glyphs as outlines: looks the same where the font is missing
        "pdf.fonttype": 42,  # TrueType; many venues refuse Type 3
    }
)
"""Matplotlib settings, over Matplotlib's own defaults: a user's matplotlibrc changes no figure."""


@contextmanager
def paper_style() -> Iterator[None]:
    """Make, draw and save figures with `RC`; the caller's settings come back afterwards.

    Examples
    --------
    As a context, or as a decorator of a function that draws:

    >>> @paper_style()
    ... def draw(rows): ...
    """
    import matplotlib as mpl

    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(dict(RC))  # type: ignore[arg-type]
        yield


def register(name: str, label: str, look: str) -> None:
    """Give a method its colour and marker in all figures.

    Parameters
    ----------
    name : str
        The method's name in tables of measurements.
    label : str
        Its name in legends.
    look : str
        A key of `LOOKS` that no other method has.

    Raises
    ------
    ValueError
        Another method has this look.
    """
    taken = {other: style for other, style in METHODS.items() if style["color"] == LOOKS[look]["color"]}
    if taken and name not in taken:
        raise ValueError(f"look {look!r} of {name!r} is that of {next(iter(taken))!r}: choose another of {list(LOOKS)}")
    METHODS[name] = {**LOOKS[look], "label": label}


def variant(name: str, label: str, of: str, *, linestyle: str = ":") -> None:
    """Register a method with other settings: the method's colour and marker, hollow, with another line."""
    METHODS[name] = {**METHODS[of], "label": label, "linestyle": linestyle, "markerfacecolor": "white"}


def method(name: str, **overrides: Any) -> dict[str, Any]:
    """Colour, marker and label of a method, to pass to `Axes.plot`.

    Parameters
    ----------
    name : str
        A key of `METHODS`.
    **overrides
        Keyword arguments that replace or extend the style's own.

    Returns
    -------
    dict
        Keyword arguments for `Axes.plot`.

    Raises
    ------
    ValueError
        No such method.
    """
    if name not in METHODS:
        raise ValueError(f"name must be one of {list(METHODS)}, got {name!r}{suggestion(name, METHODS)}")
    return {**METHODS[name], **overrides}


def series(*names: Any, **overrides: Any) -> dict[Any, dict[str, Any]]:
    """A look for each of some series that are no methods, in the order of `SERIES`.

    Returns
    -------
    dict of name to keyword arguments of `Axes.plot`
        With the name as the label.
    """
    looks = zip(names, SERIES[: len(names)], strict=True)
    return {name: {**LOOKS[look], "label": str(name), **overrides} for name, look in looks}


# What every error is compared with, whatever the method.
register("exact", "exact", "charcoal")
register("zero", "answering zero", "grey")
register("uniform", "uniform sampling", "orange")
