"""The command line."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import toys
from typer.testing import CliRunner

from sublinattn import theory
from sublinattn.cli import app
from sublinattn.lab import ledger

COMMANDS = ("run", "verify", "claims", "report", "bench", "capture", "audit")


def call(*arguments):
    return CliRunner().invoke(app, arguments, catch_exceptions=False)


@pytest.fixture
def toy_claims(monkeypatch):
    for claim in toys.ALL:
        monkeypatch.setitem(theory.CLAIMS, claim.id, claim)


@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS)])
def test_help_shows_an_example(command):
    result = call(*command, "--help")
    assert result.exit_code == 0 and "Example" in result.output and "sublinattn " in result.output


def test_help_imports_nothing_heavy():
    heavy = ["papermill", "pandas", "sympy", "matplotlib", "nbconvert", "distributed", "torch"]
    code = f"import sys, sublinattn.cli; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_claims_lists_every_claim(toy_claims):
    listed = json.loads(call("claims", "--json").output)
    assert {row["id"] for row in listed} == set(theory.CLAIMS)
    mean = next(row for row in listed if row["id"] == "toy.mean")
    assert mean == {"id": "toy.mean", "paper": "HA24", "title": "The mean claim", "kind": "mean", "sabotages": 1}
    assert "toy.mean" in call("claims").output


@pytest.mark.parametrize(
    ("claim", "outcome", "code"),
    [("holds", "supported", 0), ("fails", "refuted", 1), ("open", "undecided", 0), ("empty", "vacuous", 0)],
)
def test_verify_tells_the_outcome_and_fails_only_when_refuted(toy_claims, claim, outcome, code):
    result = call("verify", f"toy.{claim}")
    assert result.exit_code == code and outcome in result.output and "caught" in result.output
    result = call("verify", f"toy.{claim}", "--json", "--seed", "3")
    found = json.loads(result.output)
    assert result.exit_code == code and found["outcome"] == outcome and found["seed"] == 3


@pytest.mark.parametrize("claim", ["mean", "clock", "always"])
def test_verify_shows_every_kind(toy_claims, claim):
    assert call("verify", f"toy.{claim}").exit_code == 0


def test_verify_with_two_processes_finds_the_same(toy_claims):
    one, two = (json.loads(call("verify", "toy.fails", "--json", "--jobs", jobs).output) for jobs in ("1", "2"))
    assert ledger.comparable(one) == ledger.comparable(two)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("verify", "toy.nothing"), "toy.nothing"),
        (("run", "--notebooks", "nowhere"), "nowhere"),
        (("run", "--param", "novalue"), "NAME=VALUE"),
        (("run", "--effort", "huge"), "huge"),
        (("run", "--record", "missing.json"), "missing.json"),
        (("report", "nowhere"), "nowhere"),
        (("bench", "everything"), "everything"),
    ],
)
def test_bad_requests_end_with_one_clear_line(tmp_path, monkeypatch, arguments, word):
    monkeypatch.chdir(tmp_path)
    result = call(*arguments)
    assert result.exit_code == 2 and word in result.output and "Traceback" not in result.output


def test_an_unknown_notebook_parameter_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    toys.notebook(tmp_path / "notebooks/a.ipynb", "1")
    result = call("run", "--param", "sample_size=3")
    assert result.exit_code == 2 and "no selected notebook has a parameter 'sample_size'" in result.output
    assert not (tmp_path / "out").exists()


def test_run_passes_its_options_on_and_says_where_the_report_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ledger.write("ledger.json", {"schema": 1, "claims": {"toy.fails": {"outcome": "supported"}}})
    toys.notebook(tmp_path / "notebooks/a.ipynb", toys.checking("a", "FAILS"), "assert n == 5 and seed == 2")
    toys.notebook(tmp_path / "notebooks/b.ipynb", "1 / 0")
    result = call("run", "--only", "a", "--param", "n=5", "--seed", "2", "--out", "here")
    assert result.exit_code == 1, "refuted, on record as supported"
    assert "toy.fails is refuted" in result.output and "here/report/index.html" in result.output
    assert ledger.load("here/ledger.json")["claims"]["toy.fails"]["seed"] == 2
    assert call("report", "here").exit_code == 0
