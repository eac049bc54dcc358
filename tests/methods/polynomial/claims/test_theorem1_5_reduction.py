"""Gap instances have the gap they promise, and the reduction decides them."""

import numpy as np
import pytest

from sublinattn.methods.polynomial.claims.theorem1_5_reduction import (
    decided,
    distances,
    gap_instance,
    least_degree,
    smallest_error,
)


@pytest.mark.parametrize("near", [True, False])
def test_gap_instances(near):
    a, b, h = gap_instance(np.random.default_rng(3), 40, near=near)
    apart = (a[:, None, :] != b[None, :, :]).sum(axis=2)
    assert (distances(a, b) == apart).all()
    assert (apart <= h).sum() == near and ((apart <= 2 * h).sum() == 1 or not near)
    assert a.shape == b.shape == (40, 8 * h)


@pytest.mark.parametrize("near", [True, False])
def test_reduction_decides(near):
    trial = decided(np.random.default_rng(4), np, n=40, near=near)
    assert trial.measured == 0
    assert trial.facts["largest"] == pytest.approx(
        (40.0**-3 if near else 0) + (-1 if near else 1) * 40.0**-3 / 8, rel=0.3
    )


@pytest.mark.parametrize("change", [{"degree": 2}, {"scaled": False}])
def test_broken_reduction_does_not(change):
    assert sum(decided(np.random.default_rng(5), np, n=40, near=near, **change).measured for near in (True, False)) > 0


def test_smallest_error_is_that_of_the_outputs():
    """Two tokens a side and degree 1: by hand, p(x) = 1 + c (x/R - 1), over a fine grid of c."""
    y, radius, n = np.array([[0.5, -0.2], [-0.4, 0.1]]), 1.5, 2
    exact = np.exp(radius * (y - 1)).sum(axis=1)
    best = np.inf
    for c in np.linspace(0, 2, 20001):
        sums = (1 + c * (y - 1)).sum(axis=1)
        best = min(best, np.abs((sums - exact) * n / (exact + n) ** 2).max() / (n**-3 / 8))
    assert smallest_error(y, radius, 1) == pytest.approx(best, rel=1e-3)


def test_least_degree_is_low_for_small_entries():
    large, small = (least_degree(np.random.default_rng(6), np, n=30, near=True, scaled=x) for x in (True, False))
    assert large.measured == pytest.approx(np.log(30)) and large.measured <= large.bound
    assert small.bound < small.measured
