"""Spectral error over the budget: every method is there, exact attention's error is rounding; onsets solve m = n."""

import numpy as np
import pytest

from sublinattn.lab.run import Run
from sublinattn.lab.workloads.inputs import SINKS
from sublinattn.methods.hyperattention.studies import spectral_error


def test_errors_have_every_yardstick():
    rows = spectral_error.measure(Run(backend="numpy"), inputs=(SINKS,))
    assert set(rows["method"]) == {
        *("exact", "zero", "uniform", "hyper practical", "hyper theory"),
        spectral_error.SINKS_EXACT,
    }
    assert rows.loc[rows["method"] == "exact", "error"].max() < 1e-5


def test_an_onset_is_the_last_n_that_the_prescription_exceeds():
    found = spectral_error.onset(80.0, 100, in_log_n=True)  # m = 80 log n / log 100
    assert found == pytest.approx(80 * np.log(found) / np.log(100)) and found > 10
    assert spectral_error.onset(8.0, 100, in_log_n=True) == 1  # below n for every n
    assert spectral_error.onset(80.0, 100, in_log_n=False) == 80


def test_onsets_over_the_hidden_constant(monkeypatch):
    facts = {"kappa": 1.0, "alpha": 2.0, "varepsilon": 1.0, "d_v": 3.0, "srank": 20.0, "n": 100.0}
    cases = [{"facts": facts}, {"facts": {**facts, "alpha": 200.0, "srank": 200.0}}]
    monkeypatch.setattr(Run, "record", lambda self, claim: {"cases": cases})
    table = spectral_error.onsets(Run(backend="numpy"))
    assert set(table.index.get_level_values("claim")) == set(spectral_error.PRESCRIBED)
    lemma2, lemma1 = table.loc["ha24.lemma2"], table.loc["ha24.lemma1"]
    assert lemma2["smallest onset"].iloc[0] == pytest.approx(60)
    assert lemma2["cases beyond it"].iloc[[0, 1]].tolist() == [0.5, 1]
    assert lemma1["largest onset"].iloc[0] > 40_000 and (np.diff(lemma1["largest onset"]) <= 0).all()
    assert lemma1["cases beyond it"].iloc[-1] == 1
