"""What the study of the strictly causal mask reads off its rows, and that its masks and texts are what it says."""

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from sublinattn.lab.run import Run
from sublinattn.lab.workloads.inputs import CLUSTERED
from sublinattn.methods.hyperattention.studies import looking_ahead

RUN = Run(backend="numpy")


def small(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    picked = {"smoke": (256, 2), "standard": (256, 2), "full": (256, 2)}
    monkeypatch.setattr(Run, "pick", lambda self, **efforts: picked["smoke"])


def test_errors_have_both_rules_on_the_same_inputs(monkeypatch):
    small(RUN, monkeypatch)
    monkeypatch.setattr(looking_ahead, "INPUTS", (CLUSTERED,))
    rows = looking_ahead.errors(RUN)
    assert set(rows["method"]) == {"rank", "own-hash", "uniform", "zero", "exact"} and set(rows["b"]) == {8, 16}
    of = rows.groupby("method")
    assert (of["error"].get_group("zero") == 1).all() and of["error"].get_group("exact").max() < 1e-5
    mass = of["mass"]
    for rule in looking_ahead.RULES:
        assert mass.get_group(rule).between(0.05, 1).all() and of["error"].get_group(rule).between(0.01, 2).all()
    assert mass.get_group("uniform").isna().all()
    again = looking_ahead.errors(RUN)
    pd.testing.assert_frame_equal(rows, again)


def test_comparison_finds_the_ratio_and_the_keys():
    """Errors c / sqrt(b), c a third smaller with the own hash: that takes (2/3)^2 of the keys."""
    rows = pd.DataFrame(
        [
            ("a", 64, rule, b, replicate, c * (1 + 0.1 * replicate) / math.sqrt(b), 0.25)
            for rule, c in (("rank", 0.9), ("own-hash", 0.6))
            for b in (8, 16, 32, 64)
            for replicate in range(4)
        ],
        columns=["input", "n", "method", "b", "replicate", "error", "mass"],
    )
    (row,) = looking_ahead.compared(rows).itertuples()
    np.testing.assert_allclose([row.ratio, row.low, row.high], 2 / 3, rtol=1e-9)
    np.testing.assert_allclose(row.keys, 4 / 9, rtol=1e-9)
    assert row.mass_rank == row.mass_own == 0.25


def test_perplexity_replaces_the_last_half_of_the_layers(monkeypatch):
    asked = []

    class Passage:
        def __init__(self, decoder, tokens, firsts):
            assert len(tokens) == 256 and list(firsts) == [3, 6]

        def read(self, methods):
            asked.append([*methods])
            return SimpleNamespace(nats=1.0 + 0.1 * bool(methods))

    decoder = SimpleNamespace(config=SimpleNamespace(layers=6))
    opened = SimpleNamespace(decoder=decoder, large=False, name="toy", passage=lambda rng, n: np.zeros(n))
    monkeypatch.setattr(Run, "open_model", lambda self: opened)
    monkeypatch.setattr(looking_ahead, "Passage", Passage)
    small(RUN, monkeypatch)
    rows = looking_ahead.perplexity(RUN)
    assert asked == [[], *[[3, 4, 5]] * 4] * 2
    np.testing.assert_allclose(rows["ratio"], 1.1)
    assert (rows["b"] == 16).all()


def test_slower_is_the_median_of_the_pairs():
    rows = pd.DataFrame({"n": [1] * 3, "replicate": range(3), "rank": [1.0, 2.0, 4.0], "own-hash": [1.5, 2.0, 8.0]})
    assert looking_ahead.slower(rows).loc[1].tolist() == [1.5, 1.25, 1.75]
