"""An audit on disk: tables (CSV and Parquet), figures, and one HTML page with a recommendation per head."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from ...core import files
from ...plots.save import save
from ...plots.style import METHODS
from ..report import environment, stylesheet
from . import figures
from .advice import KEEP, advice, records
from .measure import EPS, FAILURE, HYPER, SIZES, Audit


def write(audit: Audit, out: str | os.PathLike[str], *, tolerance: float = 0.1, seed: int = 0) -> Path:
    """Write `index.html`, `figures/`, and `heads`, `errors` and `radii` as `.csv` and `.parquet`.

    `heads` has the advice beside the measurements. Each file is written whole.

    Parameters
    ----------
    audit : Audit
    out : path
        Folder.
    tolerance : float
        As `advice`.
    seed : int
        What the audit's draws came from.

    Returns
    -------
    Path
        Of the page.
    """
    out, told = Path(out), advice(audit, tolerance=tolerance)
    heads = audit.heads.merge(told, on=["layer", "head"])
    for name, table in (("heads", heads), ("errors", audit.errors), ("radii", audit.radii)):
        with files.atomic(out / f"{name}.csv") as temporary:
            table.to_csv(temporary, index=False)
        with files.atomic(out / f"{name}.parquet") as temporary:
            table.to_parquet(temporary, index=False)
    figures = _figures(audit, told, out, tolerance, seed)
    page = environment().get_template("audit.html.j2").render(
        root="",
        about=audit.about,
        heads=records(heads),
        figures=figures,
        counts=told["method"].value_counts().to_dict(),
        keep=KEEP,
        labels={name: str(style["label"]) for name, style in METHODS.items()},
        bites={paper: int((heads[size] < heads["n"]).sum()) for size, paper in SIZES.items()},
        sizes=SIZES,
        methods=_medians(audit.errors),
        tolerance=tolerance,
        budget=audit.budget,
        eps=EPS,
        failure=FAILURE,
        hyper=HYPER,
    )  # fmt: skip
    files.write_text(out / "report.css", stylesheet())
    files.write_text(out / "index.html", page)
    return out / "index.html"


def summary(audit: Audit, *, tolerance: float = 0.1) -> pd.DataFrame:
    """The advice and what it rests on, one short line per head: for a terminal."""
    told = advice(audit, tolerance=tolerance)
    heads = audit.heads
    return pd.DataFrame(
        {
            "head": [f"{layer}.{head}" for layer, head in zip(heads["layer"], heads["head"], strict=True)],
            "alpha": heads["alpha"],
            "sinks exact": heads["alpha_residual"],
            "kappa": heads["kappa"],
            "srank": heads["srank"],
            "B": heads["entry_bound"],
            "|q|": heads["query_norm"],
            "dr/log n": heads["delta_r_log"],
            "tail": heads["tail"],
            "bites": told["bites"].replace("", "-"),
            "uniform": told["uniform"],
            "best": told["best"],
            "error": told["best_relative"],
            "take": told["method"],
        }
    )


def _medians(errors: pd.DataFrame) -> list[dict[str, Any]]:
    """Methods by their median relative error over heads, with the least and the largest."""
    table = errors.groupby("method")["relative"].agg(["median", "min", "max"]).sort_values("median")
    return records(table.reset_index())


def _figures(audit: Audit, told: pd.DataFrame, out: Path, tolerance: float, seed: int) -> list[dict[str, Any]]:
    about = audit.about
    where = f"{about['layers']} layers of {about['heads']} heads, {about['tokens']} tokens"
    captions: dict[str, tuple[Figure, pd.DataFrame | dict[str, pd.DataFrame], str]] = {
        "errors": (
            figures.audit_errors(audit.errors, told),
            {"errors": audit.errors, "advice": told},
            f"Relative error of the last {about['queries']} queries with {audit.budget} of the exact cache's bytes "
            f"(HyperAttention: {audit.budget} of the keys per query): {where}. Framed: the best cache of a head; solid "
            f"where it is within {tolerance:.0%}.",
        ),
        "hardness": (
            figures.audit_hardness(audit.heads),
            audit.heads,
            f"What the theorems assume to be small: {where}. alpha, kappa and the stable rank of the later half's "
            "queries over the earlier half's keys.",
        ),
        "theorems": (
            figures.audit_theorems(audit.heads),
            audit.heads,
            f"What each theorem asks for, over n: {where}. Explicit constants at eps = {EPS}, failure {FAILURE}; "
            "below 0 the theorem bites.",
        ),
    }
    params = {key: about[key] for key in ("source", "tokens", "share")}
    made = []
    for name, (figure, data, caption) in captions.items():
        paths = save(figure, name, out=out, params=params, seed=seed, data=data, caption=caption, backend="numpy")
        made.append({"name": name, "caption": caption, "formats": sorted(paths)})
    return made
