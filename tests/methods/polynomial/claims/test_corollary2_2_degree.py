"""Degree and rank of the polynomial method: what the trials compute, and what the claims come out as."""

import math

import numpy as np
import pytest

from sublinattn.methods.polynomial.approximants import approximant, minimal_degree, taylor_bound
from sublinattn.methods.polynomial.claims.corollary2_2_degree import PRIME, crossing, modular_rank, polynomial_rank
from sublinattn.theory import symbols, verify
from sublinattn.theory.claim import evaluate


@pytest.fixture(scope="module")
def verdicts():
    slugs = ("taylor", "degree-law", "degree-wide", "rank", "rank-bound")
    return {slug: verify(f"as23.{slug}") for slug in slugs}


def test_claims_are_supported_and_their_sabotages_are_caught(verdicts):
    assert {slug: v.outcome for slug, v in verdicts.items()} == dict.fromkeys(verdicts, "supported")
    assert all(sabotage.caught for v in verdicts.values() for sabotage in v.sabotages)


def test_a_longer_interval_is_seen_in_the_radius_only(verdicts):
    """R^1.5 for R is a growth 1.5 times as steep in R; in log(1/eps) it changes none."""
    (sabotage,) = verdicts["degree-wide"].sabotages
    assert "measured exponent 1.5" in sabotage.reason
    assert verdicts["degree-law"].sabotages[0].reason.startswith("in R:")


def test_bounds_in_sympy_are_the_functions():
    assert float(evaluate(symbols.TAYLOR_ERROR.subs(symbols.g, 5), {"R": 2.0})) == pytest.approx(taylor_bound(5, 2.0))
    assert symbols.RANK.subs({symbols.d: 3, symbols.g: 4}) == 35
    assert symbols.RANK_BOUND.subs({symbols.d: 3, symbols.g: 4}) == math.comb(14, 8)
    assert evaluate(symbols.DEGREE_GROWTH, {"L": 10.0, "R": 2.0}) == pytest.approx(10 / math.log(5))
    assert evaluate(symbols.DEGREE_GROWTH, {"L": 1.0, "R": 2.0}) == 2


@pytest.mark.parametrize("basis", ["taylor", "chebyshev", "minimax"])
def test_crossing_lies_below_the_minimal_degree_and_meets_it_at_its_error(basis):
    for log_inverse in (0.4, 3.0, 20.0):
        degree = minimal_degree(basis, math.exp(-log_inverse), 2.0)
        assert degree - 1 < crossing(basis, log_inverse, 2.0) <= degree
    before, after = (-math.log(approximant(basis, g, 2.0).error) for g in (6, 7))
    assert crossing(basis, after - 1e-9, 2.0) == pytest.approx(7, abs=1e-6)
    assert crossing(basis, (before + after) / 2, 2.0) == pytest.approx(6.5)


@pytest.mark.parametrize(("g", "radius"), [(7, 2.0), (900, 30.0)])
def test_crossing_of_the_explicit_bound_meets_it(g, radius):
    before, after = (-math.log(radius) * (i + 1) + math.lgamma(i + 2) - 2 * radius for i in (g - 1, g))
    assert crossing("explicit", after - 1e-9, radius) == pytest.approx(g, abs=1e-6)
    assert crossing("explicit", (before + after) / 2, radius) == pytest.approx(g - 0.5)


@pytest.mark.parametrize("rank", [0, 1, 4, 6])
def test_modular_rank_of_a_product(rank):
    rng = np.random.default_rng(rank)
    a = rng.integers(1000, size=(9, rank)) @ rng.integers(1000, size=(rank, 6))
    assert modular_rank(a.astype(np.int64)) == rank == np.linalg.matrix_rank(a.astype(float))


@pytest.mark.parametrize(("a", "rank"), [([[0, 2], [0, 3]], 1), ([[0, 1], [1, 0]], 2), ([[0, 1], [PRIME, 0]], 1)])
def test_modular_rank_by_hand(a, rank):
    assert modular_rank(np.array(a) % PRIME) == rank


def test_rank_in_floating_point_agrees():
    """The same matrix by an SVD, small enough that rounding leaves a gap."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((60, 3)) @ rng.standard_normal((60, 3)).T
    singular = np.linalg.svd(1 + x + x**2 / 2 + x**3 / 6, compute_uv=False)
    assert singular[19] / singular[0] > 1e-6 > 1e-12 > singular[20] / singular[0]
    trial = polynomial_rank(rng, np, d=3, degree=3)
    assert trial.measured == trial.bound == 20
