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


@pytest.mark.parametrize(("width", "dtype", "error"), [(9, np.float32, ValueError), (8, np.float64, TypeError)])
def test_rows_that_the_budget_is_not_for_are_refused_also_after_loading(tmp_path, width, dtype, error) -> None:
    cache = SubGenCache.within(20000, 8, 8, delta=1.0, cluster_samples=2, value_samples=8, rng=0)
    cache.save(tmp_path / "cache")
    for one in (cache, SubGenCache.load(tmp_path / "cache")):
        with pytest.raises(error, match="k must have"):
            one.update(np.ones((5, width), dtype), np.ones((5, 8), dtype))
    heads = np.ones((2, 3, 5, 8), np.float32)  # any leading axes will do
    assert cache.update(heads, heads).nbytes <= 6 * 20000


def test_current_delta_is_what_doubling_made_of_it() -> None:
    cache = SubGenCache(0.1, 1, 1, max_clusters=4, rng=0).update(*np.random.default_rng(0).standard_normal((2, 50, 3)))
    assert cache.current_delta > 0.1 and np.log2(cache.current_delta / 0.1) % 1 == 0 and "50 tokens" in repr(cache)


@pytest.mark.parametrize("wrong", [{"d": -8}, {"d": 8.5}, {"d_v": 0}, {"dtype": "float16"}, {"dtype": "foo"}])
def test_sizes_that_are_none_are_refused(wrong: dict) -> None:
    given = {"nbytes": 10000, "d": 8, "d_v": 8, "value_samples": 8, "cluster_samples": 2, "delta": 1.0} | wrong
    with pytest.raises((TypeError, ValueError), match=next(iter(wrong))):
        SubGenCache.within(**given)
