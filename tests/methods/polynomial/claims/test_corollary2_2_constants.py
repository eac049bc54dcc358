"""The degree law's constants: the bounds stand where the proofs say, and are tight enough to be broken."""

import math

import mpmath
import numpy as np
import pytest

from sublinattn.methods.polynomial.approximants import approximant, minimal_degree
from sublinattn.methods.polynomial.claims.corollary2_2_constants import (
    absolute_degree,
    least_degree,
    lower_degree,
    sufficient_degree,
    upper_degree,
)


def level(degree: int, radius: float) -> float:
    """Lower bound on the error of any polynomial, by the divided difference over g + 2 points (multiple precision)."""
    m = degree + 1
    with mpmath.workdps(60):
        x = [radius * mpmath.cos(mpmath.pi * i / m) for i in range(m + 1)]
        shares = [mpmath.exp(a) / mpmath.fprod(a - b for b in x if b != a) for a in x]
        return float(abs(mpmath.fsum(shares)) / mpmath.fsum(map(abs, shares)))


@pytest.mark.parametrize(("degree", "radius"), [(1, 0.1), (4, 1.0), (6, 5.0), (12, 3.0)])
def test_proved_error_is_below_the_level_which_is_below_the_minimax_error(degree, radius):
    m = degree + 1
    proved = 2 * math.exp(-2 * radius) * (radius / 2) ** m / math.factorial(m)
    assert proved <= level(degree, radius) <= approximant("minimax", degree, radius).error * (1 + 1e-9)


def test_bounds_at_a_place_computed_by_hand():
    assert upper_degree(40.0, 10.0) == pytest.approx(2.5 * 40 / math.log(4))
    assert upper_degree(39.0, 10.0) == 70
    assert lower_degree(40.0, 10.0) == pytest.approx(20 / math.log(4) - 1)
    eps = math.exp(-2.5)
    assert lower_degree(2.5, 22.0) == pytest.approx((22 - math.log((1 + eps) / (1 - eps))) / math.log(3 + math.sqrt(8)))


def test_absolute_degree_is_one_that_chebyshev_interpolation_nearly_has():
    eps, radius = 1e-4, 12.0
    degree = absolute_degree(eps, radius)
    x = np.linspace(-1, 1, 2001)
    errors = [
        np.abs(np.polynomial.Chebyshev.interpolate(lambda y: np.exp(radius / 2 * (y - 1)), g)(x)
               - np.exp(radius / 2 * (x - 1))).max()
        for g in (degree - 2, degree + 1)
    ]  # fmt: skip
    assert errors[0] > eps > errors[1]
    assert degree < minimal_degree("minimax", eps, radius)


@pytest.mark.parametrize("basis", ["taylor", "chebyshev", "minimax", "explicit"])
def test_sufficient_degree_is_that_of_the_interval(basis):
    fixed = {"log_inverse": [5.0, 5.0], "radius": [4.0, 4.0], "basis": basis}
    there = sufficient_degree(np.random.default_rng(0), np, **fixed)
    wider = sufficient_degree(np.random.default_rng(0), np, **fixed, power=1.5)
    assert there.measured <= there.bound == 28 and there.facts["R"] == pytest.approx(4)
    assert wider.measured > there.measured and wider.bound == there.bound


def test_least_degree_has_the_bound_for_what_is_measured():
    fixed = {"log_inverse": [3.0, 3.0], "radius": [16.0, 16.0]}
    rng = np.random.default_rng(0)
    assert least_degree(rng, np, **fixed).measured <= least_degree(rng, np, **fixed).bound
    broken = least_degree(rng, np, **fixed, relative=False)
    assert broken.measured > broken.bound
