"""What the trials of SubGen's claims compare with: laws against enumeration, shares of a cache against the whole."""

import itertools

import numpy as np
import pytest

from sublinattn.methods.subgen.claims import theorem1_estimators as estimators
from sublinattn.methods.subgen.claims.algorithm1_laws import pearson
from sublinattn.methods.subgen.claims.setting import Cache, chunks, fed, sums
from sublinattn.methods.subgen.claims.theorem1 import Problem, hardest
from sublinattn.methods.subgen.head import normalisers, numerators


@pytest.mark.parametrize("law", [[0.5, 0.3, 0.2], [0.9, 0.1]])
def test_mean_and_deviation_of_pearsons_statistic(law):
    law, draws = np.array(law), 4
    outcomes = list(itertools.product(range(len(law)), repeat=draws))
    chance = np.array([law[list(outcome)].prod() for outcome in outcomes])
    found = [pearson(np.bincount(outcome, minlength=len(law)), law) for outcome in outcomes]
    statistic, (_, mean, deviation) = np.array([x[0] for x in found]), found[0]
    assert chance @ statistic == pytest.approx(mean)
    assert chance @ (statistic - mean) ** 2 == pytest.approx(deviation**2)


def test_the_copies_share_one_caches_samples_and_slots():
    """Both estimates are linear in samples and slots: the copies' mean is the whole cache's estimate."""
    t, s = 2, 3
    x = estimators.ordered_tokens(np.random.default_rng(0), 40)
    copies = estimators.copies(np.random.default_rng(1), np, x, 7, t=t, s=s, broken="nothing", forget_mu=False)
    size = estimators.COPIES
    whole = fed(Cache(1.0, t * size, s * size, rng=np.random.default_rng(1)), np, x.k, x.v, chunks(40, 7)).head
    for part in (numerators, normalisers):
        each = sums(part, np, copies, x.q)
        assert len(each) == size and len(np.unique(each[:, 0, 0])) > size / 2
        np.testing.assert_allclose(each.mean(axis=0), sums(part, np, [whole], x.q)[0], rtol=1e-12)


@pytest.mark.parametrize("delta_r", [0.5, 2.0])
def test_the_hardest_cluster_meets_the_bound_on_the_variance(delta_r):
    k, q = hardest(np.random.default_rng(0), 20_000, 4, 1.5, delta_r, 1)
    x = Problem(q, k, np.ones((len(k), 1)))
    assert np.linalg.norm(k - k[0], axis=1).max() <= 1.5 and np.linalg.norm(q) == pytest.approx(delta_r / 1.5)
    assert x.e.var() / x.e.mean() ** 2 == pytest.approx(np.sinh(delta_r) ** 2, rel=1e-2)
