"""One call per figure of a notebook: rows to Parquet, figure to its files, image and caption to the reader."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from IPython.display import Image, Markdown, display
from matplotlib.figure import Figure

from ..core import files
from ..plots.save import save

_PIXELS_PER_INCH = 130  # on the page; the file has more


def publish(
    fig: Figure,
    name: str,
    *,
    rows: pd.DataFrame,
    caption: str,
    run: Mapping[str, Any],
    claim: str | Sequence[str] | None = None,
    data: pd.DataFrame | Mapping[str, pd.DataFrame] | None = None,
) -> None:
    """Save a figure with its rows, and show it.

    Parameters
    ----------
    fig, name, claim, caption
        As `save`.
    rows : DataFrame
        The measurements, one per line: `out/rows/<name>.parquet`.
    run : mapping
        The notebook's parameters: "seed", "backend", "out", "effort" and its own knobs.
    data : DataFrame or mapping of str to DataFrame, optional
        The plotted numbers for the sidecar, where they are not the rows themselves.
    """
    files.write_rows(rows, name, out=run["out"])
    params = {key: value for key, value in run.items() if key not in ("out", "seed", "backend")}
    table = rows if data is None else data
    about = {"claim": claim, "params": params, "seed": run["seed"], "backend": run["backend"], "caption": caption}
    paths = save(fig, name, out=run["out"], data=table, **about)
    width = round(fig.get_figwidth() * _PIXELS_PER_INCH)
    display(Image(filename=str(paths["png"]), width=width, alt=caption), Markdown(f"**{name}.** {caption}"))
