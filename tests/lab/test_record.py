"""Every difference from the record is reported, and those fail a run that should."""

from __future__ import annotations

import pytest

from sublinattn.lab.record import Change, changes, why

SAME = {"effort": "smoke", "seed": 0, "backend": "numpy"}


def book(outcome="supported", caught=(True,), machine=None, **draws):
    sabotages = [{"name": f"s{i}", "caught": c} for i, c in enumerate(caught)]
    entry = {"outcome": outcome, "sabotages": sabotages, "machine": machine or {}}
    return {"claims": {"a": entry | SAME | draws}}


NOTHING = {"claims": {}}
CLOCK = {"reason": "seconds"}


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (book(), book(), []),
        (book(), book("refuted"), [("supported", "refuted", True)]),
        (book(), book("undecided"), [("supported", "undecided", True)]),
        (book(), book("vacuous"), [("supported", "vacuous", True)]),
        (book("undecided"), book("refuted"), [("undecided", "refuted", True)]),
        (book("undecided"), book("supported"), [("undecided", "supported", False)]),
        (book("refuted"), book("supported"), [("refuted", "supported", False)]),
        (book(), book("refuted", seed=1), [("supported", "refuted", True)]),
        (book(), book("undecided", seed=1), [("supported", "undecided", False)]),
        (book("undecided"), book("refuted", effort="full"), [("undecided", "refuted", False)]),
        (book(), book("undecided", machine=CLOCK), [("supported", "undecided", False)]),
        (book(), book("refuted", machine=CLOCK), [("supported", "refuted", True)]),
        (book(), book(caught=(False,)), [("sabotage 's0' caught", "not caught", True)]),
        (book(), book(caught=()), [("sabotage 's0' caught", "gone", True)]),
        (book(), book(caught=(False,), machine=CLOCK), [("sabotage 's0' caught", "not caught", False)]),
        (book(caught=(False,)), book(caught=(False,)), []),
        (book(), NOTHING, [("supported", "gone", True)]),
        (NOTHING, book(), [("not on record", "supported", False)]),
        (NOTHING, book(own=True), []),
    ],
)
def test_what_is_reported_and_what_fails(old, new, expected):
    assert changes(old, new) == tuple(Change("a", *change) for change in expected)


def test_a_claim_that_was_not_run_is_not_gone():
    assert changes(book(), NOTHING, complete=False) == ()


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ({}, {"effort": "full"}, "effort full here, smoke on record"),
        ({}, {"seed": 3}, "seed 3 here, 0 on record"),
        ({}, {"definition": "other", "restated": "0123456: so"}, "it was restated (0123456: so)"),
        ({}, {"machine": {"reason": "seconds"}}, "it is about this machine's times or bytes"),
        ({}, {"machine": {"provenance": {"source": "b"}}}, "the code has changed since"),
        ({}, {}, "same code and same draws: look at the versions"),
        (None, {}, "the claim is newer than the record"),
        ({}, None, "the suite has no such claim any more"),
    ],
)
def test_a_difference_is_explained_as_far_as_the_ledgers_tell(old, new, reason):
    common = {"definition": "d", "machine": {"provenance": {"source": "a"}}}
    ledgers = [NOTHING if given is None else book(**{**common, **given}) for given in (old, new)]
    assert why(Change("a", "supported", "refuted", True), *ledgers).startswith(reason)
