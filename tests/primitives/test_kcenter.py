"""The greedy k-center against a loop and against the optimum, and diameters against all pairs."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import references

from sublinattn.primitives.kcenter import diameters, greedy_k_center, greedy_radii


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("start", [0, 17])
def test_greedy_equals_the_loop(xp: Any, dtype: Any, start: int) -> None:
    k = np.random.default_rng(start).normal(size=(150, 5)).astype(dtype)
    indices, radii = greedy_k_center(xp, xp.asarray(k), 40, start=start)
    expected, least = references.greedy_k_center(k, 40, start)
    assert indices.tolist() == expected and indices.dtype == np.int64 and radii.dtype == np.float64
    np.testing.assert_allclose(radii, least, rtol=1e-12 if dtype == np.float64 else 1e-5)
    assert (np.diff(radii) <= 0).all()
    shorter, some = greedy_k_center(xp, xp.asarray(k), 7, start=start)
    assert np.array_equal(shorter, indices[:7]) and np.array_equal(some, radii[:7])


def test_ties_and_repetitions_on_a_lattice(xp: Any) -> None:
    """Integers: no rounding, so the first of equally far points, and no point twice."""
    rng = np.random.default_rng(1)
    k = rng.integers(-2, 3, size=(400, 2)).astype(np.float32)
    indices, radii = greedy_k_center(xp, xp.asarray(k), 400, start=3)
    expected, least = references.greedy_k_center(k, 400, 3)
    assert indices.tolist() == expected and len(indices) == 25 == len({tuple(x) for x in k[indices].tolist()})
    np.testing.assert_allclose(radii, least, rtol=1e-7)
    assert radii[-1] == 0
    for alike in (k[:1], np.repeat(k[:1], 30, axis=0)):
        indices, radii = greedy_k_center(xp, xp.asarray(alike), 5)
        assert indices.tolist() == [0] and radii.tolist() == [0.0]
        assert greedy_radii(xp, xp.asarray(alike), 5).tolist() == [0.0] * 5


def test_more_points_than_a_tile(xp: Any) -> None:
    """Points on a line, 20000 of them: the farthest is in the last tile, then in the first, then in the middle."""
    k = np.arange(20_000.0)[:, None]
    indices, radii = greedy_k_center(xp, xp.asarray(k), 5, start=9000)
    assert indices.tolist() == [9000, 19_999, 0, 14_499, 4500]
    assert radii.tolist() == [10_999, 9000, 5499, 4500, 2750]


@pytest.mark.parametrize("norm", [10, 1000])
def test_keys_far_from_the_origin(norm: float) -> None:
    """A common offset changes no distance: radii and diameters stay within rounding of the keys' own entries."""
    rng = np.random.default_rng(4)
    k = (rng.normal(size=(300, 64)) / 8 + norm / 8).astype(np.float32)
    indices, radii = greedy_k_center(np, k, 20)
    wide = k.astype(np.float64)
    pairs = np.linalg.norm(wide[:, None] - wide[indices], axis=-1)
    np.testing.assert_allclose(radii, np.minimum.accumulate(pairs, axis=1).max(axis=0), rtol=1e-4)
    labels = rng.integers(10, size=300)
    np.testing.assert_allclose(diameters(np, k, labels), diameters_by_loop(k, labels), rtol=1e-4)


# ------------------------------------------------------------------------------------------------------------ diameters
def diameters_by_loop(k: np.ndarray, labels: np.ndarray) -> list[float]:
    out = [0.0] * (int(labels.max()) + 1)
    for (a, i), (b, j) in itertools.combinations(zip(k, labels.tolist(), strict=True), 2):
        if i == j:
            out[i] = max(out[i], references.distance(a, b))
    return out


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("tiles", ["whole", "small"])
def test_diameters_equal_all_pairs(xp: Any, dtype: Any, tiles: str, request: pytest.FixtureRequest) -> None:
    if tiles == "small":
        request.getfixturevalue("small_tiles")
    rng = np.random.default_rng(2)
    k = rng.normal(size=(200, 6)).astype(dtype)
    labels = rng.integers(9, size=200) ** 2 // 9  # of uneven sizes; one cluster of one point, numbers without points
    labels[labels == 5] = 4
    labels[0] = 8
    found = diameters(xp, xp.asarray(k), labels)
    assert found.shape == (labels.max() + 1,) and found.dtype == np.float64
    np.testing.assert_allclose(found, diameters_by_loop(k, labels), rtol=1e-12 if dtype == np.float64 else 1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_one_point_has_no_diameter(xp: Any, dtype: Any) -> None:
    k = np.random.default_rng(3).normal(size=(100, 64)).astype(dtype)
    assert diameters(xp, xp.asarray(k), np.arange(100)).tolist() == [0.0] * 100
    assert diameters(xp, xp.asarray(k[:1]), np.array([3])).tolist() == [0.0] * 4
