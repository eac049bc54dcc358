"""Slopes of log-log plots: least squares, errors, limits that allow for a bend, and p-values far out in the tail."""

import math

import numpy as np
import pytest
from scipy.special import stdtrit
from scipy.stats import t as student
from scipy.stats import ttest_ind

from sublinattn.theory.exponents import limits, slope, upper_half


def grid(points=5, replicates=8):
    return np.repeat(math.log(2) * np.arange(1.0, points + 1)[:, None], replicates, axis=1)


def test_slope_is_least_squares_with_the_error_of_a_stratified_bootstrap():
    rng = np.random.default_rng(0)
    log_x = grid(4, 40)
    y = 0.7 * log_x + rng.standard_normal(log_x.shape) * np.array([[0.1], [0.2], [0.3], [0.4]])
    fitted = slope(log_x, y)
    assert fitted.value == pytest.approx(np.polyfit(log_x.ravel(), y.ravel(), 1)[0])
    picks = rng.integers(40, size=(4000, 4, 40))
    resampled = np.take_along_axis(np.broadcast_to(y, picks.shape), picks, axis=2)
    weights = (log_x - log_x.mean()) / np.sum((log_x - log_x.mean()) ** 2)
    bootstrap = np.std(np.sum(weights * resampled, axis=(1, 2)), ddof=1)
    assert fitted.error == pytest.approx(bootstrap * math.sqrt(40 / 39), rel=0.05)  # 4000 resamples: 0.011


def test_two_points_are_welchs_test_with_the_fewest_degrees_of_freedom():
    """With two abscissas one log unit apart the slope is a difference of means."""
    rng = np.random.default_rng(1)
    y = rng.standard_normal((2, 6)) * [[1.0], [3.0]] + [[0.0], [2.0]]
    fitted = slope(np.repeat([[0.0], [1.0]], 6, axis=1), y)
    welch = ttest_ind(y[1], y[0], equal_var=False, alternative="greater")
    assert fitted.value / fitted.error == pytest.approx(welch.statistic)
    assert fitted.p_value() == pytest.approx(student.sf(welch.statistic, 5))
    assert fitted.reach == pytest.approx(student.ppf(0.99, 5) * fitted.error)


def test_the_slope_over_some_points_is_that_of_these_points():
    rng = np.random.default_rng(2)
    log_x, y = grid() + rng.uniform(-0.1, 0.1, (5, 8)), rng.standard_normal((3, 5, 8))
    some = np.array([False, True, False, True, True])
    part, alone = slope(log_x, y, some), slope(log_x[some], y[:, some])
    assert part.value == pytest.approx(alone.value) and part.error == pytest.approx(alone.error)


@pytest.mark.parametrize(("points", "expected"), [(2, 2), (3, 2), (4, 3), (5, 3), (6, 4), (7, 4)])
def test_the_upper_half_spans_half_of_the_grid(points, expected):
    log_x = grid(points)
    upper = upper_half(log_x)
    assert upper[-expected:].all() and upper.sum() == expected
    assert np.ptp(log_x[upper]) >= np.ptp(log_x) / 2 - 1e-12
    assert np.array_equal(upper_half(log_x[::-1]), upper[::-1])  # the order of the cases does not matter


def test_limits_of_a_power_law_are_those_of_the_noise():
    y = 0.5 * grid() + 0.1 * np.random.default_rng(3).standard_normal((5000, 5, 8))
    fitted = slope(grid(), y)
    lower, upper = limits(fitted, slope(grid(), y, upper_half(grid())))
    assert (lower <= fitted.value - fitted.reach).all() and (upper >= fitted.value + fitted.reach).all()
    assert ((upper - lower) > 2.001 * fitted.reach).mean() < 0.02
    assert np.mean(upper - lower) == pytest.approx(np.mean(2 * fitted.reach), rel=0.02)


@pytest.mark.parametrize("points", [3, 4, 5, 6])
@pytest.mark.parametrize("noise", [0.0, 0.02])
@pytest.mark.parametrize("sign", [-1, 1])
def test_limits_of_a_bent_plot_hold_the_upper_half_too(points, noise, sign):
    log_x = grid(points)
    u = log_x - log_x.mean()
    y = sign * 0.3 * u**2 + noise * np.random.default_rng(4).standard_normal((500, points, 8))
    lower, upper = limits(slope(log_x, y), slope(log_x, y, upper_half(log_x)))
    end = sign * 0.6 * np.mean(u[upper_half(log_x)])  # the parabola's exponent over the upper half; over all it is 0
    for exponent in (0.0, end):
        assert np.mean((lower <= exponent + 1e-9) & (upper >= exponent - 1e-9)) > 0.96


def test_false_alarms_and_coverage_where_the_noise_doubles():
    """Excess 0: of 100000 fits at level 1e-3 at most 100, whatever the spreads. Satterthwaite's degrees gave 111."""
    spread = np.linspace(2 / 3, 4 / 3, 3)[:, None]
    fitted = slope(grid(3, 6), spread * np.random.default_rng(5).standard_normal((100_000, 3, 6)))
    assert 1 <= (fitted.p_value() <= 1e-3).sum() <= 50
    assert (fitted.value + fitted.reach >= 0).mean() >= 0.99


@pytest.mark.parametrize("shares", [(1.0, 0.0), (0.5, 0.5), (0.2, 0.8), (0.1, 0.2, 0.7)])
def test_the_tail_at_a_ledgers_level(shares):
    """Given the points' sample variances the slope is normal: the false alarms at 1e-6 are an average over those."""
    replicates, level = 8, 1e-6
    variances = np.random.default_rng(6).chisquare(replicates - 1, (400_000, len(shares))) / (replicates - 1)
    critical = float(stdtrit(replicates - 1, 1 - level))
    rate = student.sf(critical * np.sqrt(variances @ np.array(shares)), np.inf).mean()
    assert rate <= 1.15 * level  # at (1, 0), where it is exact, within three standard errors
