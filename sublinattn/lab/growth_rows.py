"""Critical sample sizes and their fits, from the verdicts that `lab.ledger.check` left in the run's folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ..core import files
from .ledger import reunite


def fits(claims: Sequence[str], *, out: str | os.PathLike[str]) -> pd.DataFrame:
    """Measured and theoretical exponents of the growth claims, one row per claim and variable.

    Returns
    -------
    DataFrame
        claim, variable, theory (LaTeX), measured, lower, upper (99 percent limits, each side), theory_exponent (over
        the same grid), outcome.
    """
    rows = [
        (
            claim,
            f["variable"],
            f["theory"],
            *(float(f[x]) for x in ("measured_exponent", "lower", "upper", "theory_exponent")),
            f["outcome"],
        )
        for claim in claims
        for f in _record(out, claim)["fits"]
    ]
    return pd.DataFrame(
        rows, columns=["claim", "variable", "theory", "measured", "lower", "upper", "theory_exponent", "outcome"]
    )


def sizes(claims: Sequence[str], *, out: str | os.PathLike[str]) -> pd.DataFrame:
    """The critical sizes that were fitted: claim, variable, x, replicate, size (inf where none was found up to the
    cap)."""
    rows = [
        (claim, f["variable"], float(x), replicate, float(size))
        for claim in claims
        for f in _record(out, claim)["fits"]
        for x, sizes in zip(f["abscissas"], f["sizes"], strict=True)
        for replicate, size in enumerate(sizes)
    ]
    return pd.DataFrame(rows, columns=["claim", "variable", "x", "replicate", "size"])


def largest_excess(table: pd.DataFrame) -> list[str]:
    """For each claim, the variable whose measured exponent comes closest to the theory's or exceeds it most, read in
    the direction of growth."""
    grown = table.assign(
        excess=(table["measured"] - table["theory_exponent"])
        * table["theory_exponent"].map(lambda e: -1 if e < 0 else 1)
    )
    grown = grown.dropna(subset=["excess"])
    worst = grown.loc[grown.groupby("claim", sort=False)["excess"].idxmax()]
    return [f"{row.claim} {row.excess:+.2f} in {row.variable}" for row in worst.itertuples()]


def _record(out: str | os.PathLike[str], claim: str) -> dict[str, Any]:
    path = Path(out) / "verdicts" / f"{claim}.json"
    if not path.exists():
        raise FileNotFoundError(f"no verdict on {claim} in {path.parent.name}/: check the claim before drawing it")
    return reunite(files.read_json(path))
