"""Trials of the public functions: right, they agree with dense attention; broken, they are far off."""

import math

import numpy as np
import pytest

from sublinattn.methods.polynomial.approximants import BASES
from sublinattn.methods.polynomial.claims.theorem3_8_attention import (
    algorithm,
    inverse_n,
    inverse_n_kept,
    inverse_n_measured,
    inverse_n_start,
    largest_logit,
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


def test_inverse_n_at_small_n():
    trial = inverse_n(np.random.default_rng(0), np, n=100, width=0.25, beta=0.25)
    assert trial.measured <= trial.bound == pytest.approx(2 / 100 * math.log(100) ** 0.25)
    assert trial.facts["d"] == 2 and trial.facts["t"] == math.comb(2 + int(trial.facts["g"]), 2)
    coarse = inverse_n(np.random.default_rng(0), np, n=100, width=0.25, beta=0.25, power=0.1)
    assert coarse.measured > coarse.bound


def test_largest_logit_is_rounded_up():
    q, k = np.array([[3.0, 4.0], [1.0, 0.0]]), np.array([[0.0, 2.0]])
    assert 10 * 0.1 <= largest_logit(q, k, 0.1) <= 10 * 0.1 * (1 + 2**-9)


def test_search_keeps_entries_and_the_largest_logit():
    far = {name: 10 * x for name, x in inverse_n_start(np.random.default_rng(0), beta=0.25).items()}
    kept = inverse_n_kept(far, beta=0.25)
    b = math.log(64) ** 0.25
    assert all(np.abs(x).max() <= b for x in kept.values())
    assert largest_logit(kept["q"], kept["k"], 1 / 2) == pytest.approx(b**2, rel=2**-9)
    assert inverse_n_measured(np, kept, beta=0.25).bound == pytest.approx(2 / 64 * b)
