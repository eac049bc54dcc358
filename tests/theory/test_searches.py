"""The adversary against the papers' claims with one thing broken: it finds what is wrong within a thousand steps."""

from dataclasses import replace

import numpy as np
import pytest

from sublinattn.theory import CLAIMS, adversary
from sublinattn.theory.claim import Trial


def tightened(claim, factor):
    """The claim with a bound that is `factor` times as large."""
    search = claim.search

    def measure(xp, arrays, **case):
        trial = search.measure(xp, arrays, **case)
        return Trial(trial.measured, factor * trial.bound, trial.scale, trial.facts)

    return replace(claim, search=replace(search, measure=measure))


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("sg24.clusters", "crowded clusters"),
        ("sg24.packing", "crowded clusters"),
        ("sg24.radius", "wide clusters"),
        ("sg24.radius", "drifting centres"),
    ],
)
def test_a_broken_algorithm_is_found_out(name, broken, monkeypatch):
    monkeypatch.setattr(adversary, "stored", lambda claim: None)
    claim = CLAIMS[name]
    cases = tuple({**case, "broken": broken} for case in claim.search.cases)
    sought = adversary.seek(replace(claim, search=replace(claim.search, cases=cases)), steps=1000, seed=0)
    assert sought.worst.counterexample


NEAR = ("output-error", "output-error-sharp", "accuracy", "taylor")
NEAR = (*(f"as23.{name}" for name in NEAR), "sg24.tau-bound", "ha24.srank-alpha", "ha24.causal-error", "gon85.radius")


@pytest.mark.parametrize("name", (*NEAR, "alsy23.flat-floor", "alsy23.psi-variance"))
def test_the_instance_on_record_contradicts_a_bound_a_tenth_smaller(name):
    claim = tightened(CLAIMS[name], 0.9)
    worst = adversary.stored(CLAIMS[name])
    assert adversary.measured(claim, worst.arrays, worst.case, "numpy").counterexample


@pytest.mark.parametrize("name", sorted(name for name, claim in CLAIMS.items() if claim.search))
def test_a_start_is_an_instance_and_its_measurement_repeats(name):
    claim = CLAIMS[name]
    for case in claim.search.cases[:2]:
        arrays = claim.search.start(np.random.default_rng(0), **case)
        one, two = (adversary.measured(claim, arrays, case, "numpy") for _ in range(2))
        assert one.ratio == two.ratio and not one.counterexample
