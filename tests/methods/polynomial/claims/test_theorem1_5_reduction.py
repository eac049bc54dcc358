"""Gap instances have the gap they promise, and the reduction decides them."""

import numpy as np
import pytest

from sublinattn.methods.polynomial.claims.theorem1_5_reduction import decided, distances, gap_instance


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


@pytest.mark.parametrize("change", [{"degree": 2}, {"tilted": False}])
def test_broken_reduction_does_not(change):
    assert sum(decided(np.random.default_rng(5), np, n=40, near=near, **change).measured for near in (True, False)) > 0
