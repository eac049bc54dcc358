"""Monomial features against brute force over exponents; their sums against dense matrix products."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import references
import sympy as sp

import sublinattn.methods.polynomial.monomials as polynomial_monomials
from sublinattn.core import backends
from sublinattn.methods.polynomial.monomials import (
    Monomials,
    divided,
    evaluate,
    feature_matrix,
    lane_moments,
    lanes,
    moments,
    with_ones,
)

SIZES = [(1, 0), (1, 5), (2, 1), (2, 6), (3, 4), (5, 3), (6, 2)]
PRIMES = [2, 3, 5, 7, 11, 13]


@pytest.fixture(params=[1, 7])
def small_chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Chunks of so few rows that every loop over chunks turns, in each of several lanes."""
    monkeypatch.setattr(backends, "feature_rows", lambda xp, features, dtype: request.param)
    return int(request.param)


def features(xp: Any, monomials: Monomials, x: np.ndarray) -> np.ndarray:
    """Features of rows (n, d), shape (n, t), by `fill` alone."""
    out = xp.full((monomials.rank, len(x)), np.nan, dtype=x.dtype)
    return backends.asnumpy(monomials.fill(xp, xp.asarray(np.ascontiguousarray(x.T)), out)).T


def read_off(monomials: Monomials) -> list[tuple[int, ...]]:
    """Exponents of every monomial: at distinct primes its value is an integer that factors into them."""
    primes = PRIMES[: monomials.d]
    values = features(np, monomials, np.array([primes], dtype=np.float64))[0]
    assert values.max() < 2**53  # exact
    factors = [sp.factorint(int(value)) for value in values]
    assert all(set(powers) <= set(primes) for powers in factors)
    return [tuple(powers.get(p, 0) for p in primes) for powers in factors]


# ------------------------------------------------------------------------------------------------- features and weights
@pytest.mark.parametrize(("d", "degree"), SIZES)
def test_every_monomial_is_there_once(d: int, degree: int) -> None:
    monomials = Monomials(d, degree)
    found = read_off(monomials)
    assert sorted(found) == sorted(references.exponents(d, degree))
    assert monomials.rank == len(found) == math.comb(d + degree, degree)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("d", "degree"), SIZES)
def test_values(xp: Any, d: int, degree: int, dtype: Any) -> None:
    monomials = Monomials(d, degree)
    x = np.random.default_rng(0).standard_normal((9, d)).astype(dtype)
    wide = x.astype(np.float64)
    expected = np.array([[math.prod(row**a) for a in read_off(monomials)] for row in wide])
    u = features(xp, monomials, x)
    assert u.dtype == dtype
    np.testing.assert_allclose(u, expected, rtol=8 * np.finfo(dtype).eps)
    np.testing.assert_array_equal(backends.asnumpy(feature_matrix(xp, monomials, xp.asarray(x))), u)


@pytest.mark.parametrize(("d", "degree"), [*SIZES, (16, 3), (2, 12), (2, 30)])
def test_scalar_product_of_features_is_the_polynomial(xp: Any, d: int, degree: int) -> None:
    rng = np.random.default_rng(2)
    q, k = rng.standard_normal((2, 20, d))
    for scale in (0.5, -0.8):
        coefficients = rng.standard_normal(degree + 1).tolist()
        monomials = Monomials(d, degree)
        u1, u2 = features(xp, monomials, q) * monomials.weights(coefficients, scale), features(xp, monomials, k)
        x = scale * np.sum(q * k, axis=1)
        expected = sum(c * x**power for power, c in enumerate(coefficients))
        size = sum(abs(c) * abs(scale * np.sum(abs(q * k), axis=1)) ** power for power, c in enumerate(coefficients))
        assert np.all(abs(np.sum(u1 * u2, axis=1) - expected) <= 1e-14 * size)


def test_too_many_features() -> None:
    assert Monomials(2, 2894).rank <= polynomial_monomials.MAX_RANK < math.comb(2 + 2895, 2)
    with pytest.raises(ValueError, match=r"degree 2895 in d = 2 variables has 4.19e\+6 monomials, at most 4194304 are"):
        Monomials(2, 2895)
    with pytest.raises(ValueError, match=r"degree 10 in d = 64 variables has 7.18e\+11 monomials"):
        Monomials(64, 10)
    with pytest.raises(ValueError, match=r"has 9.62e\+2463 monomials"):  # past the largest float
        Monomials(4096, 4096)


