"""The benchmark of the verdict engine's error rates: that its shortcuts judge as the engine does, and that the bars
hold."""

import math
from itertools import product

import numpy as np
import pytest

from sublinattn.theory import error_rates, growth
from sublinattn.theory.sequential import MeanTest, ProbabilityTest


def engine(test, draws):
    """Signed number of trials at which a test of the engine decides."""
    for t, (measured, bound, scale) in enumerate(draws, start=1):
        test.update(measured, bound, scale)
        if test.outcome != "undecided":
            return t if test.outcome == "refuted" else -t
    return 0


def test_rates_are_those_of_the_engine_over_all_paths():
    p, rate, level, horizon = 0.6, 0.5, 0.2, 10
    decided = np.zeros((horizon, 2))
    for path in product((0.0, 1.0), repeat=horizon):
        at = engine(ProbabilityTest(p, level), [(x, 0.5, 1.0) for x in path])
        if at:
            decided[abs(at) - 1, int(at < 0)] += math.prod(rate if x else 1 - rate for x in path)
    assert decided.sum(axis=0).min() > 0  # both outcomes occur
    assert error_rates.rate_decisions(p, rate, level, horizon) == pytest.approx(decided, abs=1e-12)


def test_simulated_means_are_judged_as_by_the_engine():
    z = np.random.default_rng(1).standard_normal((15, 600)) + np.repeat([[0.0], [0.2], [0.5]], 5, axis=0)
    for level, decided in error_rates.mean_decisions(z, 0.4).items():
        slow = [engine(MeanTest(0.4, level), [(1 + value, 1.0, 1.0) for value in path]) for path in z]
        assert decided.tolist() == slow


def test_importance_sampling_gives_the_share_of_refuted_means(monkeypatch):
    monkeypatch.setattr(error_rates, "LEVELS", (0.05,))
    rng = np.random.default_rng(2)
    (line,) = error_rates.rare_refutations(2000, rng, horizon=60)
    (decided,) = error_rates.mean_decisions(rng.standard_normal((5_000, 60)), 0.0).values()
    assert line["refuted_high"] - line["refuted_low"] < 0.2 * line["refuted"]
    assert line["refuted"] == pytest.approx(np.mean(decided > 0), rel=0.3)  # four standard errors


def test_conditioning_gives_the_share_of_refuted_growths(monkeypatch):
    monkeypatch.setattr(error_rates, "LEVELS", (0.01,))
    u, rng = np.repeat(np.log(2.0) * np.arange(4)[:, None], 6, axis=1), np.random.default_rng(4)
    y = np.array([[1.0], [1.0], [2.0], [3.0]]) * rng.standard_normal((100_000, 4, 6))
    (line,) = error_rates.rare_growths(u, y[:10_000])
    y[:, 0] -= 100.0
    (decided,) = error_rates.growth_decisions(u, y).values()
    assert line["refuted_high"] - line["refuted_low"] < 0.2 * line["refuted"]
    assert line["refuted"] == pytest.approx(np.mean(decided > 0), rel=0.2)  # four standard errors


def test_simulated_growths_are_judged_as_by_the_engine():
    rng, x = np.random.default_rng(3), np.repeat(2.0 ** np.arange(5)[:, None], 8, axis=1)
    u = np.log(x)
    means = [0 * u, 0.9 * u, -0.2 * u, -0.3 * u + 0.2 * u**2, np.maximum(u, 1.5) - u, np.minimum(u, 1.5) * 2]
    y = np.concatenate([mean + noise * rng.standard_normal((5, 5, 8)) for mean in means for noise in (0.01, 0.1)])
    decisions = error_rates.growth_decisions(u, y, 0.1)
    seen = set()
    for level, decided in decisions.items():
        outcomes = [growth.fit(x, x * np.exp(one), x, resolution=0.1, level=level).outcome for one in y]
        signs = {"refuted": 40, "supported": -40, "undecided": 0}
        assert decided.tolist() == [signs[outcome] for outcome in outcomes]
        seen |= set(outcomes)
    assert len(seen) == 3


def test_measure_meets_the_bars_where_it_must():
    table = error_rates.bars(error_rates.measure(simulations=40, rng=0))
    large = table["truth"].isin(["exponent 0.25 above", "exponent 0.5 above", "exponent 1.0 above"])
    assert table[~large]["met"].all()  # 40 simulations: a rate of 2p is missed with probability below 1e-3
    assert not table[large]["met"].all()  # some growth designs are too small to convict: the table says so
    assert set(table["kind"]) == {"probability", "mean", "exact", "growth"}
    assert table["refuted_high"].between(table["refuted"], 1).all()
    false = table[~large & (table["truth"] != "at the limit") & (table["refuted"] > 0)]
    assert false["median"].le(false["q95"]).all()
    true_law = table[table["truth"] == error_rates.LOGARITHM]
    assert true_law["supported"].max() > 0.9 and true_law["supported"].min() < 0.1


def test_measure_is_seeded():
    assert error_rates.measure(5, rng=1).equals(error_rates.measure(5, rng=1))
    with pytest.raises(ValueError, match="simulations"):
        error_rates.measure(0)
