"""Trials of the public functions: right, they agree with dense attention; broken, they are far off."""

import math

import numpy as np
import pytest

from sublinattn.methods.polynomial.approximants import BASES
from sublinattn.methods.polynomial.claims.theorem3_8_attention import (
    algorithm,
    entry_factors,
    inverse_n,
    largest_logit,
    state_bytes,
)


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_algorithm_agrees(basis, dtype):
    trial = algorithm(np.random.default_rng(1), np, n_q=31, n_k=40, basis=basis, dtype=dtype)
    assert trial.measured <= 1e-12 * trial.scale


@pytest.mark.parametrize("broken", ["head", "scale", "normaliser"])
def test_broken_algorithm_does_not(broken):
    trial = algorithm(np.random.default_rng(1), np, n_q=31, n_k=40, basis="taylor", dtype="float64", broken=broken)
    assert trial.measured > 1e-9


@pytest.mark.parametrize("broken", ["", "prefix", "own key"])
def test_causal_algorithm(broken):
    given = {"n_q": 60, "n_k": 50, "basis": "minimax", "dtype": "float64", "causal": True}
    if broken == "own key":
        given["n_q"] = 50
    trial = algorithm(np.random.default_rng(2), np, **given, broken=broken)
    assert (trial.measured > 1e-3) == bool(broken)


@pytest.mark.parametrize("basis", BASES)
def test_factors_keep_their_bound_and_the_broken_ones_do_not(basis):
    kept = [entry_factors(np.random.default_rng(i), np, basis=basis) for i in range(5)]
    halved = [entry_factors(np.random.default_rng(i), np, basis=basis, part=0.5) for i in range(5)]
    short = [entry_factors(np.random.default_rng(i), np, basis=basis, short=1) for i in range(5)]
    assert all(t.measured <= t.bound for t in kept)
    assert all(t.measured > t.bound for t in halved)
    assert any(t.measured > t.bound for t in short)


def test_factors_come_near_their_bound():
    """Of the minimax polynomial, whose error is attained with both signs: the trial sees all of it."""
    trials = [entry_factors(np.random.default_rng(i), np, basis="minimax") for i in range(20)]
    assert max((t.measured - 1) / (t.bound - 1) for t in trials) > 0.5


def test_inverse_n_at_small_n():
    trial = inverse_n(np.random.default_rng(0), np, n=100, width=0.25, beta=0.25)
    assert trial.measured <= trial.bound == pytest.approx(2 / 100 * math.log(100) ** 0.25)
    assert trial.facts["d"] == 2 and trial.facts["t"] == math.comb(2 + int(trial.facts["g"]), 2)
    coarse = inverse_n(np.random.default_rng(0), np, n=100, width=0.25, beta=0.25, power=0.1)
    assert coarse.measured > coarse.bound


def test_state_bytes_are_those_of_its_arrays():
    right = state_bytes(np.random.default_rng(0), np, n=50, d=2, d_v=3, degree=2)
    assert right.measured == right.bound == 8 * 6 * 5
    kept = state_bytes(np.random.default_rng(0), np, n=50, d=2, d_v=3, degree=2, keep=True)
    assert kept.measured == kept.bound + 8 * 50 * 5


def test_largest_logit_is_rounded_up():
    q, k = np.array([[3.0, 4.0], [1.0, 0.0]]), np.array([[0.0, 2.0]])
    assert 10 * 0.1 <= largest_logit(q, k, 0.1) <= 10 * 0.1 * (1 + 2**-9)
