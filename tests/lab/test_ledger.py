"""The ledger: complete, reproducible to the byte, strict, and written whole or not at all."""

from __future__ import annotations

import dataclasses
import json
from concurrent.futures import ThreadPoolExecutor

import pandas as pd
import pytest
import sympy
import toys

from sublinattn.core import files
from sublinattn.lab import ledger


def made(out, **options):
    ledger.check(toys.ALL, out=out, notebook="nb", **options)
    return ledger.merge((out / "verdicts").glob("*.json"))


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    return made(tmp_path_factory.mktemp("ledger"))


def text(value):
    return json.dumps(value, sort_keys=True, allow_nan=False)


def test_entries_are_complete(book):
    wanted = {
        "id", "paper", "source", "title", "statement", "outcome", "reason", "trials", "cases", "vacuity", "seed",
        "effort", "backend", "notebook", "sabotages", "drops", "fits", "promise", "assumptions", "machine",
    }  # fmt: skip
    for entry in book["claims"].values():
        assert wanted <= set(entry)
        assert {"lower", "upper", "slack", "trials", "case"} <= set((entry | entry["machine"])["cases"][0])
    assert book["summary"]["claims"] == len(toys.ALL)
    assert book["claims"]["toy.holds"]["statement"] == r"\varepsilon \leq \frac{n^{2}}{2}"


@pytest.mark.parametrize(
    ("name", "printed"),
    [
        (r"\|T-y\|_F/\|y\|_F", r"\|T-y\|_F/\|y\|_F"),
        (r"\left\|T_c-y_c\right\|_2", r"\left\|T_c-y_c\right\|_2"),
        (r"\left\|V\right\|_F", r"\left\|V\right\|_{F}"),
        ("srank", r"\mathrm{srank}"),
        ("kappa", r"\kappa"),
    ],
)
def test_symbols_are_printed_as_they_are_meant(tmp_path, name, printed):
    claim = dataclasses.replace(toys.ALWAYS, statement=sympy.Eq(sympy.Symbol(name), 0))
    ledger.check([claim], out=tmp_path)
    assert files.read_json(tmp_path / "verdicts/toy.always.json")["statement"] == f"{printed} = 0"


def test_each_kind_gets_its_outcome(book):
    found = {name: entry["outcome"] for name, entry in book["claims"].items()}
    assert found == {
        "toy.holds": "supported",
        "toy.fails": "refuted",
        "toy.open": "undecided",
        "toy.loose": "undecided",  # its sabotage passes, so it shows nothing
        "toy.empty": "vacuous",
        "toy.always": "supported",
        "toy.mean": "supported",
        "toy.clock": "supported",
    }
    assert book["summary"]["sabotages"] == 8 and book["summary"]["sabotages_caught"] == 7


def test_two_runs_agree_to_the_byte_whatever_the_number_of_workers(book, tmp_path):
    with ThreadPoolExecutor(2) as pool:  # with two processes: test_cli
        again = made(tmp_path, executor=pool)
    assert text(ledger.comparable(book)) == text(ledger.comparable(again))
    assert text(book) != text(again), "the times, at least, must differ: else nothing is compared"


def test_rows_are_filed(tmp_path):
    table = ledger.check([toys.HOLDS], out=tmp_path)
    rows = pd.read_parquet(tmp_path / "rows" / "toy.holds.parquet")
    assert (rows["claim"] == "toy.holds").all() and {"claim", "sabotage:broken"} == set(rows["role"])
    assert table.loc["toy.holds", "outcome"] == "supported"
    assert (rows["role"] == "claim").sum() == table.loc["toy.holds", "trials"]


@pytest.mark.parametrize(
    ("claims", "error", "match"),
    [
        ("toy.holds", ValueError, "string 'toy.holds'"),
        (["toy.nothing"], KeyError, "toy.nothing"),
    ],
)
def test_check_refuses_before_any_work(tmp_path, claims, error, match):
    with pytest.raises(error, match=match):
        ledger.check(claims, out=tmp_path)
    assert not list(tmp_path.iterdir())


def test_one_claim_cannot_be_filed_twice(tmp_path):
    ledger.check([toys.OPEN], out=tmp_path / "a")
    ledger.check([toys.OPEN], out=tmp_path / "b")
    with pytest.raises(ValueError, match="toy.open twice"):
        ledger.merge(tmp_path.rglob("verdicts/*.json"))


def test_load_refuses_what_is_no_ledger(tmp_path):
    files.write_json(tmp_path / "x.json", {"schema": 0, "claims": {}})
    with pytest.raises(ValueError, match="x.json is not a ledger"):
        ledger.load(tmp_path / "x.json")