# ----------------------------------------------------------------------------------------------------------------- sums
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [1, 6, 7, 300])
def test_sums_over_chunks(xp: Any, small_chunks: int, n: int, dtype: Any) -> None:
    monomials = Monomials(3, 3)
    rng = np.random.default_rng(3)
    x, v = rng.standard_normal((n, 3)).astype(dtype), rng.standard_normal((n, 4)).astype(dtype)
    w = rng.standard_normal((monomials.rank, 4))
    u = features(np, monomials, x)
    tolerance = 100 * np.finfo(dtype).eps
    sums, values, matrix = (
        references.on(xp, partial(function, xp, monomials), arrays)
        for function, arrays in ((moments, (x, v)), (evaluate, (x, w)), (feature_matrix, (x,)))
    )
    assert (sums.dtype, values.dtype, matrix.dtype) == (np.float64, dtype, dtype)
    expected = u.astype(np.float64).T @ v
    np.testing.assert_allclose(sums, expected, atol=tolerance * np.sum(abs(u), axis=0).max())
    np.testing.assert_allclose(values, u @ w, atol=tolerance * np.max(abs(u) @ abs(w)))
    np.testing.assert_array_equal(matrix, u)


def test_lanes_are_parts_of_whole_chunks(small_chunks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monomials = Monomials(3, 3)
    for n in (1, 7, 100, 111, 112, 113, 1000):
        k, v = np.ones((n, 3)), np.ones((n, 4))
        parts = lanes(np, monomials, k, v)
        assert [part.start for part in parts] == [0, *(part.stop for part in parts[:-1])] and parts[-1].stop == n
        assert all(part.start % small_chunks == 0 and part.start < part.stop for part in parts)
        assert len(parts) <= polynomial_monomials.LANES
        if n == 1000:
            assert len(parts) > 10
        chunks = [chunk for part in parts for chunk in backends.cut(part.stop, small_chunks, part.start)]
        assert [i for chunk in chunks for i in range(chunk.start, chunk.stop)] == list(range(n))
        assert max(chunk.stop - chunk.start for chunk in chunks) <= small_chunks
        assert lane_moments(np, monomials, k, v, parts)[:, 0, 0].tolist() == [p.stop - p.start for p in parts]
        monkeypatch.setattr(polynomial_monomials, "LANE_BYTES", 3 * 8 * monomials.rank * 4)
        assert len(lanes(np, monomials, k, v)) <= 3
        monkeypatch.setattr(polynomial_monomials, "LANE_BYTES", 0)
        assert len(lanes(np, monomials, k, v)) == 1
        monkeypatch.undo()
        monkeypatch.setattr(backends, "feature_rows", lambda xp, features, dtype: small_chunks)


def test_a_device_has_one_lane(xp: Any, small_chunks: int) -> None:
    k, v = xp.ones((200, 3)), xp.ones((200, 4))
    assert (len(lanes(xp, Monomials(3, 3), k, v)) == 1) == (xp is not np)


def test_division_by_the_normaliser(xp: Any) -> None:
    sums = np.array([[2.0, 4.0, 2.0], [3.0, -6.0, 0.5]])
    np.testing.assert_array_equal(backends.asnumpy(divided(xp, xp.asarray(sums), 3)), [[1, 2], [6, -12]])
    np.testing.assert_array_equal(backends.asnumpy(with_ones(xp, xp.asarray(sums)))[:, -1], 1)
    low, lost = (
        "^degree must be high enough .* got 3 and a row sum of",
        "^q and k must have shorter rows .* overflow in",
    )
    for bad, message in ((0.0, f"{low} 0"), (-0.25, f"{low} -0.25"), (np.nan, lost), (np.inf, f"{lost} float64")):
        sums[1, 2] = bad
        with pytest.raises(ValueError, match=message):
            divided(xp, xp.asarray(sums), 3)
