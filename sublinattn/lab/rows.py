"""Experiment rows on disk: one Parquet file per figure."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd

from . import files


def write(rows: pd.DataFrame, name: str, *, out: str | os.PathLike[str]) -> Path:
    """Write `out/rows/<name>.parquet`, whole or not at all; `name` is that of the figure that shows the rows.

    Raises
    ------
    ValueError
        A table without rows: an experiment that measured nothing is no experiment.
    """
    if rows.empty:
        raise ValueError(f"rows of {name!r} must hold at least one measurement, got none")
    path = Path(out) / "rows" / f"{name}.parquet"
    with files.atomic(path) as temporary:
        rows.to_parquet(temporary, index=False)
    return path
