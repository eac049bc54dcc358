"""The command `sublinattn claims`."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from .complete import complete_papers
from .terminal import fail, print_table

Kind = StrEnum("Kind", ["probability", "exact", "mean", "growth"])
Basis = StrEnum("Basis", ["theorem", "reported", "reading", "derived", "implementation", "property"])
Outcome = StrEnum("Outcome", ["supported", "refuted", "undecided", "vacuous"])
COLUMNS = ("id", "paper", "basis", "title", "kind", "outcome", "sabotages", "trial")

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def claims(
    paper: Annotated[
        str | None, typer.Option(help="Only this paper's, by its key.", autocompletion=complete_papers)
    ] = None,
    basis: Annotated[Basis | None, typer.Option(help="Only claims that rest on this.")] = None,
    kind: Annotated[Kind | None, typer.Option(help="Only promises of this kind.")] = None,
    outcome: Annotated[Outcome | None, typer.Option(help="Only claims with this verdict in the ledger.")] = None,
    ledger: Annotated[
        Path | None, typer.Option(help="Ledger of the verdicts.", show_default="ledger.json, if it exists")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List claims: what each one says, of which paper, its verdict, and where the function of its trial stands."""
    from .suite.catalogue import listing

    try:
        listed = listing(paper, basis and basis.value, kind and kind.value, outcome and outcome.value, ledger)
    except (ValueError, OSError) as error:
        fail(error)
    if as_json:
        print(json.dumps(listed, indent=2, ensure_ascii=False))
    else:
        print_table(COLUMNS, [["" if claim[name] is None else claim[name] for name in COLUMNS] for claim in listed])
