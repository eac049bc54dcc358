"""The seeded hash: exact arithmetic, the same values everywhere, cubics from the seed, the law of buckets and signs."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import references
from scipy.stats import chisquare

from sublinattn.methods.countsketch.hashing import MAX_INDEX, PRIME, IndexHash, cubics

EDGES = [0, 1, 2, 2**16 - 1, 2**16, 2**30, 2**31 - 3, 2**31 - 2]


def hashed(xp: Any, coefficients: Any, width: int, index: Any) -> tuple[np.ndarray, np.ndarray]:
    """Buckets and signs on the host, shape (r, len(index))."""
    hash_ = IndexHash(np.asarray(coefficients, dtype=np.uint64), width)
    return references.on(xp, partial(hash_, xp), [np.asarray(index, dtype=np.int64)[None]])


def plain(coefficients: Any, width: int, x: int) -> tuple[int, int]:
    """Bucket and sign in Python's integers."""
    a, b, c, d = (int(part) for part in coefficients)
    value = (a * x**3 + b * x**2 + c * x + d) % PRIME
    return (value // 2) * width // 2**30, -1 if value % 2 else 1


def test_the_prime_is_prime_and_bounds_the_indices() -> None:
    assert PRIME == MAX_INDEX == 2**31 - 1
    assert all(PRIME % q for q in range(2, math.isqrt(PRIME) + 1))


@pytest.mark.parametrize("width", [1, 2, 3, 1000, 2**16 + 1, 2**30 - 1])
def test_values_are_those_of_exact_arithmetic(xp: Any, width: int) -> None:
    """Extreme coefficients and indices (the intermediate values reach their largest), and random ones."""
    rng = np.random.default_rng(width)
    extreme = [[PRIME - 1] * 4, [PRIME - 1, 0, PRIME - 1, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 1, PRIME - 1]]
    coefficients = np.concatenate([np.array(extreme, dtype=np.uint64), cubics(rng, 20)])
    index = EDGES + rng.integers(PRIME, size=40).tolist()
    bucket, sign = hashed(xp, coefficients, width, index)
    assert bucket.dtype == np.int64 and sign.dtype == np.int8
    expected = np.array([[plain(c, width, x) for x in index] for c in coefficients])
    np.testing.assert_array_equal(bucket, expected[..., 0])
    np.testing.assert_array_equal(sign, expected[..., 1])


def test_a_slice_of_the_cubics_and_indices_of_their_own(xp: Any) -> None:
    """`which` takes some cubics; an index array with r' rows gives each its own; further axes are kept."""
    rng = np.random.default_rng(0)
    hash_ = IndexHash(cubics(rng, 6), 37)
    index = rng.integers(PRIME, size=(3, 4, 5))
    bucket, sign = references.on(xp, partial(hash_, xp), [index], which=slice(2, 5))
    assert bucket.shape == sign.shape == (3, 4, 5)
    for at in np.ndindex(index.shape):
        assert (bucket[at], sign[at]) == plain(hash_.coefficients[2 + at[0]], 37, int(index[at]))


def test_cubics_are_drawn_from_the_seed_over_the_whole_field() -> None:
    drawn = cubics(np.random.default_rng(3), 5000)
    assert drawn.dtype == np.uint64 and drawn.shape == (5000, 4)
    np.testing.assert_array_equal(drawn, cubics(np.random.default_rng(3), 5000))
    assert len(np.unique(drawn)) > 19900 and drawn.max() < PRIME  # fewer than 20000 by chance: about 0.1 pairs meet
    counts = [np.bincount(column // (PRIME // 16 + 1), minlength=16) for column in drawn.T.astype(np.int64)]
    assert chisquare(counts, axis=1).pvalue.min() > 1e-6 / 4


@pytest.mark.parametrize("width", [1, 3, 7, 1000, 65537])
def test_bucket_law(xp: Any, width: int) -> None:
    """Buckets cut [0, 2^30) into runs, each value with either sign: laws within `(width + 1) / 2^30` of uniform.

    Under the cubic `x -> x` an index is its own value. The first values of each bucket are where it begins; the last
    pair lacks its second value.
    """
    b = np.arange(width)
    first = -(-(b << 30) // width)
    identity = [[0, 0, 1, 0]]
    for shift in (0, 1):
        bucket, sign = hashed(xp, identity, width, 2 * first + shift)
        np.testing.assert_array_equal(bucket[0], b)
        assert set(sign[0].tolist()) == {1 - 2 * shift}
    np.testing.assert_array_equal(hashed(xp, identity, width, 2 * first[1:] - 1)[0][0], b[:-1])
    assert hashed(xp, identity, width, [MAX_INDEX - 1])[0] == width - 1
    pairs = np.diff(first, append=2**30)
    plus, minus = pairs, pairs - (b == width - 1)  # how many of the PRIME values have this bucket and sign
    assert plus.sum() + minus.sum() == PRIME
    distance = np.abs(np.stack([plus, minus]) / PRIME - 1 / (2 * width)).sum() / 2
    assert distance <= (width + 1) / 2**30
