"""The ledger: one entry per claim, with its verdict and all that is needed to judge and to repeat it.

Notebooks call `check`, which writes one file per claim; `merge` puts those files together. Whatever differs between two
runs of the same seed (times, bytes, versions) stands under keys named "machine", and `comparable` drops them: the rest
is equal to the byte, whatever the number of workers. Of a claim about times or bytes, `entry | entry["machine"]` has
all numbers in their places.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core import files
from ..core.provenance import provenance
from .progress import counted

if TYPE_CHECKING:
    import pandas as pd
    import sympy

    from ..theory.claim import Claim
    from ..theory.result import Verdict

OUTCOMES = ("supported", "refuted", "undecided", "vacuous")
SCHEMA = 2

Path_ = str | os.PathLike[str]


def check(
    claims: Sequence[str | Claim],
    *,
    effort: str = "smoke",
    seed: int = 0,
    backend: str = "auto",
    out: Path_ = "out",
    notebook: str | None = None,
    executor: Executor | None = None,
) -> pd.DataFrame:
    """Verify claims and write `out/verdicts/<id>.json` and `out/rows/<id>.parquet`, each whole or not at all.

    The other arguments are those of `theory.verify`; the report links to `notebook`. With an `executor` claims are
    verified side by side, so that its workers have something to do while the last trials of one are awaited. Returns a
    table to display, one line per claim. On a notebook's page a line says how far it is. KeyError for an id that
    `theory.find` does not know, ValueError for a single string, before work.
    """
    import pandas as pd

    from ..theory import find
    from ..theory.several import verdicts

    if isinstance(claims, str):
        raise ValueError(f"claims must be a sequence of claims or ids, got the string {claims!r}")
    found = [find(claim) if isinstance(claim, str) else claim for claim in claims]
    lines: dict[int, dict[str, Any]] = {}
    with counted(f"{len(found)} claim{'s' * (len(found) != 1)}", len(found)) as count:
        options: dict[str, Any] = {"effort": effort, "rng": seed, "backend": backend, "executor": executor}
        for number, verdict in verdicts(found, progress=count, **options):
            claim = found[number]
            record = entry(claim, verdict, notebook=notebook)
            with files.atomic(Path(out) / "rows" / f"{claim.id}.parquet") as temporary:
                verdict.rows.to_parquet(temporary)
            files.write_json(Path(out) / "verdicts" / f"{claim.id}.json", record)
            sabotages = record["sabotages"]
            line = {key: (record | record["machine"])[key] for key in ("title", "outcome", "trials", "failures")}
            caught = f"{sum(bool(s['caught']) for s in sabotages)}/{len(sabotages)}"
            lines[number] = {"claim": claim.id, **line, "sabotage caught": caught, "reason": verdict.reason}
    return pd.DataFrame([lines[number] for number in sorted(lines)]).set_index("claim")


def entry(claim: Claim, verdict: Verdict, *, notebook: str | None = None) -> dict[str, Any]:
    """Ledger entry of one claim: the statement, and the verdict on it."""
    from ..theory import CLAIMS

    record = verdict.to_dict()
    if not claim.origin and CLAIMS.get(claim.id) is not claim:
        record["own"] = True  # no claim of the suite's: `sublinattn verify` does not know it
    record["id"] = record.pop("claim")
    record["machine"]["provenance"] = provenance()
    record["machine"]["trial"] = _trial(claim)
    return record | {
        "paper": claim.paper,
        "source": claim.source,
        "basis": claim.basis,
        "source_checked": claim.source_checked,
        "restated": claim.restated,
        "definition": definition(claim),
        "model": claim.model,
        "quantity": _quantity(claim),
        "title": claim.title,
        "statement": latex(claim.statement),
        "promise": _promise(claim),
        "assumptions": [{"name": a.name, "latex": latex(a.predicate)} for a in claim.assumptions],
        "vacuous_when": latex(claim.vacuity.predicate) if claim.vacuity else None,
        "remark": claim.remark,
        "reported": claim.reported,
        "notebook": notebook,
    }


def _trial(claim: Claim) -> dict[str, str]:
    """Place and source of the trial as it was run; no source where there is no file, as in a prompt."""
    source = ""
    with suppress(OSError):
        source = inspect.getsource(claim.trial)
    return {"where": claim.where, "source": source}


def _quantity(claim: Claim) -> dict[str, Any] | None:
    """What a growth claim's title speaks of, where its trial measures another size."""
    quantity = getattr(claim.kind, "quantity", None)
    return None if quantity is None else asdict(quantity)


def definition(claim: Claim) -> str:
    """Hash of what a claim states and of the grid on which it is tried; trials, sabotages and remarks are not in it."""
    stated = [latex(claim.statement), _promise(claim), {effort: list(cases) for effort, cases in claim.cases.items()}]
    return hashlib.sha256(json.dumps(stated, sort_keys=True).encode()).hexdigest()[:12]


def merge(verdict_files: Iterable[Path_]) -> dict[str, Any]:
    """Ledger of verdict files: entries by claim id, and the count of each outcome; ValueError for a claim twice."""
    claims: dict[str, Any] = {}
    for path in sorted(map(Path, verdict_files)):
        record = files.read_json(path)
        with files.reading(path, "a verdict"):
            if record["id"] in claims:
                raise ValueError(f"verdict_files holds claim {record['id']} twice")
            claims[record["id"]] = record
            summary({record["id"]: record})
    return {"schema": SCHEMA, "claims": claims, "summary": summary(claims)}


