"""Several seeds: each in a folder of its own, and the outcomes side by side."""

from __future__ import annotations

import pytest
import toys

from sublinattn.lab import ledger
from sublinattn.suite import seeds


def book(**outcomes):
    return {"claims": {name: {"outcome": outcome} for name, outcome in outcomes.items()}}


def test_merged_outcomes():
    merged = seeds.agreement(
        {
            0: book(same="supported", mixed="supported", turned="supported", lost="vacuous"),
            3: book(same="supported", mixed="undecided", turned="refuted"),
        }
    )
    assert merged["seeds"] == [0, 3]
    assert {name: claim["merged"] for name, claim in merged["claims"].items()} == {
        "same": "supported",
        "mixed": "undecided",
        "turned": "refuted",
        "lost": "undecided",
    }
    assert merged["claims"]["lost"]["outcomes"] == ["vacuous", "missing"]


def test_every_seed_runs_and_the_first_ledger_says_how_they_agree(tmp_path):
    folder = toys.__file__.rpartition("/")[0]
    code = (
        "from sublinattn.lab import ledger; import toys; ledger.check([toys.HOLDS], seed=seed, out=out, notebook='a')"
    )
    toys.notebook(tmp_path / "notebooks" / "a.ipynb", f"import sys; sys.path.insert(0, {folder!r})", code)
    result = seeds.run(tmp_path / "notebooks", seeds=2, seed=4, out=tmp_path / "out")
    assert not result.failed
    found = ledger.load(tmp_path / "out" / "ledger.json")
    assert found["seeds"]["seeds"] == [4, 5]
    assert found["seeds"]["claims"]["toy.holds"] == {"outcomes": ["supported"] * 2, "merged": "supported"}
    assert found["claims"]["toy.holds"]["seed"] == 4
    assert ledger.load(tmp_path / "out" / "seeds" / "5" / "ledger.json")["claims"]["toy.holds"]["seed"] == 5
    assert "same with every seed" in result.report.read_text(encoding="utf-8")


def test_no_seed_is_refused(tmp_path):
    with pytest.raises(ValueError, match="seeds must be at least 1, got 0"):
        seeds.run(seeds=0, out=tmp_path / "out")
