"""The statistics of verdicts: validity by exact enumeration where possible, else by simulation with a stated
false-alarm rate."""

import math
from itertools import product

import numpy as np
import pytest
from scipy.stats import binom

from sublinattn.theory import sequential
from sublinattn.theory.sequential import ExactTest, MeanTest, ProbabilityTest


@pytest.mark.parametrize("p", [0.01, 0.1, 0.5, 0.9])
@pytest.mark.parametrize(("against", "inside"), [("below", 0.7), ("above", 1.05)])
def test_rate_wealth_is_a_supermartingale(p, against, inside):
    """E[M_t] = 1 at the hypothesis' limit and at most 1 inside it, exactly, and one step never gains on average."""
    rate = min(p * inside, 0.99)
    for t in range(1, 30):
        k = np.arange(t + 1)
        wealth = np.exp(sequential.log_wealth(k, t, p, against))
        assert np.sum(binom.pmf(k, t, p) * wealth) == pytest.approx(1, rel=1e-9)
        assert np.sum(binom.pmf(k, t, rate) * wealth) <= 1 + 1e-12
        after = [np.exp(sequential.log_wealth(k + x, t + 1, p, against)) for x in (0, 1)]
        np.testing.assert_allclose((1 - p) * after[0] + p * after[1], wealth, rtol=1e-9)


def test_rate_wealth_agrees_with_quadrature_and_never_rewards_the_wrong_side():
    grid = (np.arange(200_000) + 0.5) / 200_000
    prior = grid**-0.5 * (1 - grid) ** -0.5
    for k, t, p in [(3, 10, 0.2), (0, 5, 0.3), (7, 7, 0.6)]:
        likelihood = grid**k * (1 - grid) ** (t - k) / (p**k * (1 - p) ** (t - k))
        for against, side in [("below", grid > p), ("above", grid < p)]:
            expected = np.sum((prior * likelihood)[side]) / np.sum(prior[side])
            assert np.exp(sequential.log_wealth(k, t, p, against)) == pytest.approx(expected, rel=5e-3)
    # all trials fail: no wealth for "the rate is below p", however the special functions underflow
    assert sequential.log_wealth(5000, 5000, 0.01, "above") <= 0
    assert sequential.log_wealth(0, 5000, 0.9, "below") <= 0


@pytest.mark.parametrize(
    ("failures", "trials"), [(0, 1), (0, 700), (1, 1), (3, 50), (50, 50), (400, 1000), (1000, 1000)]
)
def test_rate_limits_are_where_the_wealth_is_a_hundred(failures, trials):
    lower, upper = sequential.rate_limits(failures, trials)
    assert 0 <= lower <= failures / trials <= upper <= 1
    target = math.log(100)
    if lower > 0:
        assert sequential.log_wealth(failures, trials, lower, "below") == pytest.approx(target, abs=1e-6)
    if upper < 1:
        assert sequential.log_wealth(failures, trials, upper, "above") == pytest.approx(target, abs=1e-6)
    inside = np.linspace(lower, upper, 101)[1:-1]
    for against in ("below", "above"):
        assert (sequential.log_wealth(failures, trials, inside, against) < target).all()
    assert (lower == 0) == (failures == 0)
    assert (upper == 1) == (failures == trials)


def test_no_trials_no_knowledge():
    test = ProbabilityTest(0.1, 1e-4)
    assert (test.outcome, test.p_value, test.limits()) == ("undecided", 1, (0, 1))
    assert sequential.trials_to_decide(0, 0, 0.1, 1e-4) is None


def test_limits_cover_at_all_times():
    """Each limit is missed with chance 0.01. Rates: of 400 paths of 300 trials at most 12 (binomial tail 2e-4); means:
    of 300 paths of 400 trials at most 10 (3e-4)."""
    failures = np.cumsum(np.random.default_rng(1).random((400, 300)) < 0.2, axis=1)
    for against in ("below", "above"):
        wealth = sequential.log_wealth(failures, np.arange(1, 301), 0.2, against)
        assert (wealth >= math.log(100)).any(axis=1).sum() <= 12
    z = np.random.default_rng(4).standard_t(3, (300, 400)) / math.sqrt(3)
    for sign in (1, -1):
        assert (sequential.mean_log_wealth(sign * z) >= math.log(100)).any(axis=1).sum() <= 10


def test_rate_decides_and_counts_nan_as_a_failure():
    test = ProbabilityTest(0.1, 1e-6)
    while test.outcome == "undecided":
        test.update(0.5, 1.0)
    fixed = math.ceil(math.log(0.01) / math.log(0.9))  # Clopper and Pearson's, without the right to look early
    assert test.outcome == "supported"
    assert fixed <= test.trials <= 1.5 * fixed
    assert test.limits()[1] <= 0.1
    for measured, bound in [(2.0, 1.0), (math.nan, 1.0), (1.0, math.nan), (math.inf, 1.0)]:
        test = ProbabilityTest(0.1, 1e-6)
        for _ in range(20):
            test.update(measured, bound)
        assert test.outcome == "refuted"
        assert test.failures == 20
        assert test.limits()[0] > 0.1


def test_rate_p_value_is_the_running_minimum():
    test, seen = ProbabilityTest(0.1, 1e-12), []
    for failed in [1, 1, 1, 1] + [0] * 40:
        test.update(float(failed), 0.5)
        seen.append(test.p_value)
    assert seen == sorted(seen, reverse=True)
    assert seen[-1] == min(seen) == seen[3] < 0.01


