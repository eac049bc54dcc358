"""Uniform key sampling, the yardstick."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import references

from sublinattn import uniform_attention
from sublinattn.methods.baselines import uniform


def run(xp: Any, arrays: list[np.ndarray], **options: Any) -> tuple[np.ndarray, np.ndarray]:
    return references.on(xp, uniform_attention, arrays, **({"rng": 0, "return_lse": True} | options))


@pytest.mark.parametrize("lead", [(), (2,), (2, 3)])
@pytest.mark.parametrize("size", [1.0, 30.0])
def test_all_keys_is_exact(xp: Any, lead: tuple[int, ...], size: float) -> None:
    arrays = references.qkv(0, 9, 13, lead=lead, size=size)
    references.assert_close(run(xp, arrays, sample_size=13), references.attention(*arrays), atol=1e-11)


def test_is_attention_over_some_distinct_keys(xp: Any) -> None:
    """Values that name their keys: with zero queries the output is the mean of m distinct ones."""
    n, m = 30, 7
    q, k, _ = references.qkv(1, 4, n, lead=(2,), size=0.0)
    v = np.broadcast_to(np.eye(n), (2, n, n)).copy()
    out, lse = run(xp, [q, k, v], sample_size=m)
    np.testing.assert_allclose(np.sort(out, axis=-1)[..., -m:], 1 / m)
    np.testing.assert_allclose(np.sort(out, axis=-1)[..., :-m], 0)
    np.testing.assert_array_equal(out, np.repeat(out[:, :1], 4, axis=1))  # the same keys for every query
    assert (out[0] != out[1]).any()
    np.testing.assert_allclose(lse, math.log(n))
    np.testing.assert_array_equal(out, run(xp, [q, k, v], sample_size=m)[0])
    assert (out != run(xp, [q, k, v], sample_size=m, rng=1)[0]).any()


@pytest.mark.parametrize("size", [1.0, 30.0])
@pytest.mark.parametrize(("n_q", "n_k"), [(13, 13), (9, 13), (17, 13)])
def test_causal_with_all_keys_is_exact(xp: Any, small_tiles: None, n_q: int, n_k: int, size: float) -> None:
    arrays = references.qkv(0, n_q, n_k, lead=(3,), size=size)
    expected = references.attention(*arrays, causal=True)
    references.assert_close(run(xp, arrays, sample_size=min(n_q, n_k), causal=True), expected, atol=1e-11)


def test_a_causal_query_sees_itself_and_the_sampled_keys_before_it(xp: Any) -> None:
    n, m = 12, 5
    q, k, _ = references.qkv(1, n, n, size=0.0)
    out, lse = run(xp, [q, k, np.eye(n)], sample_size=m, causal=True)
    weights = out * np.exp(lse)[:, None]
    np.testing.assert_allclose(np.diag(weights), 1)
    below = weights[np.tril_indices(n, -1)]
    assert set(np.round(below, 9)) == {0, n / m} and (np.triu(weights, 1) == 0).all()
    assert set((weights[-1, :-1] > 0) @ np.ones(n - 1)[:, None]) <= {m, m - 1}  # the last key may be sampled
    sampled = weights[-1] > 0
    for i in range(n):
        np.testing.assert_allclose(weights[i, :i], n / m * sampled[:i])


def test_keys_that_no_causal_query_sees_are_checked_all_the_same() -> None:
    q, k, v = references.qkv(3, 4, 9)
    k[7] = np.nan
    with pytest.raises(ValueError, match="^k must be finite"):
        uniform_attention(q, k, v, sample_size=2, causal=True)
    with pytest.raises(ValueError, match=r"^sample_size must be at most the number of keys \(4\), got 5"):
        uniform_attention(q, k, v, sample_size=5, causal=True)


def test_with_replacement_a_key_counts_as_often_as_it_is_drawn(xp: Any) -> None:
    n, m = 6, 40
    q, k, _ = references.qkv(1, 3, n, lead=(2,), size=0.0)
    out, lse = run(xp, [q, k, np.broadcast_to(np.eye(n), (2, n, n)).copy()], sample_size=m, replace=True)
    counts = np.random.default_rng(0).integers(n, size=(2, m))
    np.testing.assert_allclose(out[:, 0] * m, [np.bincount(row, minlength=n) for row in counts])
    np.testing.assert_allclose(lse, math.log(n))


@pytest.mark.parametrize(
    "options", [{}, {"causal": True}, {"replace": True}, {"causal": True, "replace": True}], ids=str
)
@pytest.mark.parametrize("statistic", ["normaliser", "product"])
def test_is_unbiased(statistic: str, options: dict[str, bool]) -> None:
    """z-test over 1500 seeds; |z| <= 4.5 has a false alarm rate of 7e-6."""
    arrays = references.qkv(2, 5, 20)
    out, lse = references.attention(*arrays, causal=options.get("causal", False))
    probe = np.random.default_rng(3).standard_normal((5, 3))

    def functional(out: np.ndarray, lse: np.ndarray) -> float:
        return float((probe * np.exp(lse)[:, None] * (out if statistic == "product" else 1)).sum())

    estimates = [functional(*run(np, arrays, sample_size=4, rng=seed, **options)) for seed in range(1500)]
    assert abs(references.z_score(estimates, functional(out, lse))) <= 4.5


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_dtype_comes_back(xp: Any, dtype: Any) -> None:
    out, lse = run(xp, references.qkv(3, 6, 8, dtype=dtype), sample_size=5)
    assert (out.dtype, lse.dtype) == (dtype, np.float32)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_through_the_kernel(kernel_xp: Any, monkeypatch: pytest.MonkeyPatch, dtype: Any) -> None:
    """The same keys as in float64, read where they lie; each head has its own."""
    arrays = [x.astype(dtype) for x in references.qkv(4, 20, 70, d=32, d_v=32, lead=(2,))]
    expected = run(np, [x.astype(np.float64) for x in arrays], sample_size=40)
    monkeypatch.setattr(uniform, "attention", None)
    out, lse = run(kernel_xp, arrays, sample_size=40)
    assert (out.dtype, lse.dtype) == (dtype, np.float32)
    np.testing.assert_allclose(lse, expected[1], rtol=1e-5)
    np.testing.assert_allclose(out.astype(float), expected[0], atol=2e-3 if dtype == np.float16 else 2e-2)
