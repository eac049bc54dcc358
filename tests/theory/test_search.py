"""The search for a critical size: found within its interpolation's error, and from no fixed beginning."""

import math

import numpy as np
import pytest

from sublinattn.theory.search import critical_size


def power(target, exponent=-0.5):
    return lambda m: (m / target) ** exponent


@pytest.mark.parametrize("start", [1, 37, 4000])
def test_a_power_law_is_found_exactly_from_anywhere(start):
    found = critical_size(power(100.0), start=start, cap=10**5, rng=np.random.default_rng(0))
    assert found == pytest.approx(100.0, rel=1e-9)


def test_above_the_cap_is_inf():
    assert critical_size(power(1e6), start=10, cap=1000, rng=np.random.default_rng(0)) == math.inf


def test_one_suffices():
    assert critical_size(lambda m: 0.5, start=64, cap=1000, rng=np.random.default_rng(0)) == 1.0


def test_the_first_size_is_log_uniform_between_start_and_its_double():
    firsts = []
    for seed in range(400):
        tried = []
        critical_size(
            lambda m, tried=tried: tried.append(m) or 0.0, start=1000.0, cap=10**4, rng=np.random.default_rng(seed)
        )
        firsts.append(tried[0])
    shares = np.log2(np.array(firsts) / 1000)
    assert 0 <= shares.min() < 0.05 and 0.95 < shares.max() <= 1 and abs(shares.mean() - 0.5) < 0.06


def test_the_interpolations_error_is_noise_between_replicates():
    """An error with a step is interpolated to a power of two times the first size."""
    sizes = [
        critical_size(lambda m: 2.0 if m < 100 else 0.5, start=16, cap=10**4, rng=np.random.default_rng(s))
        for s in range(50)
    ]
    assert np.ptp(np.log2(sizes)) > 0.8
