"""Polynomials for exp: the definition of each basis, the alternation that makes one minimax, and minimal degrees."""

import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest

from sublinattn.methods.polynomial import approximants
from sublinattn.methods.polynomial.approximants import BASES, approximant, minimal_degree, taylor_bound, taylor_degree

SMALL = [(g, radius) for g in (0, 1, 2, 5, 8) for radius in (0.1, 1.0, 3.0)]


def deviations(p, points=4001) -> np.ndarray:
    """p(x) exp(-x) - 1 on a dense grid, in 60 digits."""
    with mpmath.workdps(60):
        x = [p.radius * mpmath.mpf(float(y)) for y in np.sin(np.linspace(-np.pi / 2, np.pi / 2, points))]
        coefficients = [mpmath.mpf(c) for c in p.coefficients[::-1]]
        return np.array([float(mpmath.polyval(coefficients, a) * mpmath.exp(-a) - 1) for a in x])


def rounding(p) -> float:
    """What float64 coefficients may move the deviation by."""
    return 1.2e-16 * math.exp(2 * p.radius) + 1e-300


@pytest.mark.parametrize("degree", [0, 1, 7, 40, 200])
def test_taylor_has_the_reciprocal_factorials(degree):
    expected = [float(Fraction(1, math.factorial(i))) for i in range(degree + 1)]
    np.testing.assert_allclose(approximant("taylor", degree, 2.0).coefficients, expected, rtol=1e-13)


@pytest.mark.parametrize(("degree", "radius"), SMALL)
def test_chebyshev_interpolates_at_its_nodes(degree, radius):
    p = approximant("chebyshev", degree, radius)
    nodes = radius * np.cos((2 * np.arange(degree + 1) + 1) * np.pi / (2 * degree + 2))
    np.testing.assert_allclose(np.polyval(p.coefficients[::-1], nodes), np.exp(nodes), rtol=1e-12)


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize(("degree", "radius"), [*SMALL, (20, 5.0), (25, 10.0), (3, 18.0)])
def test_error_is_the_largest_deviation(basis, degree, radius):
    p = approximant(basis, degree, radius)
    assert len(p.coefficients) == degree + 1
    assert np.abs(deviations(p)).max() == pytest.approx(p.error, rel=2e-4, abs=rounding(p))  # of a grid, and rounded


@pytest.mark.parametrize(("degree", "radius"), [(0, 0.1), (1, 3.0), (2, 0.1), (5, 1.0), (8, 3.0), (12, 5.0), (9, 8.0)])
def test_minimax_alternates_and_so_no_polynomial_is_better(degree, radius):
    """De la Vallee Poussin: no polynomial of this degree has a smaller error than the least of g + 2 alternating
    deviations of any one of them."""
    p = approximant("minimax", degree, radius)
    f = deviations(p)
    runs = np.split(f, np.flatnonzero(np.diff(np.sign(f))) + 1)
    peaks = np.array([run[np.argmax(np.abs(run))] for run in runs])
    assert len(peaks) == degree + 2
    assert np.all(peaks[1:] * peaks[:-1] < 0)
    np.testing.assert_allclose(np.abs(peaks), p.error, rtol=2e-4, atol=rounding(p))


@pytest.mark.parametrize(("degree", "radius"), [*SMALL, (20, 5.0), (40, 18.0)])
def test_minimax_has_the_smallest_error_and_taylor_keeps_its_bound(degree, radius):
    taylor, chebyshev, minimax = (approximant(basis, degree, radius).error for basis in BASES)
    assert minimax < chebyshev and minimax < taylor
    assert taylor <= taylor_bound(degree, radius)
    assert taylor <= taylor_bound(degree, radius) * math.exp(-radius)  # the sharper bound that the docstring mentions


