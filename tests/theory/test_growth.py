"""Growth fits: what supports and what refutes, exponents, and sizes that were not found."""

import math

import numpy as np
import pytest

from sublinattn.theory import growth

LEVEL = 1e-6
NONE = math.inf  # a size that the search did not find


def grid(points=5, replicates=8, factor=2.0):
    return np.repeat(factor ** np.arange(1, points + 1)[:, None], replicates, axis=1)


def noisy(x, exponent, noise=0.05, seed=0):
    return x**exponent * np.exp(noise * np.random.default_rng(seed).standard_normal(x.shape))


def fit(x, size, law, **options):
    return growth.fit(x, size, law, level=LEVEL, **options)


def missing(points, at):
    """Sizes that grow like x, none found at the grid points `at`."""
    x = grid(points)
    size = noisy(x, 1.0)
    size[at] = NONE
    return x, size


@pytest.mark.parametrize(
    ("x", "exponent", "theory", "expected"),
    [
        (grid(), 1.5, 2.0, "supported"),
        (grid(), 2.0, 2.0, "undecided"),
        (grid(), 2.5, 2.0, "refuted"),
        (1 / grid(), -4.0, -6.0, "supported"),  # a theory that falls is read towards small x
        (1 / grid(), -7.0, -6.0, "refuted"),
    ],
)
def test_outcomes_and_exponents(x, exponent, theory, expected):
    result = fit(x, noisy(x, exponent), 3 * x**theory, variable="x", theory="x^2")
    assert result.outcome == expected
    assert result.theory_exponent == pytest.approx(theory)
    assert result.lower < exponent < result.upper
    assert result.excess == pytest.approx(math.copysign(1, theory) * (result.measured_exponent - theory))
    assert (result.variable, result.theory, result.abscissas) == ("x", "x^2", tuple(x[:, 0]))
    assert np.array_equal(result.sizes, noisy(x, exponent))


@pytest.mark.parametrize("constant", [0.1, 1.0, 3.0, 7.7])
def test_a_constant_theory_is_read_upwards(constant):
    x = np.repeat(np.array([0.3, 0.7, 1.1, 1.9, 3.3])[:, None], 8, axis=1)
    assert fit(x, noisy(x, 1.0), np.full_like(x, constant)).outcome == "refuted"
    assert fit(x, noisy(x, -1.0), np.full_like(x, constant)).outcome == "supported"


def test_a_logarithm_has_an_effective_exponent():
    x = grid()
    result = fit(x, noisy(x, 0.0), np.log(x))
    assert result.outcome == "supported"
    assert result.theory_exponent == pytest.approx(np.polyfit(np.log(x[:, 0]), np.log(np.log(x[:, 0])), 1)[0])


def test_without_noise_the_sign_decides_and_rounding_does_not():
    x = grid()
    assert fit(x, 64 * x, 7 * x).outcome == "supported"
    assert fit(x, x**1.001, x).outcome == "refuted"
    assert fit(x, 5 * x + 3, x).outcome == "supported"


def test_support_needs_an_excess_of_resolution_ruled_out():
    x = grid(4, 8)
    size = noisy(x, 1.0)  # as tight as the theory: no data would show it below
    assert fit(x, size, x).outcome == "undecided"
    assert fit(x, size, x, resolution=0.25).outcome == "supported"
    assert fit(x, size * x**0.9, x, resolution=0.25).outcome == "refuted"


def test_a_resolution_is_at_most_a_quarter_of_the_theorys_exponent():
    x = grid(4, 8)
    for theory, resolution in ((x**-2.0, 0.5), (np.log(x), 0.16)):
        fit(x, noisy(x, -3.0), theory, resolution=resolution)
        with pytest.raises(ValueError, match=r"exponent in width is more than 0.25 of the theory's .*, (-2|0.658)$"):
            fit(x, noisy(x, -3.0), theory, resolution=1.1 * resolution, variable="width")


def test_limits_that_exclude_the_theory_from_above_do_not_support():
    """An excess of 0.12 that is certain: within the resolution, and yet the theory's exponent is not in the limits."""
    x = grid(4, 8)
    result = fit(x, noisy(x, 1.12, noise=0.05), x, resolution=0.25)
    assert result.upper < 1.25 and result.lower > 1
    assert result.outcome == "undecided" and "exclude the theory's from above" in result.reason


