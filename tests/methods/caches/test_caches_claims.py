"""The trials of the caches' claims hold on small cases, and notice a cache that keeps other tokens."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

from sublinattn.methods.caches.claims import answers, covering_radius, yardstick

EXACT = {
    "exact": (partial(yardstick.exact_answer, n=120, streams=3, chunks=40), {"own_count": False}),
    "sink": (partial(answers.sink_answer, n=30, window=5, sinks=2, chunks=3), {"keep_sinks": False}),
    "heavy hitters": (partial(answers.heavy_hitters, n=30, budget=8, recent=3, chunks=9), {"accumulate": False}),
    "k-center": (partial(answers.k_center_answer, n=30, budget=9, recent=4, different=26), {"farthest": False}),
    "k-center, few": (partial(answers.k_center_answer, n=30, budget=9, recent=4, different=3), {"farthest": False}),
    "value-norm": (partial(answers.value_norm_answer, n=30, budget=5), {"weighted": False}),
}


@pytest.mark.parametrize("name", EXACT)
def test_answers_are_exact_and_the_broken_cache_is_noticed(xp: Any, name: str) -> None:
    trial, broken = EXACT[name]
    assert trial(np.random.default_rng(1), xp).measured < 1e-12
    assert trial(np.random.default_rng(1), xp, **broken).measured > 1e-3


def test_radius_is_compared_with_the_best_of_all_sets(xp: Any) -> None:
    ratios = [covering_radius.covering_radius(np.random.default_rng(i), xp, n=8, m=3).measured for i in range(20)]
    assert min(ratios) >= 1 and max(ratios) <= 2


@pytest.mark.parametrize("law", ["token", "pair", "heads"])
def test_counts_have_the_mean_and_the_spread_that_they_say(law: str) -> None:
    """200 seeded trials: a false alarm has probability 1e-6 for the mean, and less than that for the spread."""
    made = [
        answers.uniform_law(np.random.default_rng(i), np, law=law, n=50, budget=10, heads=20, chunks=4)
        for i in range(200)
    ]
    z = np.array([(t.measured - t.bound) / t.scale for t in made])
    assert abs(z.mean()) < 4.9 / len(z) ** 0.5 and 0.7 < z.std() < 1.4
