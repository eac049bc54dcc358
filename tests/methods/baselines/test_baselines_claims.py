"""The trials of the baselines' claims: mean and spread are what they say, and what is broken shows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sublinattn.methods.baselines.claims import features, yardstick


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


@pytest.mark.parametrize(("d", "m"), [(2, 1), (2, 2), (3, 2), (6, 6)])
def test_features_have_the_mean_and_the_variance_that_they_say(xp: Any, d: int, m: int) -> None:
    """100 seeded trials: the mean at 4.9 standard deviations, the spread within what 100 numbers show."""
    made = [features.kernel(np.random.default_rng(i), xp, d=d, m=m, heads=64) for i in range(100)]
    z = np.array([(trial.measured - trial.bound) / trial.scale for trial in made])
    assert abs(z.mean()) < 0.49 and 0.7 < z.std() < 1.4


@pytest.mark.parametrize("m", [1, 2, 4])
def test_orthogonal_directions_have_the_smaller_variance(m: int) -> None:
    """Theorem 2: below the variance of independent ones (Lemma 2) by at least what it says."""
    rng, d = np.random.default_rng(0), 4
    for _ in range(200):
        x, y = rng.standard_normal((2, d)) * rng.uniform(0, 1.5)
        square, kernel = (x + y) @ (x + y), np.exp(x @ y)
        independent = np.exp(square) * kernel**2 * (1 - np.exp(-square)) / m
        gain = 2 * (m - 1) / (m * (d + 2)) * (kernel - np.exp(-(x @ x + y @ y) / 2)) ** 2
        assert features.variance(x, y, m) <= (independent - gain) * (1 + 1e-9) + 1e-12


@pytest.mark.parametrize("how", ["LAPACK's factor", "equal lengths"])
def test_broken_directions_show(xp: Any, how: str) -> None:
    made = [features.kernel(np.random.default_rng(i), xp, d=3, m=3, heads=4000, directed=how) for i in range(40)]
    assert np.mean([((trial.measured - trial.bound) / trial.scale) ** 2 for trial in made]) > 3
