"""Records of dossiers: one JSON file each in `figures/gpu`, named after the day and the card."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ...core.files import read_json, write_json
from .device import ROOT

FOLDER = ROOT / "figures" / "gpu"


def write(path: Path, record: dict[str, Any]) -> None:
    """Write a record whole, without the folders of the machine that it was made on."""
    write_json(path, without_folders(record))


def without_folders(value: Any) -> Any:
    """The value with absolute paths in its texts cut down to their last part."""
    if isinstance(value, dict):
        return {key: without_folders(x) for key, x in value.items()}
    if isinstance(value, list):
        return [without_folders(x) for x in value]
    return re.sub(r"(?<![\w.:/])/(?:[\w.+@-]+/)+", "", value) if isinstance(value, str) else value


def card(record: dict[str, Any]) -> str:
    """The card's name, as CUDA gives it."""
    rows = record["steps"].get("environment", {}).get("rows", [])
    return rows[0]["cuda"].get("name", "unknown card") if rows else "unknown card"


def place(record: dict[str, Any]) -> Path:
    """Where the record belongs: `figures/gpu/<date>-<card>.json`."""
    words = re.findall(r"[a-z0-9]+", card(record).lower())
    return FOLDER / f"{record['started'][:10]}-{'-'.join(words)}.json"


def newest() -> dict[str, Any] | None:
    """The latest record there is, by its start; None if there is none."""
    records = [read_json(path) for path in FOLDER.glob("*.json")]
    return max(records, key=lambda record: record["started"], default=None)
