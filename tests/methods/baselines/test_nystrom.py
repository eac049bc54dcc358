"""Nystrom attention, against its formula with SciPy's pseudo-inverse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import references
from scipy.linalg import pinv
from scipy.special import softmax

from sublinattn import nystrom_attention
from sublinattn.methods.baselines import nystrom


def plain(q: Any, k: Any, v: Any, m: int) -> np.ndarray:
    def means(x: np.ndarray) -> np.ndarray:
        return np.array([part.mean(axis=0) for part in np.array_split(x, m)])

    f, a, b = (softmax(x @ y.T / 2, axis=1) for x, y in ((q, means(k)), (means(q), means(k)), (means(q), k)))
    return f @ pinv(a) @ b @ v


@pytest.mark.parametrize(("n_q", "n_k", "m"), [(24, 24, 6), (25, 27, 6), (30, 17, 1), (9, 30, 9), (11, 11, 11)])
def test_is_its_formula_when_the_inverse_has_converged(xp: Any, small_tiles: None, n_q: int, n_k: int, m: int) -> None:
    q, k, v = references.qkv(0, n_q, n_k, lead=(2,), size=2.0)
    out = references.on(xp, nystrom_attention, [q, k, v], landmarks=m, iterations=60)
    for b in range(2):
        np.testing.assert_allclose(out[b], plain(q[b], k[b], v[b], m), rtol=1e-6, atol=1e-6)


def test_a_landmark_for_every_key_is_exact(xp: Any) -> None:
    arrays = references.qkv(1, 20, 20, lead=(2,), size=3.0)
    out = references.on(xp, nystrom_attention, arrays, landmarks=20)
    np.testing.assert_allclose(out, references.attention(*arrays)[0], rtol=1e-10, atol=1e-12)


def test_landmarks_are_64_or_as_many_as_there_are() -> None:
    for n, m in ((100, 64), (30, 30)):
        arrays = references.qkv(2, n, n)
        np.testing.assert_array_equal(nystrom_attention(*arrays), nystrom_attention(*arrays, landmarks=m))


def test_the_residual_of_the_inverse_falls_with_its_third_power(xp: Any) -> None:
    """`I - A Z'` is a polynomial in `R = I - A Z` that begins with `R^3 (3 + R) / 4`, for any matrix."""
    a = softmax(np.random.default_rng(2).standard_normal((3, 7, 7)), axis=2)

    def residual(iterations: int) -> np.ndarray:
        z = nystrom.pseudo_inverse(xp, xp.asarray(a), iterations)
        return np.eye(7) - a @ (z if xp is np else z.get())

    for step in range(1, 20):
        before, after = residual(step - 1), residual(step)
        cube = before @ before @ before
        np.testing.assert_allclose(after, (3 * cube + cube @ before) / 4, atol=1e-9)
    assert np.abs(residual(60)).max() < 1e-8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"landmarks": 0}, "landmarks must be at least 1, got 0"),
        ({"landmarks": 5}, r"landmarks must be at most the numbers of queries and of keys \(4\), got 5"),
        ({"landmarks": 2, "iterations": -1}, "iterations must be at least 0, got -1"),
    ],
)
def test_parameters_are_checked(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        nystrom_attention(*references.qkv(0, 4, 6), **options)
