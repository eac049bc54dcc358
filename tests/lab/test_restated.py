"""A claim that was run may not change in silence: statement and grid are those on record, or it says why not."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import sympy
import toys

from sublinattn.lab import ledger
from sublinattn.theory import CLAIMS

RECORD = ledger.load(Path(__file__).parents[2] / "ledger.json")["claims"]


def silent(claim, record) -> bool:
    """Whether the claim differs from its record, and gives no reason that the record does not have."""
    return ledger.definition(claim) != record["definition"] and claim.restated in ("", record["restated"])


@pytest.mark.parametrize("name", sorted(RECORD.keys() & CLAIMS.keys()))
def test_a_changed_claim_says_why(name):
    assert not silent(CLAIMS[name], RECORD[name]), "statement or grid differ from the record: set `restated`"


@pytest.mark.parametrize("name", sorted(name for name, claim in CLAIMS.items() if claim.restated))
def test_the_reason_names_the_last_commit_with_the_former_statement(name):
    assert re.fullmatch(r"[0-9a-f]{7}: \S.*", CLAIMS[name].restated)


@pytest.mark.parametrize(
    ("change", "noticed"),
    [
        ({"statement": sympy.Le(toys.EPS, toys.N**2 / 3)}, True),
        ({"cases": {"smoke": ({"rate": 0.002},)}}, True),
        ({"kind": dataclasses.replace(toys.P, p=0.06)}, True),
        ({"max_trials": {"smoke": 10}}, False),
        ({"remark": "a remark"}, False),
    ],
)
def test_what_counts_as_a_change(change, noticed):
    record = {"definition": ledger.definition(toys.HOLDS), "restated": ""}
    changed = dataclasses.replace(toys.HOLDS, **change)
    assert silent(changed, record) == noticed
    assert not silent(dataclasses.replace(changed, restated="0123456: a reason"), record)
