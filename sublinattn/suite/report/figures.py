"""The figures of a run, as the report shows them: titles, tables of their numbers, points to hover."""

from __future__ import annotations

import csv
import io
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...core import files
from ...lab import parameters
from ...plots.captions import title

FORMATS = ("svg", "pdf", "png", "json")
EVERYWHERE = 12
"""A figure of more claims than this is an overview: their pages link to it, and do not repeat it."""


def copied(source: Path, target: Path) -> dict[str, dict[str, Any]]:
    """Copy the figures that have a sidecar. Returns by name what the pages need of each."""
    target.mkdir(parents=True)
    figures = {}
    for sidecar in sorted(source.glob("*.json")):
        formats = [suffix for suffix in FORMATS if sidecar.with_suffix(f".{suffix}").exists()]
        if "svg" in formats:
            for suffix in formats:
                shutil.copyfile(sidecar.with_suffix(f".{suffix}"), target / f"{sidecar.stem}.{suffix}")
            figures[sidecar.stem] = described(sidecar, target)
    return figures


def described(sidecar: Path, target: Path | None = None) -> dict[str, Any]:
    """What a page needs of a figure; its numbers are written as CSV into a folder, by default that of the sidecar."""
    facts = files.read_json(sidecar)
    with files.reading(sidecar, "what stands beside a figure"):
        return _described(sidecar, facts, target or sidecar.parent)


SIDECAR = {"backend": str, "caption": str, "claims": list, "code": str, "data": dict, "params": dict, "seed": int}
"""What a page needs of a sidecar, and of which type."""


def _described(sidecar: Path, facts: Mapping[str, Any], target: Path) -> dict[str, Any]:
    for name, kind in SIDECAR.items():
        if not isinstance(facts[name], kind):
            raise ValueError(f"{name} must be of type {kind.__name__}, got {facts[name]!r}")
    if facts["params"].get("notebook"):
        str(facts["params"]["effort"])
    for x, y, _ in facts.get("hover", {}).get("points", ()):
        float(x), float(y)
    if "hover" in facts:
        _, _ = (float(length) for length in facts["hover"]["size"])
    notebook = str(facts["params"].get("notebook") or "")
    return {
        **facts,
        "name": sidecar.stem,
        "title": title(facts["caption"]),
        "claims": set(facts["claims"]),
        "notebook": notebook,
        "given": parameters.changed(notebook, facts["params"]),
        "options": parameters.options(notebook, facts["params"]),
        "formats": [suffix for suffix in FORMATS if sidecar.with_suffix(f".{suffix}").exists()],
        "tables": _tables(sidecar.stem, facts["data"], target),
        "hover": facts.get("hover") or {"size": _size(sidecar.with_suffix(".svg")), "points": []},
    }


def _tables(name: str, data: Mapping[str, Mapping[str, list[Any]]], target: Path) -> list[dict[str, str]]:
    """Write each table of a sidecar as CSV; file and label of each. Files are numbered: a label may be anything."""
    written = []
    for number, (label, columns) in enumerate(data.items(), start=1):
        file = f"{name}.csv" if len(data) == 1 else f"{name}-{number}.csv"
        text = io.StringIO(newline="")
        lines = csv.writer(text, lineterminator="\n")
        lines.writerow(columns)
        lines.writerows(zip(*columns.values(), strict=True))
        files.write_text(target / file, text.getvalue())
        written.append({"file": file, "label": "CSV" if len(data) == 1 else f"CSV of {label}"})
    return written


def _size(svg: Path) -> list[float]:
    """Width and height that a picture says of itself, in points; those of a page's width where it says nothing."""
    head = svg.read_text(encoding="utf-8")[:4000]
    found = [re.search(rf'<svg[^>]* {side}="([\d.]+)pt"', head) for side in ("width", "height")]
    return [float(match[1]) for match in found if match] if all(found) else [396.0, 280.0]
