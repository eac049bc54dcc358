"""The trial of the yardstick's claim: mean and spread are what it says, and shared draws show."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sublinattn.methods.baselines.claims import yardstick


def scores(xp: Any, **case: Any) -> np.ndarray:
    made = [yardstick.uniform_sums(np.random.default_rng(i), xp, n=40, m=10, heads=16, **case) for i in range(100)]
    return np.array([(trial.measured - trial.bound) / trial.scale for trial in made])


@pytest.mark.parametrize("law", ["normaliser", "token", "heads"])
def test_sums_have_the_mean_and_the_spread_that_they_say(xp: Any, law: str) -> None:
    """100 seeded trials at 4.9 standard deviations: a false alarm has probability 1e-6."""
    z = scores(xp, law=law)
    assert abs(z.mean()) < 0.49 and 0.6 < z.std() < 1.5


def test_shared_draws_show(xp: Any) -> None:
    assert scores(xp, law="heads", apart_heads=False).min() > 10
