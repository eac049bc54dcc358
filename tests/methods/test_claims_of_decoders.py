"""Trials of the claims about trained decoders: on a device they measure the same; a large model's passages are few."""

from __future__ import annotations

from typing import Any

import fake_device
import numpy as np
import pytest
import toy_llama

from sublinattn.core import backends
from sublinattn.lab.models import Model, open_model
from sublinattn.methods.hyperattention.claims import section2_alpha_growth
from sublinattn.methods.polynomial.claims import theorem1_4_entries
from sublinattn.methods.subgen.claims import reported
from sublinattn.primitives.kcenter import greedy_radii, largest_distance

TRIALS: dict[str, tuple[Any, dict[str, Any]]] = {
    "alpha": (section2_alpha_growth.alpha_over_n, {"variable": "n", "source": "decoder", "n": 128}),
    "clusters": (reported.cluster_cost, {"n": 64}),
    "retrieval": (
        reported.told_apart,
        {"method": "k-center", "against": "heavy hitters", "nbytes": 400, "share": 0.5, "draws": 2},
    ),
    "retrieval, starved": (
        reported.told_apart,
        {"method": "subgen", "against": "exact", "nbytes": 400, "share": 0.5, "draws": 1, "starved": 4},
    ),
    "entries": (theorem1_4_entries.largest_entry, {"variable": "n", "n": 64}),
}


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A random checkpoint on 2500 letters, by its folder."""
    toy_llama.checkpoint(tmp_path / "model", vocab_size=256, size=0.7, max_position_embeddings=2048)
    letters = np.random.default_rng(0).integers(97, 123, 2500).astype(np.uint8)
    (tmp_path / "text").write_bytes(letters.tobytes())

    def with_text(model: str, *, backend: str = "numpy") -> Model:
        return open_model(model, str(tmp_path / "text"), backend=backend)

    for module in (section2_alpha_growth, theorem1_4_entries, reported):
        monkeypatch.setattr(module, "open_model", with_text)
    chosen = backends.backend
    monkeypatch.setattr(backends, "backend", lambda name: fake_device if name == "fake_device" else chosen(name))
    return str(tmp_path / "model")


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("trial", TRIALS)
def test_a_device_measures_the_same(model, monkeypatch, trial, large):
    monkeypatch.setattr(Model, "large", large)
    function, case = TRIALS[trial]
    host, device = (function(np.random.default_rng(5), xp, model=model, **case) for xp in (np, fake_device))
    assert host.measured == pytest.approx(device.measured, rel=1e-4)
    assert dict(host.facts) == pytest.approx(dict(device.facts), rel=1e-4)


def test_clusters_are_those_of_a_head_on_a_passage_few_of_a_large_model(model, monkeypatch):
    opened = reported.open_model(model)
    _, k, v = opened.qkv(opened.passage(np.random.default_rng(7), 64))

    def cost(x):
        x = np.ascontiguousarray(x)
        return greedy_radii(np, x, 8)[-1] / largest_distance(np, x)

    trial = reported.cluster_cost(np.random.default_rng(7), np, model=model, n=64)
    costs = {(cost(k[at]), cost(v[at])) for at in np.ndindex(*k.shape[:2])}
    assert (trial.facts["keys"], trial.facts["values"]) in costs
    monkeypatch.setattr(Model, "large", True)
    seen = {
        reported.cluster_cost(np.random.default_rng(seed), np, model=model, n=64).facts["keys"] for seed in range(200)
    }
    assert len(seen) <= reported.FEW * k.shape[0] * k.shape[1]


def test_a_large_model_is_asked_the_same_documents_in_all_trials(model, monkeypatch):
    """A trial's outcome is that of the first of its documents which one of the two caches answers."""
    monkeypatch.setattr(Model, "large", True)
    case = {"method": "k-center", "against": "sinks", "nbytes": 400, "share": 0.5, "draws": 8, "model": model}
    right = {key: np.zeros(32, bool) for key in (("k-center", 1), ("k-center", 4), ("sinks", 1))}
    monkeypatch.setattr(reported, "shared_answers", lambda *_: right)
    ties = {reported.told_apart(np.random.default_rng(seed), np, **case).measured for seed in range(20)}
    assert ties == {0.0, 1.0}
    right["k-center", 1][::3] = right["sinks", 1][::3] = True  # both
    right["k-center", 1][1] = True
    trials = [reported.told_apart(np.random.default_rng(seed), np, **case) for seed in range(200)]
    apart = [trial.measured for trial in trials if trial.facts["told_apart"]]
    assert set(apart) == {0.0} and len(apart) / 200 == pytest.approx(8 / 32, abs=0.1)
    trials = [reported.told_apart(np.random.default_rng(seed), np, starved=4, **case) for seed in range(200)]
    assert {trial.measured for trial in trials if trial.facts["told_apart"]} == {1.0}
