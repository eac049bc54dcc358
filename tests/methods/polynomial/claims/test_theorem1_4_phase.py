"""The phase picture: the rank and the onset of the theorem, and what the claim comes out as."""

import math

import pytest

from sublinattn.methods.polynomial.claims.theorem1_4_phase import log_rank, log_rank_at, onset
from sublinattn.theory import verify


@pytest.fixture(scope="module")
def verdict():
    return verify("as23.phase")


def test_claim_is_supported_and_its_sabotage_is_caught(verdict):
    assert verdict.outcome == "supported", verdict.reason
    assert all(sabotage.caught for sabotage in verdict.sabotages)


def test_rank_grows_like_n_on_the_threshold(verdict):
    drops = {drop.assumption: drop for drop in verdict.drops}
    assert drops["B = o(sqrt(log n))"].outcome == "refuted"
    assert "measured exponent 1 " in drops["B = o(sqrt(log n))"].reason
    assert drops["d = O(log n)"].outcome != "supported"


def test_rank_passes_n_where_n_is_below_the_onset(verdict):
    assert [c.vacuous for c in verdict.cases] == [c.facts["log_t"] >= c.facts["Lambda"] for c in verdict.cases]
    assert 0 < verdict.vacuity.share < 1
    assert 100 < verdict.vacuity.onset < 1000  # n = 10^100 to 10^1000


def test_log_rank_is_that_of_the_binomial():
    assert log_rank(20, 7) == pytest.approx(math.log(math.comb(27, 7)))


def test_onset_is_where_the_rank_meets_n():
    family = {"width": 1.0, "entries": 1.0, "beta": 0.25}
    log_n = onset(**family)
    assert log_rank_at(log_n, **family) == pytest.approx(log_n, rel=0.02)  # d is whole
    assert onset(width=1.0, entries=1.0, beta=0.5) == math.inf
    assert onset(width=0.01, entries=0.1, beta=0.25) == 1
