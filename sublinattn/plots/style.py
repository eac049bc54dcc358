"""One look for every figure: legible in a paper's column, safe for colour-blind readers, one colour per method."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import matplotlib as mpl
from cycler import cycler

COLUMN, PAGE = 3.25, 5.5
"""Widths in inches: one column of two, and the text width of a one-column paper."""

OKABE_ITO = MappingProxyType(
    {
        "black": "#000000",
        "orange": "#E69F00",
        "sky": "#56B4E9",
        "green": "#009E73",
        "yellow": "#F0E442",
        "blue": "#0072B2",
        "vermillion": "#D55E00",
        "purple": "#CC79A7",
    }
)
"""Okabe and Ito's colours, told apart under every common colour blindness."""

_GREY = "#777777"
_CYCLE = ("blue", "vermillion", "green", "orange", "purple", "sky")  # black is theory's; yellow is too pale for a line

METHODS = MappingProxyType(
    {
        "exact": {"color": OKABE_ITO["green"], "marker": "s", "label": "exact"},
        "hyper practical": {"color": OKABE_ITO["blue"], "marker": "o", "label": "HyperAttention, practical"},
        "hyper theory": {"color": OKABE_ITO["vermillion"], "marker": "^", "label": "HyperAttention, theory"},
        "one-pass paper": {"color": OKABE_ITO["purple"], "marker": "v", "label": "one pass, paper"},
        "one-pass fused": {"color": OKABE_ITO["sky"], "marker": "P", "label": "one pass, fused"},
        "streaming state": {"color": OKABE_ITO["vermillion"], "marker": "*", "label": "streaming state"},
        "subgen": {"color": OKABE_ITO["blue"], "marker": "o", "label": "SubGen"},
        "sinks": {"color": OKABE_ITO["purple"], "marker": "v", "label": "sinks and window"},
        "heavy hitters": {"color": "#999933", "marker": "^", "label": "heavy hitters (H2O)"},
        "value-norm": {"color": OKABE_ITO["sky"], "marker": "P", "label": "value-norm reservoir"},
        "k-center": {"color": "#882255", "marker": "*", "label": "offline k-center"},
        "uniform": {"color": OKABE_ITO["orange"], "marker": "D", "label": "uniform sampling"},
        "zero": {"color": _GREY, "marker": "x", "label": "answering zero"},
    }
)
"""Keyword arguments of `Axes.plot` per method. Marker and colour both differ, so that a grey print still reads."""

THEORY = MappingProxyType({"color": "black", "linestyle": "--", "linewidth": 1.0, "marker": "", "label": "theory"})
"""Keyword arguments of `Axes.plot` for what a theorem predicts or bounds."""

RC: Mapping[Any, Any] = MappingProxyType(
    {
        "figure.figsize": (PAGE, 0.62 * PAGE),
        "figure.constrained_layout.use": True,  # keeps the width exact, which a tight bounding box does not
        "font.family": "DejaVu Sans",  # ships with Matplotlib: the same glyphs on every machine
        "font.size": 8,
        "axes.titlesize": 8,
        "axes.labelsize": 8,
        "legend.fontsize": 7,
        "xtick.labelsize": 7,
        "ytick.labelsize": 7,
        "axes.prop_cycle": cycler(color=[OKABE_ITO[c] for c in _CYCLE]),
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
    >>> with paper_style():
    ...     fig, ax = plt.subplots()
    ...     ax.plot(n, error, **method("uniform"))
    """
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(RC)
        yield


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
        raise ValueError(f"name must be one of {list(METHODS)}, got {name!r}")
    return {**METHODS[name], **overrides}
