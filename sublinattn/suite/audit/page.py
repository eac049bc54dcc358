"""The files of an audit: its measurements, the recommendation, figures, and an HTML page."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ...core import files
from ...core.plain import plain
from ...lab.workloads.instance import Captured
from ...plots.save import save
from ...plots.style import METHODS
from ..report import environment, stylesheet
from ..report.figures import described
from . import applied as outcome
from . import figures, recommendation
from .advice import KEEP, advice, headline, layers, methods, prompt_advice, records, share_text, theorems
from .facts import EPS, FAILURE
from .measure import ABOUT, Audit
from .measure import audit as measure
from .ranking import ADVICE, label

PACKAGED = ("tiny", "smollm2")


def open_or_measure(
    source: str | os.PathLike[str],
    *,
    shares: Sequence[float] | None = None,
    seed: int = 0,
    backend: str = "auto",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Audit:
    """The audit that a folder holds, or, measured, that of a captured file.

    Raises
    ------
    FileNotFoundError, ValueError, ImportError
        As `Captured.open` and `measure.audit`; a model in place of what it attends with; shares for an audit that
        measured others.
    """
    path = Path(source)
    if (path / ABOUT).exists():
        found = Audit.load(path)
        if shares is not None and list(shares) != found.about["shares"]:
            held = ", ".join(map(share_text, found.about["shares"]))
            raise ValueError(f"shares must be those that {path} holds, {held}; others need the captured file")
        return found
    if path.is_dir() or str(source) in PACKAGED:
        example = f"sublinattn capture --model {source} --out qkv.safetensors"
        raise ValueError(f"{source} is neither a captured file nor an audit; if it is a model, first run `{example}`")
    return measure(Captured.open(path), shares=shares, seed=seed, backend_name=backend, progress=progress)


def write(
    audit: Audit, out: str | os.PathLike[str], *, tolerance: float = 0.1, budget: float | None = None, seed: int = 0
) -> Path:
    """Write the measurements, `recommendation.json`, `preset.json`, `figures/`, and `index.html`.

    Parameters
    ----------
    audit : Audit
    out : path
        Folder. Each file in it is written whole or not at all. What `apply` measured there of this very recommendation
        is shown; of another one, it is removed.
    tolerance, budget : float
        As in `advice`.
    seed : int
        Seed of the audit, recorded in the figures.

    Returns
    -------
    Path
        The page.
    """
    out = Path(out)
    recommended = advice(audit, tolerance=tolerance, budget=budget)
    prompts = prompt_advice(audit, tolerance=tolerance)
    found = recommendation.recommendation(audit, recommended, prompts, tolerance=tolerance, budget=budget)
    if not _same(found, out / recommendation.FILE):
        outcome.remove(out)
    audit.save(out)
    recommendation.write(found, out)
    measured = outcome.Applied.load(out)
    page = environment().get_template("audit.html.j2").render(
        root="",
        about=audit.about,
        headline=headline(recommended, tolerance=tolerance, budget=budget),
        layers=records(layers(audit, recommended, prompts)),
        key_heads=_by_layer(recommended),
        heads=_by_layer(audit.heads),
        applied=measured and measured.summary(),
        interval=interval,
        mine=ADVICE,
        contender=label,
        figures=_figures(audit, recommended, out, tolerance, seed),
        keep=KEEP,
        labels={name: str(style["label"]) for name, style in METHODS.items()},
        theorems=records(theorems(audit)),
        methods=records(methods(audit, tolerance=tolerance)),
        tolerance=tolerance,
        budget=budget,
        snippet=recommendation.SNIPPET,
        share_text=share_text,
        eps=EPS,
        failure=FAILURE,
    )  # fmt: skip
    files.write_text(out / "report.css", stylesheet())
    files.write_text(out / "index.html", page)
    return out / "index.html"


def rewrite(folder: Path) -> bool:
    """Write the page again, with what was measured since of its recommendation; False if the folder has no audit."""
    if not (folder / ABOUT).exists():
        return False
    found, audit = recommendation.read(folder / recommendation.FILE), Audit.load(folder)
    write(audit, folder, tolerance=found["tolerance"], budget=found["budget"], seed=found["seed"])
    return True


def summary(audit: Audit, *, tolerance: float = 0.1, budget: float | None = None) -> tuple[str, pd.DataFrame]:
    """What a terminal shows, within 80 columns: a headline, and a row per layer."""
    recommended = advice(audit, tolerance=tolerance, budget=budget)
    table = layers(audit, recommended, prompt_advice(audit, tolerance=tolerance))
    shown = pd.DataFrame(
        {
            "layer": table["layer"],
            "caches of its key heads": table["caches"],
            "bytes": table["bytes"].map("{:.0%}".format),
            "error": table["error"].map("{:.2g}".format),
            "prompt": table["prompt"].str.replace("HyperAttention", "Hyper"),
            "error ": table["best_prompt_error"].map("{:.2g}".format),
        }
    )
    return headline(recommended, tolerance=tolerance, budget=budget), shown


def applied(measured: outcome.Applied) -> Iterator[tuple[str, pd.DataFrame]]:
    """What a terminal shows of a recommendation that was applied, within 80 columns: verdicts, each with a table."""
    summary = measured.summary()
    table = pd.DataFrame(summary["perplexity"]["methods"])
    names = {"method": table["method"].map(label), "bytes": table["share"].map("{:.1%}".format)}
    losses = {
        "perplexity": table["perplexity"].map("{:.4g}".format),
        "x exact [99 %]": [interval(row, "exact") for row in records(table)],
        "x advice [99 %]": [interval(row, "advice") for row in records(table)],
    }
    yield summary["perplexity"]["verdict"], pd.DataFrame(names | losses)
    if summary["retrieval"]:
        table = pd.DataFrame(summary["retrieval"]["methods"])
        others = table["method"] != ADVICE
        names = {"method": table["method"].map(label), "bytes": table["share"].map("{:.1%}".format)}
        limits = [f"{row['rate']:.0%} [{row['low']:.0%}, {row['high']:.0%}]" for row in records(table)]
        alone = {"only it": table["lost"], "only advice": table["gained"], "p": table["p"].map("{:.2g}".format)}
        pairs = {name: column.astype(str).where(others, "") for name, column in alone.items()}
        yield summary["retrieval"]["verdict"], pd.DataFrame(names | {"answered [99 %]": limits} | pairs)


def interval(row: Mapping[str, Any], name: str) -> str:
    """A ratio with its limits; those that come to 1 by definition are left out."""
    if row[f"{name}_low"] == row[f"{name}_high"]:
        return "1"
    return f"{row[name]:.3g} [{row[f'{name}_low']:.3g}, {row[f'{name}_high']:.3g}]"


def _same(found: Mapping[str, Any], path: Path) -> bool:
    """Whether a file holds this very recommendation."""
    return path.exists() and files.read_json(path) == plain(found)


def _by_layer(table: pd.DataFrame) -> dict[int, list[dict[str, Any]]]:
    return {layer: records(table[table["layer"] == layer]) for layer in table["layer"].unique().tolist()}


def _figures(audit: Audit, recommended: pd.DataFrame, out: Path, tolerance: float, seed: int) -> list[dict[str, Any]]:
    about, where = audit.about, audit.where
    middle = about["shares"][len(about["shares"]) // 2]
    late = f"the last {about['queries']} queries ({where})"
    captions: dict[str, tuple[Any, Any, str]] = {
        "advice": (
            figures.advised(recommended),
            recommended,
            f"What each key head is advised to take: the cache by colour, its share of the exact cache's bytes in the "
            f"cell ({where}).",
        ),
        "tolerance": (
            figures.tolerances(audit, tolerance),
            figures.saved_by_tolerance(audit),
            "Bytes of all caches over the exact ones', when every key head takes the least share within a tolerance: "
            f"the best method for each head, and each method alone. Error of the worst query head over {late}.",
        ),
        "errors": (
            figures.errors(audit.errors, middle),
            audit.errors,
            f"Relative error of {late}, answered from the keys before them, when a cache may take "
            f"{share_text(middle)} of the exact one's bytes, and HyperAttention reads as many of the keys per query. "
            f"Errors above {figures.LARGE} have its colour.",
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
    params = {key: about[key] for key in ("source", "tokens", "shares")}
    rows = []
    for name, (figure, data, caption) in captions.items():
        paths = save(figure, name, out=out, params=params, seed=seed, data=data, caption=caption, backend="numpy")
        rows.append(described(paths["json"]))
    return rows
