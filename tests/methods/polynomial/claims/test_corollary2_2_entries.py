"""Factors of the entries: within their bound for the degree that is taken, beyond it for a lower one."""

import numpy as np
import pytest

from sublinattn.methods.polynomial.approximants import BASES
from sublinattn.methods.polynomial.claims.corollary2_2_entries import (
    entry_factors,
    factors_kept,
    factors_measured,
    factors_start,
)


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


def test_search_stays_where_the_claim_speaks():
    rng = np.random.default_rng(0)
    far = {name: x + 100 for name, x in factors_start(rng, basis="taylor").items()}
    trial = factors_measured(np, factors_kept(far, basis="taylor"), basis="taylor")
    assert trial.facts["varepsilon"] == pytest.approx(0.1) and trial.facts["R"] == pytest.approx(3, rel=2e-3)
    assert trial.measured <= trial.bound
