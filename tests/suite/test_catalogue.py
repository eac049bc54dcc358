"""The stored list of claims says what the claims say, and is never older than the sources."""

from __future__ import annotations

import pytest
import toys

from sublinattn import theory
from sublinattn.suite import catalogue


@pytest.fixture(autouse=True)
def stored(tmp_path, monkeypatch):
    path = tmp_path / "claims.json"
    monkeypatch.setattr(catalogue, "STORED", path)
    return path


def test_it_says_what_the_claims_say(stored):
    for listed in (catalogue.catalogue(), catalogue.catalogue()):  # derived, then read from the file
        assert stored.exists() and [row["id"] for row in listed] == sorted(theory.CLAIMS)
        for row in listed:
            claim = theory.CLAIMS[row["id"]]
            assert (row["paper"], row["title"], row["sabotages"]) == (claim.paper, claim.title, len(claim.sabotages))
            assert row["kind"] == type(claim.kind).__name__.lower() and row["trial"] == claim.where


def test_it_is_derived_again_when_a_source_differs(monkeypatch):
    before = catalogue.catalogue()
    monkeypatch.setitem(theory.CLAIMS, "toy.mean", toys.MEAN)
    assert catalogue.catalogue() == before, "the sources are the same"
    monkeypatch.setattr(catalogue, "source_hash", lambda: "changed")
    assert [row["id"] for row in catalogue.catalogue() if row not in before] == ["toy.mean"]


def test_a_damaged_file_is_replaced_and_a_folder_that_refuses_writing_is_no_error(stored, monkeypatch):
    stored.write_text("{")
    listed = catalogue.catalogue()
    assert stored.read_text() != "{"
    monkeypatch.setattr(catalogue, "STORED", stored / "below-a-file" / "claims.json")
    assert catalogue.catalogue() == listed
