"""Trials about CountSketch against plain counts: the laws they compare with, and what their sabotages break."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

from sublinattn.methods.countsketch.claims import estimates, independence, point_error, width
from sublinattn.methods.countsketch.claims.matrix_product import all_cubics
from sublinattn.methods.countsketch.countsketch import median
from sublinattn.methods.countsketch.hashing import IndexHash
from sublinattn.theory import symbols


def deviations(trial: Any, count: int, **case: Any) -> float:
    """How many standard deviations the average of `count` trials is off."""
    trials = [trial(np.random.default_rng(seed), np, **case) for seed in range(count)]
    return float(np.mean([t.measured - t.bound for t in trials]) / trials[0].scale * math.sqrt(count))


@pytest.mark.parametrize("width", [1, 2])
def test_what_four_indices_do_under_every_hash(width: int) -> None:
    """`all_cubics` gives them every combination once: the mean and the mean square that the trial counts with."""
    bucket, sign = IndexHash(all_cubics(width), width)(np, np.arange(4)[None])
    value = (bucket == bucket[:, :1]).all(axis=1) * (1 + sign.prod(axis=1, dtype=int))
    law = width**-3
    assert value.mean() == pytest.approx(law) and (value**2).mean() == pytest.approx(2 * law)
    trial = independence.four_together(np.random.default_rng(0), np, width=width, indices=[0, 1, 2, 3], hashes=10)
    assert (trial.bound, trial.scale) == (law, pytest.approx(math.sqrt((2 * law - law**2) / 10)))


@pytest.mark.parametrize(("degree", "low", "high"), [(1, 20, 1e3), (2, 5, 1e3), (3, -4, 4)])
def test_polynomials_of_a_lower_degree_are_told_apart(degree: int, low: float, high: float) -> None:
    case = {"width": 2, "indices": [20, 21, 22, 23], "hashes": 2000, "degree": degree}
    assert low < deviations(independence.four_together, 20, **case) < high


@pytest.mark.parametrize(("width", "tables"), [(2, 2), (2, 3), (3, 2)])
def test_law_of_the_median_of_four_ones(width: int, tables: int) -> None:
    """Every combination of bucket and sign in every table, by the hash itself."""
    bucket, sign = IndexHash(all_cubics(width), width)(np, np.arange(4)[None])
    one = ((bucket == bucket[:, :1]) * sign).sum(axis=1) * sign[:, 0]  # estimates of index 0
    value, count = np.unique(one, return_counts=True)
    law = fourth = 0.0
    for which in itertools.product(range(len(value)), repeat=tables):
        chance = math.prod(count[i] / len(one) for i in which)
        middle = float(median(np, value[list(which)].astype(float)))
        law, fourth = law + chance * middle**2, fourth + chance * middle**4
    case = {"width": width, "tables": tables, "sketches": 100}
    trial = estimates.middle_of_estimates(np.random.default_rng(0), np, **case)
    assert trial.bound == pytest.approx(law) and trial.scale == pytest.approx(math.sqrt((fourth - law**2) / 100))
    assert abs(deviations(estimates.middle_of_estimates, 10, **case)) < 4
    assert deviations(estimates.middle_of_estimates, 10, **case, lower=True) < -8


def test_tables_for_all_estimates_are_the_fewest() -> None:
    for n, k in ((500, 3), (20, 1)):
        t = point_error.tables_needed(n, k)
        spread = [symbols.estimate_spread(k, width=8 * k, tables=r, entries=n, failure=0.01) for r in (t - 2, t)]
        assert t % 2 == 1 and spread[0] > 64 >= spread[1]


@pytest.mark.parametrize("change", [{}, {"average": True}, {"used": 3}, {"narrow": 4}])
def test_point_error_of_dominant_entries(change: dict[str, Any]) -> None:
    case = {"family": "dominant", "n": 400, "k": 2}
    trials = [point_error.point_error(np.random.default_rng(seed), np, **case, **change) for seed in range(20)]
    assert trials[0].bound == pytest.approx(8 * math.sqrt(398 / 16))
    wrong = sum(t.measured > t.bound for t in trials)
    assert wrong >= 2 if change else wrong == 0


def test_no_more_buckets_than_the_hash_knows() -> None:
    case: dict[str, Any] = {"variable": "varepsilon", "family": "flat", "n": 500, "k": 4, "eps1": 0.03, "keep": 2}
    right, broken = (width.critical_width(np.random.default_rng(0), np, **case, most=most) for most in (None, 256))
    assert 256 < right.measured < 1000 and broken.measured == math.inf and broken.facts["cap"] == 1000


def test_near_ties_cost_width_only_where_k_entries_are_kept() -> None:
    case: dict[str, Any] = {"variable": "varepsilon", "family": "ties", "n": 300, "k": 1, "eps1": 0.03, "columns": 3}
    found = [
        np.median([width.critical_width(np.random.default_rng(s), np, **case, keep=keep).measured for s in range(5)])
        for keep in (1, 2)
    ]
    assert found[0] > 2 * found[1] > 2
