"""The files of the leaderboard: the table as CSV, as Markdown and on an HTML page, the measurements, the figure."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ...core import files
from ...plots.save import save
from ..audit.advice import records, share_text
from ..audit.measure import write_table
from ..markdown import markdown_table
from ..report import environment, stylesheet
from ..report.figures import described
from . import figures
from .board import Board, findings, table
from .contenders import SHARE
from .errors import GROUPS

COLUMNS: Mapping[str, tuple[str, str]] = {
    **{f"relative_{group}": (f"relative error, {group}", "‖out − PV‖_F / ‖PV‖_F") for group in GROUPS},
    **{f"spectral_{group}": (f"spectral error, {group}", "‖out − PV‖ / (‖P‖ ‖V‖)") for group in GROUPS},
    "loss": ("log-perplexity / exact’s", "all layers replaced"),
    "right": ("answers right", "all layers replaced"),
    "bits": ("bits of an answer’s token", "all layers replaced"),
    "time": ("time / exact’s", "seconds on this machine, median"),
    "bytes": ("bytes", "over those of all keys and values"),
}
"""Columns of numbers: their titles, and what they are."""


def write(board: Board, out: str | os.PathLike[str], *, backend: str = "auto") -> Path:
    """Write `leaderboard.csv`, `leaderboard.md`, the measurements, `figures/`, and `index.html`.

    Parameters
    ----------
    board : Board
    out : path
        Folder. Each file in it is written whole or not at all.
    backend : str
        Where the numbers were computed, recorded in the figure.

    Returns
    -------
    Path
        The page.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    whole = table(board)
    words = findings(board, whole)
    for name in ("errors", "losses", "answers"):
        write_table(getattr(board, name), out / name)
    write_table(whole, out / "leaderboard")
    files.write_text(out / "leaderboard.md", markdown(board, whole, words))
    paths = save(
        figures.draw(board, whole), "leaderboard", out=out, params=board.about, seed=board.about["seeds"][0],
        data=board.errors, caption=caption(board), backend=backend,
    )  # fmt: skip
    page = environment().get_template("leaderboard.html.j2").render(
        root="", about=board.about, rows=records(whole), columns=COLUMNS, findings=words,
        figure_=described(paths["json"]), share=share_text(SHARE), short=short, limits=limits,
    )  # fmt: skip
    files.write_text(out / "report.css", stylesheet())
    files.write_text(out / "index.html", page)
    return out / "index.html"


def caption(board: Board) -> str:
    """Of the figure."""
    count = board.errors.groupby("input")[["seed", "replicate"]].apply(lambda its: len(its.drop_duplicates()))
    about = board.about
    return (
        f"Relative error of every method at {share_text(SHARE)} of the keys or bytes, each kind in the order of its "
        f"ranking: median and 10 to 90 % of {count.min()} draws of a synthetic input ({about['n']} tokens), and of "
        f"{count.max()} heads of a model; the decoder is {about['model']}. Right of the grey line zero would be the "
        "better answer."
    )


def summary(whole: pd.DataFrame) -> pd.DataFrame:
    """What a terminal shows, within 100 columns: a row per method, ranked within its kind."""
    ranked = whole.sort_values(["kind", "rank"], kind="stable", na_position="first")
    shown = {name: ranked[name].map(short) for name in ("relative_synthetic", "relative_MiniLM", "relative_decoder")}
    shown = {name.removeprefix("relative_"): column for name, column in shown.items()}
    shown |= {"loss": ranked["loss"].map(short), "right": ranked["right"].map(short)}
    ranks = ranked["rank"].map(lambda rank: "" if np.isnan(rank) else f"{rank:.0f}")
    return pd.DataFrame({"kind": ranked["kind"], "rank": ranks, "method": ranked["label"], **shown})


def markdown(board: Board, whole: pd.DataFrame, words: list[str]) -> str:
    """The sentences and the table, for a page of documentation."""
    about = board.about
    seeds = ", ".join(map(str, about["seeds"]))
    origin = f"Effort {about['effort']}, seed {seeds}, decoder {about['model']}, n = {about['n']} on synthetic inputs."
    sentences = "\n".join(f"{number}. {sentence}" for number, sentence in enumerate(words, 1))
    return f"{origin}\n\n{sentences}\n\n{ranked_table(whole)}"


def ranked_table(whole: pd.DataFrame) -> str:
    """The table in Markdown, ranked within each kind."""
    head = ["kind", "method", "rank", *(title for title, _ in COLUMNS.values()), "what is proved", "verdict"]
    rows, ranked = [], whole.sort_values(["kind", "rank"], kind="stable", na_position="first")
    for row in records(ranked):
        proved = f"{row['guarantee']} (`{row['claim']}`)" if row["claim"] else row["guarantee"] or "–"
        cells = [row["kind"], row["label"], *(_cell(row, name) for name in ("rank", *COLUMNS)), proved]
        rows.append([*cells, row["verdict"] or "–"])
    return markdown_table(head, rows) + "\n"


def _cell(row: Mapping[Any, Any], name: str) -> str:
    return short(row[name]) + (f" [{', '.join(map(short, ends))}]" if (ends := limits(row, name)) else "")


def limits(row: Mapping[Any, Any], name: str) -> tuple[float, float] | None:
    """Ends of a column's interval, where it has one that is not a point."""
    low, high = row.get(f"{name}_low", np.nan), row.get(f"{name}_high", np.nan)
    return None if np.isnan(low) or low == high else (low, high)


def short(value: float) -> str:
    """A number with two digits, from 1 on with three, as ratios of 1.02 and 1.04 differ; a dash where it is missing."""
    if not np.isfinite(value):
        return "–" if np.isnan(value) else "∞"
    if abs(value) >= 100 or value == round(value):
        return f"{value:.0f}"
    return f"{value:.3g}" if abs(value) >= 1 else f"{value:.2g}"
