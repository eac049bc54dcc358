"""The benchmark of the verdict engine's error rates: that its shortcuts judge as the engine does, and that the bars
hold."""

import math

import numpy as np
import pytest

from sublinattn.theory import error_rates
from sublinattn.theory.sequential import MeanTest, ProbabilityTest


def engine(test, draws):
    """Signed number of trials at which a test of the engine decides."""
    for t, (measured, bound, scale) in enumerate(draws, start=1):
        test.update(measured, bound, scale)
        if test.outcome != "undecided":
            return t if test.outcome == "refuted" else -t
    return 0


def test_simulated_rates_are_judged_as_by_the_engine():
    rng, p = np.random.default_rng(0), 0.1
    for rate in (0.02, 0.1, 0.25):
        failed = rng.random((15, 400)) < rate
        for level, decided in error_rates.rate_decisions(failed, p).items():
            slow = [engine(ProbabilityTest(p, level), [(float(x), 0.5, 1.0) for x in path]) for path in failed]
            assert decided.tolist() == slow


def test_simulated_means_are_judged_as_by_the_engine():
    z = np.random.default_rng(1).standard_normal((15, 600)) + np.repeat([[0.0], [0.2], [0.5]], 5, axis=0)
    for level, decided in error_rates.mean_decisions(z, 0.4).items():
        slow = [engine(MeanTest(0.4, level), [(1 + value, 1.0, 1.0) for value in path]) for path in z]
        assert decided.tolist() == slow


def test_measure_meets_the_bars_where_it_must():
    table = error_rates.bars(error_rates.measure(simulations=40, rng=0))
    tests = table[table["kind"] != "growth"]
    assert tests["met"].all()  # 40 simulations: a rate of 2p is missed with probability below 1e-3
    assert set(table["kind"]) == {"probability", "mean", "growth"}
    assert table["refuted_high"].between(table["refuted"], 1).all()
    false = tests[tests["truth"] != "at the limit"]
    assert false["median"].le(false["q95"]).all()
    assert not table["met"].all()  # some growth designs are too small to convict: the table says so
    assert math.isnan(table.iloc[0]["median"])


def test_measure_is_seeded():
    assert error_rates.measure(5, rng=1).equals(error_rates.measure(5, rng=1))
    with pytest.raises(ValueError, match="simulations"):
        error_rates.measure(0)
