"""The references of the best polynomial and the least degree, and the trials that compare with them."""

import math

import numpy as np
import pytest

from sublinattn.methods.polynomial.approximants import approximant, taylor_bound
from sublinattn.methods.polynomial.claims.corollary2_2_least import (
    chosen_degree,
    least_error,
    minimax_error,
    reference_error,
)


def test_least_error_of_a_constant_is_known():
    """The best constant between e^-R and e^R, relative to both ends, is 1/cosh R: its error is tanh R."""
    assert least_error(0, 1.3) == pytest.approx(math.tanh(1.3))


@pytest.mark.parametrize(("basis", "rtol"), [("taylor", 1e-12), ("chebyshev", 1e-4), ("minimax", 1e-4)])
def test_references_agree_with_the_method(basis, rtol):
    for degree, radius in ((1, 0.4), (4, 2.5)):
        assert reference_error(basis, degree, radius) == pytest.approx(
            approximant(basis, degree, radius).error, rel=rtol
        )
    assert reference_error("explicit", 4, 2.5) == pytest.approx(taylor_bound(4, 2.5))


@pytest.mark.parametrize("basis", ["taylor", "explicit", "chebyshev", "minimax"])
def test_chosen_degree(basis):
    given = {"basis": basis, "eps": [0.01, 0.02], "radius": [1.0, 2.0]}
    right = chosen_degree(np.random.default_rng(0), np, **given)
    short = chosen_degree(np.random.default_rng(0), np, **given, short=1)
    half = chosen_degree(np.random.default_rng(0), np, **given, part=0.5)
    assert right.measured == right.bound == short.measured + 1 and half.measured < half.bound == right.bound


def test_minimax_error_is_the_least_and_the_interpolants_is_not():
    right, other = (minimax_error(np.random.default_rng(0), np, degree=3, radius=[2.0, 3.0], **change) for change in
                    ({}, {"basis": "chebyshev"}))  # fmt: skip
    assert right.measured == pytest.approx(right.bound, rel=1e-3)
    assert other.measured > 1.1 * other.bound
