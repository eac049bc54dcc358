"""Claims about other models than the one that ships, and ids that no claim has."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sublinattn.lab.run import Run
from sublinattn.theory import CLAIMS, find, verify

OF_MODELS = [claim for claim in CLAIMS.values() if claim.model]


@pytest.mark.parametrize("claim", OF_MODELS, ids=lambda claim: claim.id)
def test_about_another_model_a_claim_has_its_name_everywhere(claim):
    other = claim.on("smollm2")
    assert other.id == f"{claim.id}-smollm2"
    assert other.title.endswith(" (smollm2)")
    assert all(case["model"] == "smollm2" for cases in other.cases.values() for case in cases)
    assert find(other.id) == other
    assert claim.on("tiny") is claim
    assert claim.on("models/My Llama.gguf").id == other.on("models/My Llama.gguf").id == f"{claim.id}-my-llama"


def test_a_claim_about_no_model_stays():
    assert CLAIMS["ha24.lemma1"].on("smollm2") is CLAIMS["ha24.lemma1"]


def test_a_title_names_its_model():
    with pytest.raises(ValueError, match=r"must end with its model, \(tiny\)"):
        replace(OF_MODELS[0], title="Something holds")


def test_another_models_claim_is_tested_at_the_same_level(monkeypatch):
    claim = CLAIMS["sg24.keys-cluster"]
    cheap = replace(claim, trial=_trial, max_trials={"smoke": 1}, sabotages=())
    monkeypatch.setitem(CLAIMS, claim.id, cheap)
    assert verify(cheap.on("other")).level == verify(cheap).level < 1e-5


def _trial(rng, xp, *, n, model="tiny"):
    from sublinattn.theory.claim import Trial

    return Trial(0.0 if model == "tiny" else 1.0, 0.5)


def test_a_run_checks_the_model_that_it_names(monkeypatch, tmp_path):
    claim = CLAIMS["sg24.keys-cluster"]
    monkeypatch.setitem(CLAIMS, claim.id, replace(claim, trial=_trial, sabotages=()))
    run = Run(out=tmp_path, knobs={"model": "other"})
    run.check(claim.id)
    assert run.record(claim.id)["id"] == f"{claim.id}-other"
    assert run.record(claim.id)["outcome"] == "refuted"
    assert (run.rows(claim.id)["measured"] == 1).all()


def test_an_unknown_id_gets_the_nearest_one():
    with pytest.raises(KeyError, match="did you mean 'ha24.lemma1'"):
        find("ha24.lema1")