@pytest.mark.parametrize("basis", BASES)
def test_tiny_errors_do_not_drown_in_rounding(basis):
    """With 40 more digits, or on a tiny interval where the first term left out is all there is."""
    p = approximant(basis, 30, 5.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(approximants, "GUARD_DIGITS", 70)
        again = approximant.__wrapped__(basis, 30, 5.0)
    assert p.error < 1e-8
    assert again.error == pytest.approx(p.error, rel=2e-6)
    first = 0.01**9 / math.factorial(9) / (1 if basis == "taylor" else 2**8)
    assert approximant(basis, 8, 0.01).error == pytest.approx(first, rel=0.02)


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize(("eps", "radius"), [(0.5, 0.2), (0.9, 6.0), (1e-3, 1.0), (1e-6, 4.0), (1e-9, 10.0)])
def test_minimal_degree_is_minimal(basis, eps, radius):
    degree = minimal_degree(basis, eps, radius)
    errors = [approximant(basis, g, radius).error for g in range(degree + 3)]
    assert [error <= eps for error in errors] == [False] * degree + [True] * 3


@pytest.mark.parametrize(("eps", "radius"), [(0.5, 0.1), (0.5, 9.0), (1e-3, 1.0), (1e-12, 4.0), (1e-30, 0.5)])
def test_taylor_degree_by_direct_search(eps, radius):
    exact = (
        g
        for g in range(1000)
        if mpmath.exp(2 * radius) * mpmath.mpf(radius) ** (g + 1) / mpmath.factorial(g + 1) <= eps
    )
    degree = taylor_degree(math.log(eps), radius)
    assert degree == next(exact)
    assert minimal_degree("taylor", eps, radius) <= degree


def test_taylor_degree_at_any_size():
    """Near `g log(g/(eR)) = L + 2R`: there `log (g+1)!` is Stirling's."""
    for log_eps, radius in ((-1e6, 1e6), (-1e9, 10.0), (-1.0, 1e5)):
        g = taylor_degree(log_eps, radius)
        assert (g + 1) * math.log((g + 1) / (math.e * radius)) == pytest.approx(2 * radius - log_eps, rel=1e-3)


@pytest.mark.parametrize("basis", BASES)
def test_on_a_point_and_on_almost_a_point(basis):
    for radius in (0.0, 1e-200):
        p = approximant(basis, 3, radius)
        assert p.error == 0
        np.testing.assert_allclose(p.coefficients, (1, 1, 1 / 2, 1 / 6))
        assert minimal_degree(basis, 1e-3, radius) == 0
    assert taylor_bound(0, 0.0) == 0
    assert taylor_degree(-5.0, 0.0) == 0


def test_overflow_is_infinite():
    assert approximant("taylor", 4, 1e4).error == math.inf
    assert taylor_bound(4, 1e4) == math.inf


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: approximant("legendre", 3, 1.0), "basis"),
        (lambda: approximant("taylor", -1, 1.0), "degree"),
        (lambda: approximant("minimax", 3, -1.0), "radius"),
        (lambda: approximant("minimax", 3, math.nan), "radius"),
        (lambda: approximant("minimax", 3, 1e4), "radius"),
        (lambda: minimal_degree("taylor", 0.0, 1.0), "eps"),
        (lambda: minimal_degree("taylor", 1.0, 1.0), "eps"),
        (lambda: minimal_degree("taylor", math.nan, 1.0), "eps"),
        (lambda: minimal_degree("power", 0.1, 1.0), "basis"),
        (lambda: minimal_degree("taylor", 0.1, math.inf), "radius"),
        (lambda: taylor_bound(-1, 1.0), "degree"),
        (lambda: taylor_degree(0.0, 1.0), "log_eps"),
        (lambda: taylor_degree(-math.inf, 1.0), "log_eps"),
        (lambda: taylor_degree(-1.0, -1.0), "radius"),
        (lambda: approximant("minimax", 3.0, 1.0), "degree"),
        (lambda: approximant("minimax", 3, "1"), "radius"),
        (lambda: minimal_degree("taylor", None, 1.0), "eps"),
    ],
)
def test_impossible_parameters_are_refused_by_name(call, name):
    with pytest.raises((TypeError, ValueError), match=f"^{name} must"):
        call()
