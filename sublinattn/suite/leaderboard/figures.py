"""The leaderboard's figure: the relative error of every method on every input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ...plots.panels import facets
from ...plots.style import LOOKS, PAGE, paper_style
from ..audit.advice import share_text
from .board import Board
from .contenders import BATCHES, CACHES, EXACT, SHARE, rows
from .errors import SYNTHETIC

_LARGEST = 30.0  # beyond which a mark would only stretch the axis


@paper_style()
def draw(board: Board, table: pd.DataFrame) -> Figure:
    """A panel per input, a line per method: median and 10 to 90 percent of the replicates; the batch methods, then the
    caches, in the order of the ranking.

    Errors above 30 are drawn there; exact attention's, which is rounding, is left out. "Uniform sampling" and
    "answering zero" are yardsticks of both kinds, on one line each.
    """
    labels = {(row.kind, row.name): row.label for row in rows()}
    labels[CACHES, "zero"] = labels[BATCHES, "zero"]
    ranked = table.sort_values(["kind", "rank"], kind="stable")
    order = list(dict.fromkeys(labels[key] for key in zip(ranked["kind"], ranked["method"], strict=True)))
    shown = board.errors[board.errors["method"] != EXACT].dropna(subset="relative")
    names = [labels[key] for key in zip(shown["kind"], shown["method"], strict=True)]
    sources = np.where(shown["group"] == SYNTHETIC, "synthetic", "real")
    shown = shown.assign(label=names, relative=shown["relative"].clip(upper=_LARGEST), source=sources)
    shown = shown.iloc[np.argsort([order.index(name) for name in names], kind="stable")]
    looks = {
        BATCHES: {**LOOKS["blue"], "label": f"batch method, reads {share_text(SHARE)} of the keys"},
        CACHES: {**LOOKS["orange"], "label": f"cache, stores {share_text(SHARE)} of the bytes"},
    }
    options: dict[str, Any] = {
        "columns": 3,
        "looks": looks,
        "logx": True,
        "width": 1.3 * PAGE,
        "height": 0.4 + 0.125 * len(order),
    }
    xlabel = r"relative error $\|\mathrm{out} - PV\|_F\;/\;\|PV\|_F$ (answering zero: 1)"

    def one(ax: Any, _: pd.DataFrame) -> None:
        ax.axvline(1, color="#999999", linewidth=0.8, zorder=0)

    return facets(shown, x="relative", y="label", hue="kind", facet="input", xlabel=xlabel, each=one, **options)
