"""The same draws without replacement by NumPy and by the GPU's kernel (without a GPU, as g++ builds it)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sublinattn.core.backends import asnumpy
from sublinattn.primitives import sampling


@pytest.mark.parametrize(
    ("problems", "n", "m"),
    [
        (1, 1, 1),
        (3, 5, 5),
        (4, 50, 50),
        (200, 5, 3),
        (50, 300, 256),
        (2, 131072, 256),
        (4, 2**30, 300),
        (2, 10001, 501),
    ],
)
@pytest.mark.parametrize("generator", [np.random.PCG64, np.random.MT19937])
def test_a_gpu_draws_what_numpy_draws(kernel_xp: Any, problems: int, n: int, m: int, generator: Any) -> None:
    ours, numpys = (np.random.Generator(generator(7)) for _ in range(2))
    for _ in range(3):
        drawn = asnumpy(sampling.sample_without_replacement(kernel_xp, ours, problems, n, m))
        expected = [numpys.choice(n, m, replace=False, shuffle=False) for _ in range(problems)]
        assert np.array_equal(drawn, expected)
        assert all(len(set(row)) == m for row in drawn.tolist())
    assert ours.integers(2**40) == numpys.integers(2**40)


def test_half_a_random_number_left_over_is_used(kernel_xp: Any) -> None:
    """Three draws take 96 bits of two 64-bit numbers; the half that is left is the first of the next draw."""
    ours, numpys = np.random.default_rng(1), np.random.default_rng(1)
    for _ in range(4):
        drawn = asnumpy(sampling.sample_without_replacement(kernel_xp, ours, 1, 50, 3))
        assert np.array_equal(drawn[0], numpys.choice(50, 3, replace=False, shuffle=False))


def test_rejected_bits_are_drawn_again() -> None:
    """Of 3/8 of 2^32 choices Lemire's method rejects a quarter of the draws: the numbers are then NumPy's own."""
    ways = set()
    for seed in range(20):
        rng, again = np.random.default_rng(seed), np.random.default_rng(seed)
        drawn, bits = sampling.random_numbers(rng, 2, 3 * 2**29, 2)
        choices = np.array([3 * 2**29 - 1, 3 * 2**29], dtype=np.uint64)
        numbers = drawn * choices >> np.uint64(32) if bits else drawn
        assert np.array_equal(numbers, again.integers(0, choices.astype(np.int64), size=(2, 2)))
        ways.add(bits)
    assert ways == {True, False}
