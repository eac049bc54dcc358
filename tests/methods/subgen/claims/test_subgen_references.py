"""What SubGen's newer claims compare with: plain clusters and answers, counted operations, Bernstein's inequality."""

from collections import Counter

import numpy as np
import pytest
import scipy

from sublinattn.core.exact import attention
from sublinattn.methods.subgen.claims import theorem1_counts
from sublinattn.methods.subgen.claims.algorithm1_clusters import DELTA, plain_clusters
from sublinattn.methods.subgen.claims.algorithm1_query import plain_answers, strangers
from sublinattn.methods.subgen.claims.setting import Cache, chunks, fed, several
from sublinattn.methods.subgen.claims.theorem1 import BASE, problem
from sublinattn.methods.subgen.claims.theorem1_all_queries import samples_for_all


# ------------------------------------------------------------------------------------------------------------ clusters
def test_plain_clusters_join_the_nearest_centre_within_delta():
    k = DELTA * np.array([0.0, 0.9, 1.1, 0.6, 2.2, 2.1, 1.0])[:, None]
    centers, counts, delta = plain_clusters(k)
    assert (centers == DELTA * np.array([[0.0], [1.1], [2.2]])).all() and delta == DELTA
    assert counts.tolist() == [2, 3, 2]  # 0.9 comes before there is a center at 1.1


def test_plain_clusters_double_delta_when_there_would_be_too_many():
    k = DELTA * np.array([0.0, 1.5, 3.0, 4.5, 1.4])[:, None]
    centers, counts, delta = plain_clusters(k, most=2)
    # at 2 delta: 0 takes 1.5, then 3.0; 4.5 joins 3.0, and 1.4 joins 0
    assert (centers == DELTA * np.array([[0.0], [3.0]])).all()
    assert counts.tolist() == [3, 2] and delta == 2 * DELTA


# --------------------------------------------------------------------------------------------------------------- query
@pytest.mark.parametrize("heads", [1, 2])
def test_plain_answers_are_attention_where_only_one_token_left_the_window(heads):
    """One token is its own cluster and fills all slots, so that both sums are exact."""
    rng, n, scale = np.random.default_rng(0), 12, 0.4
    k, v = several(rng, heads, n, 4, d_v=3, clusters=4)
    q = rng.standard_normal((*k.shape[:-2], 5, 4))
    cache = fed(Cache(DELTA, 2, 6, recent=n - 1, rng=rng), np, k, v, chunks(n, 5))
    out, size = plain_answers(cache, k, v, q, scale)
    np.testing.assert_allclose(out, attention(q, k, v, scale=scale), rtol=1e-12)
    assert (size >= np.linalg.norm(out, axis=-1, keepdims=True)).all()


def test_strangers_are_pairs_that_did_not_come_and_samples_far_from_their_centre():
    rng = np.random.default_rng(1)
    k, v = several(rng, 1, 40, 4, clusters=5, delta=DELTA)
    head = fed(Cache(DELTA, 3, 20, rng=rng), np, k, v, [slice(40)]).head
    assert strangers(head, k, v) == 0
    other = next(row for row in k if (row != head.slot_keys[0]).any())
    head.slot_keys[0] = other  # a token's key, but not the one of this value
    assert strangers(head, k, v) == 1
    head.sampled.rows[0, 1] = head.clusters.centers.rows[1]  # a key, of another cluster
    assert strangers(head, k, v) == 2
    head.sampled.rows[1, 0] += 1e-9  # near, but no key
    assert strangers(head, k, v) == 3


# -------------------------------------------------------------------------------------------------------------- counts
def test_counted_arrays_count_products_and_differences_wherever_the_result_goes():
    counts: Counter[str] = Counter()
    x = theorem1_counts.counting(np.arange(6.0).reshape(2, 3), counts)
    y = np.ones((3, 4))
    product = np.matmul(x, y, out=np.empty((2, 4)))
    assert counts == {"products": 24} and (product == np.arange(6.0).reshape(2, 3) @ y).all()
    product -= 1.0
    assert counts == {"products": 24, "differences": 8} and product[0, 0] == 2
    _ = np.exp(product)[0] @ np.ones((4, 5))  # a part of a result of a result
    assert counts["products"] == 24 + 20
    _ = y @ np.ones((4, 4)), y - 1  # NumPy's own
    assert counts == {"products": 44, "differences": 8}


# ------------------------------------------------------------------------------------------------- all queries at once
@pytest.mark.parametrize(("delta_r", "eps"), [(0.25, 0.2), (1.0, 0.2), (1.0, 0.05)])
def test_bernsteins_samples_suffice_on_the_hardest_cluster(delta_r, eps):
    """Members at `e^(+-delta r)`, in the shares of the largest variance: tau is a binomial variable."""
    p, queries, rho = 0.1, 100, np.exp(2 * delta_r)
    t, share = samples_for_all(delta_r, eps, p, queries), 1 / (1 + rho)
    values = np.exp(-delta_r) + np.arange(t + 1) / t * (np.exp(delta_r) - np.exp(-delta_r))
    mean = np.exp(-delta_r) + share * (np.exp(delta_r) - np.exp(-delta_r))
    missed = np.abs(values / mean - 1) > eps
    chance = float(scipy.stats.binom(t, share).pmf(np.flatnonzero(missed)).sum())
    assert 0 < chance <= p / queries
    assert samples_for_all(delta_r, eps, p, 100 * queries) > 1.3 * t


# ------------------------------------------------------------------------------------------------------ critical sizes
def test_flat_values_have_the_largest_stable_rank():
    x = problem(**{**BASE, "n": 200, "d_v": 7, "flat": True}, seed=3)
    assert x.facts["srank"] == pytest.approx(7)


def test_the_last_of_several_heads_has_the_problems_own_tokens():
    x = problem(**{**BASE, "n": 50}, seed=3)
    cache = x.feed(Cache(1.0, 1, 5, rng=0), np, heads=3)
    assert cache.heads[-1].slots.mu == pytest.approx(x.squares.sum())
    assert len({head.slots.mu for head in cache.heads}) == 3
    assert set(map(bytes, cache.heads[-1].slot_keys)) <= set(map(bytes, x.k))
