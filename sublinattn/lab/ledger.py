"""The ledger: one entry per claim, with its verdict and all that is needed to judge and to repeat it.

Notebooks call `check`, which writes one file per claim; `merge` puts those files together. Whatever differs between two
runs of the same seed (times, bytes, versions) stands under keys named "machine", and `comparable` drops them: the rest
is equal to the byte, whatever the number of workers. Of a claim about times or bytes, `entry | entry["machine"]` has
all numbers in their places.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core import files
from ..core.provenance import provenance

if TYPE_CHECKING:
    import pandas as pd
    import sympy

    from ..theory.claim import Claim
    from ..theory.result import Verdict

OUTCOMES = ("supported", "refuted", "undecided", "vacuous")
SCHEMA = 1

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

    Parameters
    ----------
    claims : sequence of claim or id
    effort : "smoke", "standard" or "full"
    seed : int
    backend : "auto", "numpy" or "cupy"
    out : path
        Folder of the run.
    notebook : str, optional
        Name of the calling notebook, for the links of the report.
    executor : concurrent.futures.Executor, optional
        Spreads the trials; it changes no number.

    Returns
    -------
    pandas.DataFrame
        One line per claim, to display.

    Raises
    ------
    ValueError
        A single string for `claims`.
    KeyError
        An id that no claim has.
    """
    import pandas as pd

    from ..theory import CLAIMS, verify

    if isinstance(claims, str):
        raise ValueError(f"claims must be a sequence of claims or ids, got the string {claims!r}")
    chosen = [_find(claim, CLAIMS) for claim in claims]
    lines = []
    for claim in chosen:
        verdict = verify(claim, effort=effort, rng=seed, backend=backend, executor=executor)
        record = entry(claim, verdict, notebook=notebook)
        with files.atomic(Path(out) / "rows" / f"{claim.id}.parquet") as temporary:
            verdict.rows.to_parquet(temporary)
        files.write_json(Path(out) / "verdicts" / f"{claim.id}.json", record)
        lines.append(_line(record | record["machine"]))
    return pd.DataFrame(lines).set_index("claim")


def entry(claim: Claim, verdict: Verdict, *, notebook: str | None = None) -> dict[str, Any]:
    """Ledger entry of one claim: the statement, and the verdict on it."""
    record = verdict.to_dict()
    record["id"] = record.pop("claim")
    record["machine"]["provenance"] = provenance()
    return record | {
        "paper": claim.paper,
        "source": claim.source,
        "title": claim.title,
        "statement": _latex(claim.statement),
        "promise": _promise(claim),
        "assumptions": [{"name": a.name, "latex": _latex(a.predicate)} for a in claim.assumptions],
        "vacuous_when": _latex(claim.vacuity.predicate) if claim.vacuity else None,
        "remark": claim.remark,
        "reported": claim.reported,
        "notebook": notebook,
    }


def merge(verdict_files: Iterable[Path_]) -> dict[str, Any]:
    """Ledger of verdict files: entries by claim id, and the count of each outcome.

    Raises
    ------
    ValueError
        Two files for one claim.
    """
    claims: dict[str, Any] = {}
    for path in sorted(map(Path, verdict_files)):
        record = files.read_json(path)
        if record["id"] in claims:
            raise ValueError(f"verdict_files holds claim {record['id']} twice")
        claims[record["id"]] = record
    return {"schema": SCHEMA, "claims": claims, "summary": summary(claims)}


def summary(claims: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    """How many claims have each outcome, and how many of the sabotages were caught."""
    counts = {outcome: sum(c["outcome"] == outcome for c in claims.values()) for outcome in OUTCOMES}
    sabotages = [s for c in claims.values() for s in c["sabotages"]]
    return {
        **counts,
        "claims": len(claims),
        "sabotages": len(sabotages),
        "sabotages_caught": sum(bool(s["caught"]) for s in sabotages),
    }


def write(path: Path_, ledger: Mapping[str, Any]) -> None:
    """Write a ledger: strict JSON, sorted keys, whole or not at all."""
    files.write_json(path, ledger)


def load(path: Path_) -> dict[str, Any]:
    """Read a ledger.

    Raises
    ------
    ValueError
        A file that is no ledger of this schema.
    """
    ledger = files.read_json(path)
    if not isinstance(ledger, dict) or ledger.get("schema") != SCHEMA or "claims" not in ledger:
        raise ValueError(f"{Path(path).name} is not a ledger of schema {SCHEMA}")
    return ledger


def flips(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Claims that `old` has as supported and `new` as refuted, sorted."""
    return sorted(
        name
        for name, now in new["claims"].items()
        if now["outcome"] == "refuted" and old["claims"].get(name, {}).get("outcome") == "supported"
    )


def comparable(value: Any) -> Any:
    """The part of a ledger on which two runs of one seed must agree: all but what stands under keys named "machine"."""
    if isinstance(value, Mapping):
        return {key: comparable(item) for key, item in value.items() if key != "machine"}
    if isinstance(value, list | tuple):
        return [comparable(item) for item in value]
    return value


def _find(claim: str | Claim, known: Mapping[str, Claim]) -> Claim:
    if not isinstance(claim, str):
        return claim
    if claim not in known:
        raise KeyError(f"no claim {claim!r}; `sublinattn claims` lists them")
    return known[claim]


def _latex(expression: sympy.Basic) -> str:
    """LaTeX in which a name of several letters is a word, not a product of letters."""
    import sympy

    names = {}
    for symbol in expression.free_symbols:
        name, printed = str(symbol), sympy.latex(symbol)
        if re.fullmatch(r"\w+", name):
            names[symbol] = re.sub(r"(?<![\\A-Za-z])([A-Za-z]{2,})", r"\\mathrm{\1}", printed)
        elif "\\" in name and re.sub(r"[{} ]", "", printed) != re.sub(r"[{} ]", "", name):
            names[symbol] = name  # LaTeX with two subscripts, of which SymPy makes a single one
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
        case Growth(variables=variables):
            theory = {name: _latex(expression) for name, expression in variables.items()}
            return {"kind": "growth", "text": "grows no faster than the theory says", "variables": theory}
    raise TypeError(f"claim {claim.id} has a kind of type {type(claim.kind).__name__}")


def _line(record: Mapping[str, Any]) -> dict[str, Any]:
    """One line of the table that a notebook shows."""
    sabotages = record["sabotages"]
    return {
        "claim": record["id"],
        "title": record["title"],
        "outcome": record["outcome"],
        "trials": record["trials"],
        "failures": record["failures"],
        "sabotage caught": f"{sum(bool(s['caught']) for s in sabotages)}/{len(sabotages)}",
        "reason": record["reason"],
    }
