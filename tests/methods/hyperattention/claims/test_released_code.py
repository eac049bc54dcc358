"""The dense reference code of the authors' released estimators, against loops over single keys."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sublinattn.methods.hyperattention.claims.released_code import (
    causal_bias,
    columns,
    filled,
    first_bias,
    first_keys,
    neighbours,
    recursion,
    sampled_bias,
    sampled_keys,
)

RNG = np.random.default_rng(0)
A, V = np.exp(RNG.standard_normal((6, 8))), RNG.standard_normal((8, 2))
OWN = np.arange(8) // 3 == (np.arange(6) // 2)[:, None]  # the last block has two keys


@pytest.mark.parametrize("masked", [True, False])
def test_columns_are_counted_one_by_one(masked: bool) -> None:
    sample = np.array([0, 5, 5, 7])
    normaliser, product = columns(A, V, OWN, sample, weight=2.0, masked=masked)
    for i in range(len(A)):
        weights = OWN[i].astype(float)
        for j in sample:
            weights[j] += 2.0 * (not (masked and OWN[i, j]))
        np.testing.assert_allclose(normaliser[i], (weights * A[i]).sum())
        np.testing.assert_allclose(product[i], (weights * A[i]) @ V)


def test_last_block_is_filled_with_logits_of_zero() -> None:
    a, v, own = filled(A, V, OWN, 3)
    np.testing.assert_array_equal(own.sum(axis=1), 3)
    np.testing.assert_allclose((a * own).sum(axis=1), (A * OWN).sum(axis=1) + [0, 0, 0, 0, 1, 1])
    np.testing.assert_allclose((a * own) @ v, (A * OWN) @ V)


def test_released_samples() -> None:
    """All keys first is the block twice; sampled keys weigh n/m."""
    normaliser, _ = first_keys(A, V, OWN, 8, RNG)
    np.testing.assert_allclose(normaliser, A.sum(axis=1) + (A * OWN).sum(axis=1))
    normaliser, _ = sampled_keys(np.ones((6, 8)), V, np.zeros((6, 8), bool), 5, RNG, masked=True)
    np.testing.assert_allclose(normaliser, 8)


def test_recursion_covers_the_triangle_once() -> None:
    a, v = np.exp(RNG.standard_normal((16, 16))), RNG.standard_normal((16, 2))
    normaliser, product = recursion(a, v, 2, lambda rows, keys: (a[rows, keys].sum(axis=1), a[rows, keys] @ v[keys]))
    np.testing.assert_allclose(normaliser, np.tril(a).sum(axis=1))
    np.testing.assert_allclose(product, np.tril(a) @ v)


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("broken", ["nothing", "no weight", "filling masked", "other path"])
def test_bias_of_sampled_keys(xp: Any, masked: bool, broken: str) -> None:
    sizes: dict[str, Any] = {"n": 5, "block_size": 3, "sample_size": 2, "masked": masked}
    trial = sampled_bias(np.random.default_rng(0), xp, **sizes, broken=broken)
    assert trial.measured < 1e-13 if broken == "nothing" else trial.measured > 0.05


@pytest.mark.parametrize("broken", ["nothing", "n/m weight", "masked"])
def test_bias_of_first_keys(xp: Any, broken: str) -> None:
    first = first_bias(np.random.default_rng(0), xp, n=5, block_size=2, sample_size=2, broken=broken)
    causal = causal_bias(np.random.default_rng(0), xp, half=5, block_size=2, sample_size=2, broken=broken)
    for trial in (first, causal):
        assert trial.measured < 1e-13 if broken == "nothing" else trial.measured > 0.05


def test_neighbours_in_both_orders(xp: Any) -> None:
    rng = np.random.default_rng(0)
    assert neighbours(rng, xp, bits=7).measured == 4 and neighbours(rng, xp, bits=7, order="inverse").measured == 1
