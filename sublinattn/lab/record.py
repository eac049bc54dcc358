"""What differs between two ledgers: an earlier one, the record, and that of a run.

Every difference is reported. Which of them fail a run depends on what a difference means:

- A claim on record as supported that is refuted now always fails.
- Where the run repeats the record's draws (same effort, seed and backend), verdicts may not get worse in any way: a
  claim that is newly refuted, that is no longer supported, or whose sabotage is no longer caught, fails as well.
- Claims about this machine's seconds or bytes depend on what else it does: of these only a refutation fails.
- A claim that is gone fails a run of all notebooks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Entry = Mapping[str, Any]


@dataclass(frozen=True)
class Change:
    """One difference: `was` on record, `now` in the run; `fails` says whether it fails the run."""

    claim: str
    was: str
    now: str
    fails: bool


def changes(old: Mapping[str, Any], new: Mapping[str, Any], *, complete: bool = True) -> tuple[Change, ...]:
    """Every difference between the verdicts of two ledgers, by claim; a `complete` run should have all of `old`."""
    before, after = old["claims"], new["claims"]
    found: list[Change] = []
    for name in sorted(before.keys() | after.keys()):
        if name not in before and after[name].get("own"):
            continue  # a user's own claim has no record
        if name not in before:
            found.append(Change(name, "not on record", after[name]["outcome"], fails=False))
        elif name in after:
            found += _compare(name, before[name], after[name])
        elif complete:
            found.append(Change(name, before[name]["outcome"], "gone", fails=True))
    return tuple(found)


def check(record: Mapping[str, Any]) -> None:
    """Compare a record with itself: a KeyError or the like where it lacks what a comparison needs."""
    changes(record, record)
    for name, entry in record["claims"].items():
        why(Change(name, entry["outcome"], entry["outcome"], fails=False), record, record)


def _compare(name: str, was: Entry, now: Entry) -> Iterator[Change]:
    repeated = all(was[key] == now[key] for key in ("effort", "seed", "backend"))
    strict = repeated and not _about_the_machine(now)
    if was["outcome"] != now["outcome"]:
        refuted, supported = now["outcome"] == "refuted", was["outcome"] == "supported"
        fails = (refuted or supported) if strict else (refuted and supported)
        yield Change(name, was["outcome"], now["outcome"], fails)
    caught = {sabotage["name"]: sabotage["caught"] for sabotage in now["sabotages"]}
    for sabotage in was["sabotages"]:
        if sabotage["caught"] and not caught.get(sabotage["name"], False):
            lost = "not caught" if sabotage["name"] in caught else "gone"
            yield Change(name, f"sabotage {sabotage['name']!r} caught", lost, fails=strict)


def why(change: Change, old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """What may explain a difference, as far as two ledgers tell."""
    was, now = old["claims"].get(change.claim), new["claims"].get(change.claim)
    if was is None:
        return "the claim is newer than the record"
    if now is None:
        return "the suite has no such claim any more, or its notebook failed"
    if was["definition"] != now["definition"]:
        return f"it was restated ({now['restated']})"
    for key in ("effort", "seed", "backend"):
        if was[key] != now[key]:
            return f"{key} {now[key]} here, {was[key]} on record"
    if _about_the_machine(now):
        return "it is about this machine's times or bytes, and depends on what else runs on it"
    sources = {entry["machine"]["provenance"]["source"] for entry in (was, now)}
    return "the code has changed since" if len(sources) > 1 else "same code and same draws: look at the versions"


def _about_the_machine(entry: Entry) -> bool:
    return "reason" in entry["machine"]  # see `Verdict.to_dict`
