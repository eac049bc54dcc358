"""The main job with several seeds: does a verdict hinge on one draw?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..core import files
from ..lab import ledger
from . import report, runner


def run(
    notebooks: Path | str | None = None, *, seeds: int, seed: int = 0, out: Path | str = "out", **options: Any
) -> runner.Result:
    """Run everything with the seeds `seed`, `seed + 1`, ..., and say in the ledger of the first how the verdicts agree.

    The first run is written to `out`, the others to `out/seeds/<seed>`; the options are those of `runner.run`. The
    result is that of the first run, with all failed notebooks, and with every seed's changes that fail a run.
    """
    if seeds < 1:
        raise ValueError(f"seeds must be at least 1, got {seeds}")
    out = Path(out)
    with files.locked(out):  # to the last line that is written
        first = runner.run_held(notebooks, seed=seed, out=out, **options)
        others = {
            s: runner.run(notebooks, seed=s, out=out / "seeds" / str(s), **options)
            for s in range(seed + 1, seed + seeds)
        }
        if not others:
            return first
        first.ledger["seeds"] = agreement({seed: first.ledger, **{s: r.ledger for s, r in others.items()}})
        ledger.write(out / "ledger.json", first.ledger)
        return replace(
            first,
            outcomes=(*first.outcomes, *(outcome for result in others.values() for outcome in result.outcomes)),
            changes=(*first.changes, *(c for result in others.values() for c in result.changes if c.fails)),
            report=report.build(out),
        )


def agreement(ledgers: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """The outcome of each claim with each seed, and merged.

    Merged is *refuted* if any seed refutes, since a true claim is hardly ever refuted with any seed; otherwise the
    outcome that all seeds share, or *undecided*.
    """
    first = next(iter(ledgers.values()))
    claims = {}
    for name in first["claims"]:
        outcomes = [
            book["claims"][name]["outcome"] if name in book["claims"] else "missing" for book in ledgers.values()
        ]
        shared = outcomes[0] if len(set(outcomes)) == 1 else "undecided"
        claims[name] = {"outcomes": outcomes, "merged": "refuted" if "refuted" in outcomes else shared}
    return {"seeds": list(ledgers), "claims": claims}
