"""The list of all claims, without the seconds that importing them takes (their statements are SymPy expressions).

The list is stored beside the compiled modules, with the hash of the sources that it was derived from, and is derived
again as soon as any source of the package differs.
"""

from __future__ import annotations

from contextlib import suppress
from importlib.util import cache_from_source
from pathlib import Path
from typing import Any

from ..core import files
from ..core.provenance import source_hash

COLUMNS = ("id", "paper", "basis", "title", "kind", "sabotages", "trial")
STORED = Path(cache_from_source(__file__)).with_name("claims.json")


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
