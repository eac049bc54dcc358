"""What there is, listed in a moment: the claims, without the seconds that importing them takes, and the notebooks.

Statements of claims are SymPy expressions. Their list is stored beside the compiled modules, with the hash of the
sources that it was derived from, and is derived again as soon as any source of the package differs.
"""

from __future__ import annotations

from contextlib import suppress
from importlib.util import cache_from_source
from pathlib import Path
from typing import Any

from ..core import files
from ..core.names import suggestion
from ..core.provenance import source_hash

COLUMNS = ("id", "paper", "basis", "title", "kind", "sabotages", "trial")
STORED = Path(cache_from_source(__file__)).with_name("claims.json")


def notebooks() -> Path:
    """The folder of the notebooks: `notebooks` here, else the package's own, in its wheel or in its clone."""
    package = Path(__file__).resolve().parents[1]
    places = (Path("notebooks"), package / "notebooks", package.parent / "notebooks")
    return next(filter(Path.is_dir, places), places[0])


def catalogue() -> list[dict[str, Any]]:
    """One mapping per claim, sorted by id: id, paper, basis, title, kind, number of sabotages, place of the trial."""
    source = source_hash()
    with suppress(OSError, ValueError):
        stored = files.read_json(STORED)
        if stored["source"] == source:
            return [dict(zip(COLUMNS, row, strict=True)) for row in stored["claims"]]
    from ..theory import CLAIMS

    rows = [
        (c.id, c.paper, c.basis, c.title, type(c.kind).__name__.lower(), len(c.sabotages), c.where)
        for _, c in sorted(CLAIMS.items())
    ]
    with suppress(OSError):  # an installation that cannot be written to lists its claims slowly
        files.write_json(STORED, {"source": source, "claims": rows})
    return [dict(zip(COLUMNS, row, strict=True)) for row in rows]


def listing(
    paper: str | None = None,
    basis: str | None = None,
    kind: str | None = None,
    outcome: str | None = None,
    ledger: Path | None = None,
) -> list[dict[str, Any]]:
    """The claims of a paper, on a basis, of a kind, with an outcome in a ledger: as `catalogue`, and `outcome` or None.

    The ledger is `ledger.json` of the working directory unless it is named.

    Raises
    ------
    ValueError
        No claim is of this paper; an outcome is asked for and there is no ledger; the file is none.
    FileNotFoundError
        The ledger that is named does not exist.
    """
    claims = catalogue()
    papers = sorted({claim["paper"] for claim in claims})
    if paper is not None and paper not in papers:
        nearest = suggestion(paper.upper(), papers)
        raise ValueError(f"no claim is of the paper {paper!r}{nearest} (there are {', '.join(papers)})")
    if ledger is None and Path("ledger.json").exists():
        ledger = Path("ledger.json")
    if ledger is None and outcome is not None:
        raise ValueError("there is no ledger.json here: name the ledger of a run, as in --ledger out/ledger.json")
    with files.reading(ledger or "", "a ledger"):
        entries = {} if ledger is None else files.read_json(ledger)["claims"]
        found = {name: entry["outcome"] for name, entry in entries.items()}
    wanted = {"paper": paper, "basis": basis, "kind": kind, "outcome": outcome}
    rows = [{**claim, "outcome": found.get(claim["id"])} for claim in claims]
    return [row for row in rows if all(value in (None, row[name]) for name, value in wanted.items())]
