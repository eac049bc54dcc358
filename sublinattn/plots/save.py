"""A figure goes to disk with where it came from, and in the same bytes every time.

SVG and PDF for papers, PNG for pages, JSON with the plotted numbers and where they lie in the picture. What identifies
the figure (claims, parameters, seed, backend, hash of the code) is inside each image too. What differs between two runs
of the same thing (commit, versions, machine, time) stands only in the JSON, under "machine".
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from ..core import backends, files, provenance
from ..core.plain import plain
from .marks import marks
from .style import paper_style

_PNG_DPI = 200


def save(
    fig: Figure,
    name: str,
    *,
    out: str | os.PathLike[str],
    claim: str | Sequence[str] | None = None,
    params: Mapping[str, Any],
    seed: int,
    data: pd.DataFrame | Mapping[str, pd.DataFrame],
    caption: str,
    backend: str = "auto",
    swept: Sequence[str | None] = (),
) -> dict[str, Path]:
    """Write a figure as SVG, PDF and PNG with a JSON sidecar: `out/figures/<name>.{svg,pdf,png,json}`.

    Parameters
    ----------
    fig : matplotlib.figure.Figure
        Made under `paper_style`; stays open.
    name : str
        File name without suffix: lower case letters, digits, hyphens.
    out : path
        Folder of the run.
    claim : str or sequence of str, optional
        Id of each claim that the figure shows.
    params : mapping
        What the numbers were computed with, as JSON values.
    seed : int
        Seed of the run.
    data : DataFrame or mapping of str to DataFrame
        The plotted numbers, table by table. A named or non-trivial index becomes columns.
    caption : str
        What the reader sees; also the title in each image's metadata.
    backend : "auto", "numpy" or "cupy"
        Where the numbers were computed.
    swept : sequence of str
        Columns of the figure's rows that a sweep reads: what is measured, and what tells measurements apart.

    Returns
    -------
    dict of str to Path
        Keys "svg", "pdf", "png", "json".

    Raises
    ------
    TypeError, ValueError
        An argument of the wrong kind, before anything is written. If drawing fails, no file of the four is changed.
    """
    if not isinstance(fig, Figure):
        raise TypeError(f"fig must be a matplotlib Figure, got {type(fig).__name__}")
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
        raise ValueError(f"name must be lower case letters, digits and single hyphens, got {name!r}")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"seed must be an int, got {seed!r}")
    if not caption.strip():
        raise ValueError("caption must say what the figure shows, got an empty string")
    identity = {
        "backend": backends.backend(backend).__name__,
        "claims": [claim] if isinstance(claim, str) else list(claim or ()),
        "code": provenance.source_hash(),
        "params": dict(params),
        "seed": seed,
    }
    try:
        embedded = json.dumps(identity, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise type(error)(f"claim and params must be JSON values: {error}") from None
    tables = {name: data} if isinstance(data, pd.DataFrame) else data
    sidecar = {
        **identity,
        "figure": name,
        "caption": caption,
        "data": {table: _columns(table, frame) for table, frame in tables.items()},
        "machine": provenance.provenance(),
    } | ({"swept": list(swept)} if swept else {})
    # None removes what Matplotlib would add by itself: dates and its own version.
    metadata = {
        "svg": {"Title": caption, "Description": embedded, "Date": None, "Creator": None},
        "pdf": {"Title": caption, "Keywords": embedded, "CreationDate": None, "Creator": None, "Producer": None},
        "png": {"Title": caption, "Description": embedded, "Software": None},
    }
    paths = {suffix: Path(out) / "figures" / f"{name}.{suffix}" for suffix in (*metadata, "json")}
    with ExitStack() as stack, paper_style():
        mpl.rcParams["svg.hashsalt"] = name  # else ids inside the SVG are random
        temporary = {suffix: stack.enter_context(files.atomic(path)) for suffix, path in paths.items()}

        for suffix, about in metadata.items():
            drawn = BytesIO()  # on a full disk the PDF writer ends in an error of its own, and holds the file
            fig.savefig(drawn, format=suffix, dpi=_PNG_DPI, metadata=about)
            temporary[suffix].write_bytes(drawn.getvalue())
        sidecar["hover"] = marks(fig)  # once it is drawn
        files.write_json(temporary["json"], sidecar)
    return paths


def _columns(table: str, frame: Any) -> dict[str, list[Any]]:
    """A table as JSON: column by column, every number in full, NaN and infinities as "nan", "inf", "-inf"."""
    if not isinstance(frame, pd.DataFrame):
        raise TypeError(f"data must be a DataFrame or a mapping of them, got {type(frame).__name__} for {table!r}")
    if not isinstance(frame.index, pd.RangeIndex):
        frame = frame.reset_index()
    return {str(column): [_value(table, column, x) for x in frame[column].tolist()] for column in frame.columns}


def _value(table: str, column: Any, x: Any) -> Any:
    if x is None or isinstance(x, (bool, int, float, str)):
        return plain(x)
    raise TypeError(f"data must hold numbers and strings, got {type(x).__name__} in {table!r}, column {column!r}")
