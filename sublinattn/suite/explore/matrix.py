"""The figure of a workbench: the softmax matrix before and after sorting, with the mask, and the errors."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import NullLocator

from ...plots.panels import theory_line
from ...plots.style import LOOKS, PAGE, method, paper_style
from .workbench import Look

PIXELS = 256
"""A matrix with more rows is shown by the largest entry of each square of them."""
NAMES = {"HyperAttention": "hyper practical", "HyperAttention, theory": "hyper theory"}
OTHER = "green"
"""Colour of a method that is neither HyperAttention nor a yardstick."""


@paper_style()
def draw_look(seen: Look) -> Figure:
    """The softmax matrix as it comes and in HyperAttention's order, its mask outlined; errors of all repetitions."""
    fig = Figure(figsize=(PAGE, 2.35))
    fig.set_layout_engine(
        "none"
    )  # places that are known: to look for them takes longer than to draw, and a slider waits
    before, after, errors = (fig.add_axes((left, 0.34, 0.235, 0.55)) for left in (0.085, 0.41, 0.76))
    p, (q_order, k_order) = seen.p, seen.orders
    top = p.max()
    for ax, matrix, title in (
        (before, p, "as it comes"),
        (after, p[np.ix_(q_order, k_order)], "sorted, with the mask"),
    ):
        shown = np.sqrt(pooled(matrix) / top)
        ax.imshow(shown, cmap="Blues", vmin=0, vmax=1, extent=(0, p.shape[1], p.shape[0], 0), interpolation="nearest")
        ax.set(title=title, xticks=(0, p.shape[1]), yticks=(0, p.shape[0]))
        ax.set_xlabel("key", labelpad=-8)
        ax.grid(False)
    before.set_ylabel("query", labelpad=-14)
    for row, column, height, width in rectangles(seen.mask):
        box = Rectangle((column, row), width, height, fill=False, edgecolor=LOOKS["orange"]["color"], linewidth=0.7)
        after.add_patch(box)
    for place, (name, look) in enumerate(_looks(seen).items()):
        part = seen.rows[seen.rows["method"] == name]
        offset = 0.3 * (np.arange(len(part)) - (len(part) - 1) / 2) / max(len(part) - 1, 1)
        errors.plot(place + offset, part["error"], **{**look, "linestyle": ""})
    exact = seen.error("exact")
    theory_line(errors, np.array([-0.5, 2.5]), seen.bound, "Lemma 2's bound, m samples")
    low = seen.rows.loc[seen.rows["method"] != "exact", "error"].min()
    high = max(seen.rows["error"].max(), seen.bound)
    errors.set(title="error", xticks=[], xlim=(-0.5, 2.5), yscale="log", ylim=(low / 2, 2 * high))
    errors.yaxis.set_minor_locator(NullLocator())
    errors.text(0.02, 0.02, f"exact attention: {exact:.0e}", transform=errors.transAxes, fontsize="small")
    errors.set_ylabel("|out - P V| over |P| |V|")
    fig.legend(loc="lower center", ncols=2)
    return fig


def _looks(seen: Look) -> dict[str, dict[str, Any]]:
    """Of the method and of the yardsticks."""
    own = seen.setup.method
    look = method(NAMES[own]) if own in NAMES else {**LOOKS[OTHER], "label": own}
    return {own: look, "uniform": method("uniform"), "zero": method("zero")}


def pooled(matrix: np.ndarray) -> np.ndarray:
    """The largest entry of each square of entries, so that at most `PIXELS` rows and columns are left."""
    for axis in range(2):
        step = -(-matrix.shape[axis] // PIXELS)
        matrix = np.maximum.reduceat(matrix, np.arange(0, matrix.shape[axis], step), axis=axis)
    return matrix


def rectangles(mask: np.ndarray) -> list[tuple[int, int, int, int]]:
    """The mask's runs of equal rows: row, column, height and width of each run of columns in them."""
    changes = np.flatnonzero((mask[1:] != mask[:-1]).any(axis=1)) + 1
    found = []
    for start, stop in zip([0, *changes], [*changes, len(mask)], strict=True):
        edges = np.flatnonzero(np.diff(mask[start].astype(int), prepend=0, append=0))
        found += [(int(start), int(a), int(stop - start), int(b - a)) for a, b in edges.reshape(-1, 2)]
    return found
