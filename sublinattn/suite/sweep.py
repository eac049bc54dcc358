"""The main job for several values of one parameter: does what is measured move with it?

Each value has a run of its own, with verdicts and report, in `sweep/<name>=<value>` of the output folder. Over all of
them there are one figure for each figure of the notebooks that says what it measures (`Run.publish(measured=...)`), and
one table.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from .. import methods
from ..core import files
from ..lab import parameters as registry
from ..plots.panels import facets
from ..plots.save import save
from ..plots.style import METHODS, paper_style, series
from . import runner

FOLDER = "sweep"
_LOG_FROM = 4
"""Values that span this factor or more are shown on a logarithmic axis."""


@dataclass(frozen=True)
class Sweep:
    """The results of a sweep."""

    results: Mapping[str, runner.Result]
    """By folder, such as "n=1024"."""
    figures: tuple[Path, ...]
    table: Path | None
    """CSV: figure, the parameter, what tells measurements apart, median, 10 and 90 percent quantiles, their number."""

    @property
    def exit_code(self) -> int:
        """That of the worst of its runs."""
        return max(result.exit_code for result in self.results.values())


def run(
    notebooks: Path | str | None = None,
    *,
    name: str,
    values: Sequence[Any],
    seeds: int = 1,
    out: Path | str = "out",
    parameters: Mapping[str, Any] | None = None,
    **options: Any,
) -> Sweep:
    """Run the notebooks that have the parameter `name` once per value; the other options are those of `runner.run`.

    A run that is resumed skips what is complete. ValueError, before anything runs, for fewer than two values, a value
    twice, several seeds, one that the parameter does not take, or a parameter that no selected notebook has.
    """
    folders = [f"{name}={re.sub(r'[^A-Za-z0-9._-]+', '-', str(value))}" for value in values]
    if len(values) < 2 or len(set(folders)) < len(folders):
        raise ValueError(f"a sweep takes two or more values, each once, got {name}={','.join(map(str, values))}")
    if seeds != 1:
        raise ValueError(f"a sweep runs one seed, got seeds = {seeds}")
    if name in (parameters or {}):
        raise ValueError(f"{name!r} is swept, so it cannot be set as well")
    each = [{**(parameters or {}), name: value} for value in values]
    common = {one: options.get(one, "out") for one in ("effort", "seed", "backend", "out")}
    jobs = [runner.plan(notebooks, common, extra, only=options.get("only"), having=name)[0] for extra in each]
    shown = {folder: _alone(job.parameters[name]) for folder, job in zip(folders, jobs, strict=True)}
    out = Path(out)
    with files.locked(out):
        results = {
            folder: runner.run(notebooks, out=out / FOLDER / folder, parameters=extra, having=name, **options)
            for folder, extra in zip(folders, each, strict=True)
        }
        return Sweep(results, *_over(out / FOLDER, name, shown, options.get("seed", 0)))


def _alone(value: Any) -> Any:
    """A value as an axis shows it: one of several that is alone by itself, more of them as text."""
    if isinstance(value, list):
        return value[0] if len(value) == 1 else ", ".join(map(str, value))
    return value


def _over(folder: Path, name: str, values: Mapping[str, Any], seed: int) -> tuple[tuple[Path, ...], Path | None]:
    """Draw every figure that all values' runs have and that says what it measures; paths of figures and table."""
    for info in walk_packages(methods.__path__, f"{methods.__name__}."):
        if info.ispkg and info.name.endswith(".studies"):
            import_module(info.name)  # where the methods' looks are registered
    figures, tables = [], []
    for figure, frames in _measured(folder, name, values).items():
        notebook, (measured, *by) = frames[0].attrs["notebook"], frames[0].attrs["swept"]
        by = [column if column != name else None for column in by]
        held_at = [column for column in by[2:] if column]
        rows, held = _at_common(pd.concat(frames, ignore_index=True).dropna(subset=measured), held_at, name)
        known = registry.of(notebook).get(name)
        label = f"{name} ({known.meaning})" if known else name
        fig = _draw(rows, name, measured, by[:2], xlabel=f"{label}{held}")
        path = save(
            fig,
            f"sweep-{name}-{figure}".replace("_", "-").lower(),
            out=folder,
            params={"notebook": notebook, name: list(values.values())},
            seed=seed,
            data=rows,
            caption=f"{measured} over {label}{held}, as in figure {figure} of notebook {notebook}, a run per value: "
            "medians and 10 to 90 % ranges.",
        )
        figures.append(path["png"])
        apart = {column: title for column, title in zip(by, ("line", "panel"), strict=False) if column}
        parts = rows.groupby([name, *apart], sort=False)[measured]
        table = parts.quantile([0.5, 0.1, 0.9]).unstack().set_axis(["median", "10 %", "90 %"], axis=1)
        table = table.assign(rows=parts.size(), figure=figure, measured=measured).reset_index()
        tables.append(table.rename(columns=apart))
    if not tables:
        return (), None
    table = pd.concat(tables, ignore_index=True)
    first = ["figure", "measured", name, *(column for column in ("panel", "line") if column in table)]
    files.write_text(folder / f"{name}.csv", table[[*first, "median", "10 %", "90 %", "rows"]].to_csv(index=False))
    return tuple(figures), folder / f"{name}.csv"