def summary(claims: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """How many claims have each outcome, in all and by what they rest on, and how many of the sabotages were caught.

    `sabotages_telling` are those caught sabotages that break the algorithm of a claim which is supported without
    them: they show that the claim guards the algorithm, since it is refuted by nothing else.
    """
    from ..theory.claim import BASES

    sabotages = [(s, c["outcome"]) for c in claims.values() for s in c["sabotages"]]
    caught = [(s, outcome) for s, outcome in sabotages if s["caught"]]
    by_basis = by(claims.values(), "basis")
    return {
        **_outcomes(claims.values()),
        "by_basis": {basis: by_basis[basis] for basis in BASES if basis in by_basis},
        "sabotages": len(sabotages),
        "sabotages_caught": len(caught),
        "sabotages_telling": sum(s["breaks"] == "algorithm" and outcome == "supported" for s, outcome in caught),
    }


def by(claims: Iterable[Mapping[str, Any]], key: str) -> dict[str, dict[str, int]]:
    """How many claims have each outcome, apart for each value of `key`."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for claim in claims:
        groups.setdefault(claim[key], []).append(claim)
    return {value: _outcomes(members) for value, members in groups.items()}


def _outcomes(claims: Collection[Mapping[str, Any]]) -> dict[str, int]:
    return {**{o: sum(c["outcome"] == o for c in claims) for o in OUTCOMES}, "claims": len(claims)}


def write(path: Path_, ledger: Mapping[str, Any]) -> None:
    """Write a ledger: strict JSON, sorted keys, whole or not at all."""
    files.write_json(path, ledger)


def load(path: Path_) -> dict[str, Any]:
    """Read a ledger; ValueError if it is none of this schema, or has names that no suite gives: they become files."""
    ledger = files.read_json(path)
    with files.reading(path, "a ledger"):
        _check(path, ledger)
    return dict(ledger)


def _check(path: Path_, ledger: Any) -> None:
    from ..theory.claim import ID

    if not isinstance(ledger, dict) or ledger.get("schema") != SCHEMA or "claims" not in ledger:
        raise ValueError(f"{path} is not a ledger of schema {SCHEMA}")
    for key, entry in ledger["claims"].items():
        if not ID.fullmatch(key) or entry.get("id") != key:
            raise ValueError(f"{path} has a claim {key!r} with the id {entry.get('id')!r}: not of this suite")
        if entry.get("outcome") not in OUTCOMES:
            raise ValueError(f"{path} has claim {key} with the outcome {entry.get('outcome')!r}")
    for name in ledger.get("notebooks", {}):
        if not re.fullmatch(r"[^./\\\x00-\x1f][^/\\\x00-\x1f]*", name):
            raise ValueError(f"{path} has a notebook {name!r}, which is no file's name")


def comparable(value: Any) -> Any:
    """The part of a ledger on which two runs of one seed must agree: all but what stands under keys named "machine"."""
    if isinstance(value, Mapping):
        return {key: comparable(item) for key, item in value.items() if key != "machine"}
    if isinstance(value, list | tuple):
        return [comparable(item) for item in value]
    return value


def latex(expression: sympy.Basic) -> str:
    """LaTeX in which a name of several letters is a word, not a product of letters."""
    import sympy

    torn = re.compile(r"_\{\w*\\(right|,)").search
    names = {}
    for symbol in expression.free_symbols:
        name, printed = str(symbol), sympy.latex(symbol)
        if re.fullmatch(r"\w+", name):
            names[symbol] = re.sub(r"(?<![\\A-Za-z])([A-Za-z]{2,})", r"\\mathrm{\1}", printed)
        elif "\\" in name and (torn(printed) or re.sub(r"[{} ]", "", printed) != re.sub(r"[{} ]", "", name)):
            names[symbol] = name  # LaTeX with two subscripts, or one within a norm, whose braces SymPy misplaces
    return str(sympy.latex(expression, symbol_names=names))


def _promise(claim: Claim) -> dict[str, Any]:
    """The kind of statement that a claim makes, in the words of the report."""
    from ..theory.claim import Exact, Growth, Mean, Probability

    match claim.kind:
        case Probability(p=p):
            return {"kind": "probability", "text": f"fails with probability at most {p:g}", "p": p}
        case Exact(relation=relation, rtol=rtol):
            what = "an identity" if relation == "==" else "an inequality without exception"
            return {"kind": "exact", "text": f"{what}, up to rounding ({rtol:g})", "relation": relation}
        case Mean(resolution=resolution):
            text = f"an expectation; deviations above {100 * resolution:g} % are ruled out"
            return {"kind": "mean", "text": text, "resolution": resolution}
        case Growth(variables=variables, resolution=resolution):
            theory = {name: latex(expression) for name, expression in variables.items()}
            tolerance = {name: width for name, width in resolution.items() if width}
            text = "grows no faster than the theory says"
            return {"kind": "growth", "text": text, "variables": theory, "resolution": tolerance}
    raise TypeError(f"claim {claim.id} has a kind of type {type(claim.kind).__name__}")
