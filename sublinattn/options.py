"""Options that several commands have, each with one wording."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

Effort = StrEnum("Effort", ["smoke", "standard", "full"])
Backend = StrEnum("Backend", ["auto", "numpy", "cupy"])

EffortOption = Annotated[
    Effort, typer.Option(help="smoke takes minutes, standard an hour or two; full is meant for a GPU or a cluster.")
]
SeedOption = Annotated[int, typer.Option(min=0, help="Seed of all random draws: the same seed gives the same results.")]


def _address(text: str | None) -> str | None:
    """An empty address, of a variable that is not set, say, does not mean to run here."""
    if text is not None and not text.strip():
        raise typer.BadParameter(f"takes an address such as tcp://host:8786, got {text!r}")
    return text


SchedulerOption = Annotated[
    str | None,
    typer.Option(metavar="ADDRESS", help="Make the trials on the Dask cluster of this scheduler.", callback=_address),
]
BackendOption = Annotated[
    Backend, typer.Option(help="Array library; auto means CuPy where there is a GPU, else NumPy.")
]
