"""A SubGen cache within a budget of bytes: never above it, and delta found to a factor of 2."""

from __future__ import annotations

import numpy as np
import pytest

from sublinattn import SubGenCache


@pytest.mark.parametrize(("nbytes", "t", "s", "recent"), [(6000, 1, 8, 0), (20000, 4, 32, 16), (200000, 8, 64, 100)])
def test_the_budget_is_kept_at_every_moment_and_used(nbytes: int, t: int, s: int, recent: int) -> None:
    rng = np.random.default_rng(0)
    cache = SubGenCache.within(nbytes, 8, 6, delta=0.01, cluster_samples=t, value_samples=s, recent=recent, rng=1)
    used = 0
    for _ in range(40):
        cache.update(rng.standard_normal((100, 8), dtype=np.float32), rng.standard_normal((100, 6), dtype=np.float32))
        assert cache.nbytes <= nbytes
        used = max(used, cache.nbytes)
    # With a cluster more than max_clusters the arrays would no longer fit; before doubling it was close to that.
    assert used >= 0.7 * nbytes


def test_half_precision_is_held_in_single() -> None:
    cache = SubGenCache.within(5000, 4, 4, delta=0.1, cluster_samples=2, value_samples=8, rng=0)
    x = np.random.default_rng(0).standard_normal((500, 4)).astype(np.float16)
    assert cache.update(x, x).nbytes <= 5000


def test_double_precision_has_to_be_said() -> None:
    with pytest.raises(ValueError, match="nbytes must be at least"):
        SubGenCache.within(1000, 8, 8, delta=1.0, cluster_samples=1, value_samples=8, dtype=np.float64)


@pytest.mark.parametrize("wrong", [{"nbytes": 0}, {"nbytes": 10}, {"value_samples": 0}, {"cluster_samples": 0}])
def test_impossible_budgets_are_refused(wrong: dict[str, int]) -> None:
    given = {"nbytes": 10000, "value_samples": 8, "cluster_samples": 2} | wrong
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SubGenCache.within(d=8, d_v=8, delta=1.0, **given)
