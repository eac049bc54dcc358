"""What SubGen refuses, naming what is wrong; the cache is then as it was, to the byte of its file and in memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from toy_subgen import D_V, D, blobs

from sublinattn.methods.subgen.subgen import SubGenCache


def make(**options: Any) -> SubGenCache:
    return SubGenCache(**({"delta": 1.0, "cluster_samples": 2, "value_samples": 3, "recent": 4, "rng": 0} | options))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        *(
            ({"delta": x}, ValueError, f"delta must be a finite number of at least 0, got {x}")
            for x in (-1e-9, np.nan, np.inf)
        ),
        ({"delta": "1"}, TypeError, "delta must be a real number, got str"),
        ({"cluster_samples": 0}, ValueError, "cluster_samples must be at least 1, got 0"),
        ({"cluster_samples": 1.0}, TypeError, "cluster_samples must be an integer, got float"),
        ({"value_samples": 0}, ValueError, "value_samples must be at least 1, got 0"),
        ({"recent": -1}, ValueError, "recent must be at least 0, got -1"),
        ({"max_clusters": 0}, ValueError, "max_clusters must be at least 1, got 0"),
        ({"max_clusters": True}, TypeError, "max_clusters must be an integer, got bool"),
        ({"max_clusters": 3, "delta": 0}, ValueError, "delta must be above 0 if max_clusters is given"),
        ({"normaliser": "both"}, ValueError, r"normaliser must be one of \('clusters', 'slots'\), got 'both'"),
        ({"law": "norms"}, ValueError, r"law must be one of \('norm', 'centred', 'distance', 'uniform'\), got 'norms'"),
        ({"normaliser": "slots"}, ValueError, "delta must be None with normaliser='slots', .* got 1.0"),
        (
            {"normaliser": "slots", "delta": None, "cluster_samples": None, "max_clusters": 4},
            ValueError,
            "max_clusters must be None with normaliser='slots', .* got 4",
        ),
        ({"delta": None}, TypeError, "delta must be a real number, got NoneType"),
        ({"rng": "seed"}, TypeError, "rng must be a numpy.random.Generator"),
    ],
)
def test_impossible_parameters(options: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=f"^{message}"):
        make(**options)


def test_parameters_may_be_numpys() -> None:
    cache = make(delta=np.float32(0.5), cluster_samples=np.int64(2), recent=np.int32(3), max_clusters=np.int64(9))
    assert cache.update(*blobs(0, 30)).tokens_seen == 30


def test_nothing_to_show_before_the_first_token() -> None:
    k, v = blobs(0, 3)
    cache = make()
    for name in ("centers", "counts", "mu", "radius", "current_delta"):
        with pytest.raises(ValueError, match="^a cache without tokens has no clusters: call update first"):
            getattr(cache, name)
    cache.update(k, v)  # all in the window
    assert cache.centers.shape == (0, D) and cache.counts.shape == (0,) and cache.mu == 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ["k", "v"])
def test_norms_that_would_overflow(dtype: Any, name: str) -> None:
    """From some size on rows are refused, whatever the chunk; below it nothing overflows."""
    k, v = blobs(3, 30, dtype=dtype)
    largest = float(np.sqrt(np.finfo(dtype).max))
    refused: dict[int, list[float]] = {1: [], 30: []}
    for norm in largest * 2.0 ** -np.arange(45):
        rows = {"k": k.copy(), "v": v.copy()}
        rows[name][:, 0] = norm
        rows[name][::2, 0] *= -1
        for count, norms in refused.items():
            cache = make(max_clusters=3)
            try:
                for _ in range(3):
                    cache.update(rows["k"][:count], rows["v"][:count])
            except ValueError as error:
                assert str(error).startswith(f"{name} must have rows whose squared norms")
                assert cache.tokens_seen == cache.nbytes == 0
                norms.append(norm)
            else:
                assert not np.isnan(cache.attend(k[:2], scale=1e-30 / norm)).any()
                assert np.isfinite(cache.mu) and np.isfinite(cache.radius)
    assert refused[1] == refused[30] and min(refused[1]) > 1e-12 * largest


def test_many_large_rows_do_not_add_up_to_infinity() -> None:
    k, v = np.ones((8, D)), np.zeros((8, D_V))
    v[:, 0] = 1.0
    for exponent in np.arange(140, 155, 0.25):
        cache = make(recent=0)
        try:
            for _ in range(50):
                cache.update(k, v * 10.0**exponent)
        except ValueError as error:
            assert str(error).startswith("v must have rows whose squared norms")  # noqa: PT017
            break
        assert np.isfinite(cache.mu)
        np.testing.assert_allclose(cache.attend(k[0]), v[0] * 10.0**exponent, rtol=1e-12)
    else:
        pytest.fail("all were taken")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("delta", [1e-300, 1e-20, 1e19, 1e25, 1e160, 1e300])
def test_extreme_deltas(dtype: Any, delta: float) -> None:
    k, v = blobs(4, 50, 5, dtype=dtype)
    for options in ({}, {"max_clusters": 3}):
        cache = make(delta=delta, recent=0, **options).update(k, v)
        assert len(cache.centers) == (1 if delta > 1 else 50 if not options else len(cache.centers)) <= 50
        assert np.isfinite(cache.attend(k)).all()


# -------------------------------------------------------------------------------------------------- a budget of bytes
BUDGET: dict[str, Any] = {"delta": 0.01, "cluster_samples": 2, "value_samples": 3}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("nbytes", "options", "used"),
    [(1500, {}, 1 / 3), (4000, {"recent": 10}, 1 / 3), (20_000, {"value_samples": 32}, 0.7)],
)
def test_a_budget_of_bytes_is_kept_and_used(nbytes: int, options: Any, used: float, dtype: Any) -> None:
    """Keys that do not cluster, row by row and merged: one cluster more would not fit, then delta doubles."""
    k = np.random.default_rng(6).normal(size=(600, D)).astype(dtype)
    caches = [SubGenCache.within(nbytes, D, D_V, **(BUDGET | options), dtype=dtype, rng=rng) for rng in range(2)]
    largest = max(caches[0].update(row, row[:D_V]).nbytes for row in k[:300])
    assert used * nbytes <= largest <= nbytes
    caches[1].update(k[300:], k[300:, :D_V])
    assert caches[0].merge(caches[1]).nbytes <= nbytes


def test_the_least_budget() -> None:
    with pytest.raises(ValueError, match="^nbytes must be at least ([0-9]+) for these samples, got 9$") as refused:
        SubGenCache.within(9, D, D_V, **BUDGET)
    needed = int(str(refused.value).split()[5])
    assert SubGenCache.within(needed, D, D_V, **BUDGET).max_clusters == 1
    for options in ({}, {"dtype": np.float64}):  # twice the bytes for the same rows
        with pytest.raises(ValueError, match="^nbytes must be at least "):
            SubGenCache.within(needed - (not options), D, D_V, **BUDGET, **options)
    half = np.random.default_rng(0).standard_normal((500, D)).astype(np.float16)  # stored in single precision
    assert SubGenCache.within(5000, D, D, **BUDGET).update(half, half).nbytes <= 5000


@pytest.mark.parametrize(
    "wrong",
    [{"nbytes": 0}, {"value_samples": 0}, {"cluster_samples": 0}, {"d": -8}, {"d": 8.5}, {"d_v": 0}, {"dtype": "foo"}],
)
def test_impossible_budgets(wrong: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^{next(iter(wrong))} must"):
        SubGenCache.within(**({"nbytes": 10_000, "d": 8, "d_v": 8} | BUDGET | wrong))


@pytest.mark.parametrize(("width", "dtype", "error"), [(9, np.float32, ValueError), (8, np.float64, TypeError)])
def test_rows_that_the_budget_is_not_for_are_refused_also_after_loading(
    tmp_path: Any, width: int, dtype: Any, error: Any
) -> None:
    cache = SubGenCache.within(20_000, 8, 8, **BUDGET, rng=0)
    cache.save(tmp_path / "cache")
    for one in (cache, SubGenCache.load(tmp_path / "cache")):
        with pytest.raises(error, match="k must have"):
            one.update(np.ones((5, width), dtype), np.ones((5, 8), dtype))
    heads = np.ones((2, 3, 5, 8), np.float32)  # any leading axes will do
    assert cache.update(heads, heads).nbytes <= 6 * 20_000
