"""The files of an audit: tables (CSV and Parquet), figures, and an HTML page with a recommendation per head."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pandas as pd

from ...core import files
from ...plots.save import save
from ...plots.style import METHODS
from ..report import environment, stylesheet
from . import figures
from .advice import KEEP, advice, methods, records, theorems
from .measure import EPS, FAILURE, Audit


def write(audit: Audit, out: str | os.PathLike[str], *, tolerance: float = 0.1, seed: int = 0) -> Path:
    """Write `index.html`, `figures/`, and the tables `heads` (with the advice), `errors` and `radii`.

    Parameters
    ----------
    audit : Audit
    out : path
        Folder. Each file in it is written whole or not at all.
    tolerance : float
        As in `advice`.
    seed : int
        Seed of the audit, recorded in the figures.

    Returns
    -------
    Path
        The page.
    """
    out, recommended = Path(out), advice(audit, tolerance=tolerance)
    heads = audit.heads.merge(recommended, on=["layer", "head"])
    for name, table in (("heads", heads), ("errors", audit.errors), ("radii", audit.radii)):
        with files.atomic(out / f"{name}.csv") as temporary:
            table.to_csv(temporary, index=False)
        with files.atomic(out / f"{name}.parquet") as temporary:
            table.to_parquet(temporary, index=False)
    page = environment().get_template("audit.html.j2").render(
        root="",
        about=audit.about,
        heads=records(heads),
        figures=_figures(audit, recommended, out, tolerance, seed),
        counts=recommended["method"].value_counts().to_dict(),
        keep=KEEP,
        labels={name: str(style["label"]) for name, style in METHODS.items()},
        theorems=records(theorems(audit)),
        methods=records(methods(audit, recommended)),
        tolerance=tolerance,
        budget=audit.budget,
        eps=EPS,
        failure=FAILURE,
    )  # fmt: skip
    files.write_text(out / "report.css", stylesheet())
    files.write_text(out / "index.html", page)
    return out / "index.html"


SUMMARY = {
    "alpha": "alpha",
    "sinks exact": "alpha_residual",
    "kappa": "kappa",
    "srank": "srank",
    "B": "entry_bound",
    "|q|": "query_norm",
    "dr/log n": "delta_r_log",
    "tail": "tail",
    "theorems": "theorems",
    "uniform": "uniform",
    "best": "best",
    "error": "best_relative",
    "take": "method",
}
"""Columns of the summary, by the names that they have there."""


def summary(audit: Audit, *, tolerance: float = 0.1) -> pd.DataFrame:
    """One short row per head, for a terminal: measurements and advice."""
    heads = audit.heads.merge(advice(audit, tolerance=tolerance), on=["layer", "head"])
    names = heads["layer"].astype(str) + "." + heads["head"].astype(str)
    table = heads[list(SUMMARY.values())].set_axis(list(SUMMARY), axis=1)
    return table.assign(theorems=table["theorems"].replace("", "-")).assign(head=names)[["head", *SUMMARY]]


def _figures(audit: Audit, recommended: pd.DataFrame, out: Path, tolerance: float, seed: int) -> list[dict[str, Any]]:
    about = audit.about
    where = f"{about['layers']} layers of {about['heads']} heads, {about['tokens']} tokens"
    captions: dict[str, tuple[Any, Any, str]] = {
        "errors": (
            figures.errors(audit.errors, recommended),
            {"errors": audit.errors, "advice": recommended},
            f"Relative error of the last {about['queries']} queries when a cache may take {audit.budget} of the memory "
            f"of the exact one and HyperAttention reads {audit.budget} of the keys per query ({where}). A frame marks "
            f"the best cache of a head: solid where its error is within {tolerance:.0%}, dotted where it is not.",
        ),
        "hardness": (
            figures.hardness(audit.heads),
            audit.heads,
            f"Quantities that the theorems assume to be small ({where}). alpha, kappa and the stable rank are those of "
            "the later half's queries and the earlier half's keys.",
        ),
        "theorems": (
            figures.theorems(audit.heads),
            audit.heads,
            f"Size that each theorem needs, divided by n ({where}), for error {EPS} and failure probability {FAILURE}; "
            "one dot per head. Left of the line, where the size is below n, the theorem says something.",
        ),
    }  # fmt: skip
    params = {key: about[key] for key in ("source", "tokens", "share")}
    rows = []
    for name, (figure, data, caption) in captions.items():
        paths = save(figure, name, out=out, params=params, seed=seed, data=data, caption=caption, backend="numpy")
        rows.append({"name": name, "caption": caption, "formats": sorted(paths)})
    return rows