def test_trials_to_decide_is_where_the_test_decides():
    for k, t, p in [(0, 5, 0.01), (1, 200, 0.01), (4, 100, 0.01), (30, 100, 0.1)]:
        needed = sequential.trials_to_decide(k, t, p, 1e-6)
        side, target = ("below", math.log(1e6)) if k / t > p else ("above", math.log(100))
        assert sequential.log_wealth(k / t * needed, needed, p, side) >= target
        assert sequential.log_wealth(k / t * (needed - 1), needed - 1, p, side) < target
    assert sequential.trials_to_decide(10, 100, 0.1, 1e-6) is None


# --------------------------------------------------------------------------------------------------------------- means
def test_mean_wealth_is_a_supermartingale_without_normality():
    """E[M_t] <= 1 exactly, over all outcomes of t draws from two-point laws of mean 0 and variance 1, however
    skewed."""
    for chance in (0.5, 0.1, 0.001):
        values = np.array([math.sqrt((1 - chance) / chance), -math.sqrt(chance / (1 - chance))])
        for t in range(1, 7):
            draws = np.array(list(product((0, 1), repeat=t)))
            weights = np.prod(np.where(draws == 0, chance, 1 - chance), axis=1)
            for sign in (1, -1):
                wealth = np.exp(sequential.mean_log_wealth(sign * values[draws])[:, -1])
                assert weights @ wealth <= 1 + 1e-12


def test_catoni_is_dominated():
    x = np.linspace(-50, 50, 10_001)
    assert (np.exp(sequential.catoni(x)) <= 1 + x + x**2 / 2 + 1e-12).all()
    np.testing.assert_allclose(sequential.catoni(np.array([-1e-4, 1e-4])), [-1e-4, 1e-4], rtol=1e-6)


def run_mean(rng, off, bounds=(2.0, 2.0), scales=(0.25, 0.25)):
    """Trials of relative deviation `off`, with bounds and (relative) scales drawn from these ranges."""
    test = MeanTest(0.05, 1e-6)
    while test.outcome == "undecided" and test.trials < 5000:
        bound = rng.uniform(*bounds)
        scale = abs(bound) * rng.uniform(*scales)
        test.update(rng.normal(bound + off * abs(bound), scale), bound, scale)
    return test


@pytest.mark.parametrize(
    "ranges", [{}, {"bounds": (-2.0, -2.0)}, {"bounds": (0.5, 5.0), "scales": (0.1, 1.0)}], ids=str
)
def test_mean_supports_the_true_and_refutes_the_false(ranges):
    rng = np.random.default_rng(2)
    true, false = run_mean(rng, 0.0, **ranges), run_mean(rng, 0.1, **ranges)
    assert (true.outcome, false.outcome) == ("supported", "refuted")
    lower, upper = true.relative_limits()
    assert -0.05 <= lower <= 0 <= upper <= 0.05 and false.relative_limits()[0] > 0
    if not ranges:
        assert true.limits() == (pytest.approx(2 + 2 * lower), pytest.approx(2 + 2 * upper))


def test_mean_treats_nan_and_inf_as_refuting():
    for value in (math.nan, math.inf, -math.inf):
        test = MeanTest(0.1, 1e-6)
        test.update(value, 1.0, 1.0)
        assert test.outcome == "refuted"
        assert test.p_value == 0
        assert all(map(math.isnan, test.limits()))


# ------------------------------------------------------------------------------------------------------ no exceptions
@pytest.mark.parametrize(
    ("relation", "measured", "holds"),
    [
        ("==", 100 + 1e-8, True),
        ("==", 100 + 1e-5, False),
        ("==", 100 - 1e-5, False),
        ("<=", 90.0, True),
        ("<=", 100 + 1e-8, True),
        ("<=", 100 + 1e-5, False),
        ("==", math.nan, False),
        ("<=", math.nan, False),
    ],
)
def test_exact(relation, measured, holds):
    test = ExactTest(relation, 1e-9, required=3)
    for _ in range(2):
        test.update(100.0, 100.0, 100.0)
    assert test.outcome == "undecided"
    test.update(measured, 100.0, 100.0)
    assert test.outcome == ("supported" if holds else "refuted")
    assert test.failures == (not holds)


def test_limits_exist_where_even_the_average_is_ruled_out():
    """Nine trials at 3 standard deviations and one at -27: the average is 0, and bets upwards win against it."""
    test = MeanTest(0.1, 1e-6)
    for deviation in [3.0] * 9 + [-27.0]:
        test.update(1 + deviation, 1.0, 1.0)
    lower, upper = test.relative_limits()
    assert 0 < lower < upper < 4


# ----------------------------------------------------------------------------------------------------------- refusals
@pytest.mark.parametrize(
    ("make", "match"),
    [
        *((lambda p=p: ProbabilityTest(p, 1e-4), "p must lie") for p in (0.0, 1.0, -0.1)),
        (lambda: MeanTest(0.0, 1e-4), "resolution must be positive"),
        *(
            (lambda bound=bound, scale=scale: MeanTest(0.1, 1e-6).update(1.0, bound, scale), "a mean needs")
            for bound, scale in ((0.0, 1.0), (1.0, 0.0), (math.nan, 1.0), (1.0, math.nan), (1.0, -1.0))
        ),
        (lambda: ExactTest(">=", 1e-9, 1), "relation must be"),
    ],
)
def test_what_no_test_can_judge_is_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()