def _measured(folder: Path, name: str, values: Mapping[str, Any]) -> dict[str, list[pd.DataFrame]]:
    """By figure, the rows of every run, where all runs have them."""
    found: dict[str, list[pd.DataFrame]] = {}
    for run_of, value in values.items():
        for path in sorted((folder / run_of / "figures").glob("*.json")):
            sidecar = files.read_json(path)
            if "swept" not in sidecar or not (folder / run_of / "rows" / f"{path.stem}.parquet").exists():
                continue
            rows = files.read_rows(folder / run_of / "rows" / f"{path.stem}.parquet")
            if name in rows and (rows[name] == value).any():  # an input of fixed size has another n than was given
                rows = rows[rows[name] == value]
            rows = rows.assign(**{name: value})
            rows.attrs = {"swept": sidecar["swept"], "notebook": sidecar["params"]["notebook"]}
            found.setdefault(path.stem, []).append(rows)
    return {figure: frames for figure, frames in found.items() if len(frames) == len(values)}


def _at_common(rows: pd.DataFrame, columns: Sequence[str], name: str) -> tuple[pd.DataFrame, str]:
    """The rows at one value of each of these columns, and words that say which.

    It is the value for which every run has measurements, most of them for the run with fewest; of several the largest.
    """
    words = ""
    for column in columns:
        numbers = rows.groupby([column, name]).size().unstack(fill_value=0).min(axis=1)
        if not numbers.max():
            words += f", all values of {column}"
            continue
        value = numbers.index[numbers == numbers.max()].max()
        rows, words = rows[(rows[column] == value) | rows[column].isna()], f"{words}, {column} {value:g}"
    return rows, words


@paper_style()
def _draw(rows: pd.DataFrame, name: str, measured: str, by: Sequence[str | None], *, xlabel: str) -> Figure:
    """A panel per input (or what else tells panels apart), a line per method, over the swept values."""
    hue, facet = [*by, None, None][:2]
    if hue and pd.api.types.is_numeric_dtype(rows[hue]):  # a number alone says little in a legend
        rows = rows.assign(**{hue: [f"{hue} {value:g}" for value in rows[hue]]})
    values = rows[measured].replace([np.inf, -np.inf], np.nan).dropna()
    log = len(values) and values.min() > 0 and values.max() > 10 * values.min()
    options: dict[str, Any] = {"hue": hue, "facet": facet}
    if hue and not set(rows[hue]) <= set(METHODS):
        options["looks"] = series(*rows[hue].unique())
    if hue and log and "exact" in set(rows[hue]):
        options["exact"] = "exact"
    if not pd.api.types.is_numeric_dtype(rows[name]):
        return facets(rows, x=measured, y=name, xlabel=measured, logx=bool(log), **options)  # a line per text
    wide = rows[name].min() > 0 and rows[name].max() >= _LOG_FROM * rows[name].min()
    return facets(rows, x=name, y=measured, xlabel=xlabel, ylabel=measured, logx=bool(wide), logy=bool(log), **options)