def test_a_refutation_must_persist_on_the_upper_half():
    """Steeper than the theory at the lower end alone: a larger grid might not be. Of 5 points 3 are its upper half."""
    x, noise = grid(), noisy(grid(), 0.0, noise=0.02)
    early, late = np.where(x < x[2], x**2 / x[2], x), np.where(x < x[2], x, x**2 / x[2])
    result = fit(x, early * noise, x)
    assert result.outcome == "undecided" and result.p_value > 0.01
    assert "over its upper half not" in result.reason
    result = fit(x, late * noise, x)
    assert result.outcome == "refuted" and result.p_value <= LEVEL and "over this grid" in result.reason
    dip = np.where(x < x[2], x[2] ** 3 / x**2, x**1.5 / x[2] ** 0.5)  # steep above the middle only, and less before
    assert fit(x, dip * noise, x).outcome == "undecided"
    # eps^-1: the theory grows towards small eps, and there lies its upper half
    assert fit(1 / x, early * noise, x).outcome == "undecided"
    assert fit(1 / x, late * noise, x).outcome == "refuted"


def test_a_bend_widens_the_limits():
    """Exponents from 0.4 to 1.2, on average 0.8, against the theory's 1: not so far from it at the upper end."""
    x = grid()
    u = np.log(x / x[2])
    bent = np.exp(0.8 * u + 0.15 * u**2)
    assert fit(x, noisy(x, 0.8, 0.02), x).outcome == "supported"
    result = fit(x, bent * noisy(x, 0.0, 0.02), x)
    assert result.outcome == "undecided" and result.measured_exponent == pytest.approx(0.8, abs=0.02)
    assert 0.7 < result.lower < 0.8 and result.upper > 0.8 + 0.15 * 2 * math.log(2)
    assert fit(x, noisy(x, 0.8, 0.02) / np.exp(0.15 * u**2), x).outcome == "supported"  # it bends away from the theory


# ---------------------------------------------------------------------------------------- sizes that were not found
@pytest.mark.parametrize(
    ("at", "cap", "refuted", "reason"),
    [
        (slice(2, None), 1e4, True, "2 of 4 points left out"),  # the theory puts them far below the cap
        (slice(2, None), 7.0, False, "2 of 4 points left out"),  # the theory puts them above it
        (slice(0, 1), 1e-3, False, "1 of 4 points left out"),  # at the easy end they do not make a slope
        (slice(1, None), 1e6, False, "3 of 4 points left out"),  # no size on the upper half
        (slice(0, None), 10.0, False, "no size up to the cap"),  # nowhere: an O() has a hidden constant
    ],
)
def test_sizes_beyond_the_cap(at, cap, refuted, reason):
    x, size = missing(4, at)
    result = fit(x, size, x, cap=cap)
    assert (result.outcome == "refuted") == refuted == (result.p_value <= LEVEL)
    assert refuted or result.p_value > 0.01
    assert reason in result.reason
    found = np.isfinite(size).all(axis=1).sum()
    assert result.measured_exponent == pytest.approx(1, abs=0.3) if found > 1 else math.isnan(result.measured_exponent)


def test_a_missing_size_does_not_support():
    x = grid()
    size = noisy(x, 0.5)
    assert fit(x, size, x).outcome == "supported"
    size[-1, 0] = NONE
    result = fit(x, size, x, cap=20.0)
    assert result.outcome == "undecided" and result.upper < 1


def test_missing_sizes_at_every_point_leave_nothing_to_fit():
    x = np.array([[1.0, 1.1], [2.0, 2.1], [4.0, 4.1]])
    result = fit(x, np.array([[1.0, NONE], [NONE, 1.0], [1.0, NONE]]), np.ones_like(x), cap=10.0)
    assert result.outcome == "undecided" and result.p_value == 1.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": grid(1, 8)}, "at least 2 grid points"),
        ({"x": grid(5, 1)}, "2 replicates"),
        ({"x": np.ones((5, 8))}, "not all equal"),
        ({"x": -grid()}, "abscissas must be positive"),
        ({"size": np.zeros((5, 8))}, "sizes must be positive"),
        ({"size": np.full((5, 8), math.nan)}, "sizes must be positive"),
        ({"law": np.zeros((5, 8))}, "theory's growth"),
        ({"size": np.where(grid() > 8, NONE, 1.0)}, "cap"),
    ],
)
def test_bad_input(change, message):
    positive = np.abs(change.get("x", grid()))
    with pytest.raises(ValueError, match=message):
        fit(**{"x": positive, "size": positive, "law": positive, **change})
