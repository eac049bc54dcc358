"""The synthetic workloads do what their docstrings say, against dense float64 softmax matrices.

Seeds are fixed, so no run differs from another. Where a tolerance is a number of standard deviations it is 6: a false
alarm below 1e-5 per test if seeds were drawn anew (union bound over at most 1024 rows).
"""

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import zeta
from toy_workloads import alpha, kappa, logits, softmax, sphere_through

from sublinattn.lab.workloads import make


def test_gaussian_typical_column_is_as_documented():
    d = 64
    x = make("gaussian", 1024, d, rng=0)
    columns = 1024 * np.sum(softmax(x) ** 2, axis=0)
    assert np.median(columns) == pytest.approx((1 + 2 / d) ** (-d / 2) * np.exp(2 / (1 + 2 / d)), rel=0.1)
    assert make("gaussian", 1024, d, rng=0, std=0.5).q.std() == pytest.approx(0.5, abs=6 * 0.5 / np.sqrt(2 * 1024 * d))


def test_clustered_keys_are_clusterable():
    n, d, clusters, spread = 300, 16, 7, 0.2
    x = make("clustered", n, d, rng=0, clusters=clusters, spread=spread, dtype=np.float64)
    within = 2 * spread * np.sqrt(d)
    left, parts = x.k, 0
    while len(left):
        near = np.linalg.norm(left - left[0], axis=1) <= within * (1 + 1e-12)
        assert n // clusters <= near.sum() <= n // clusters + 1
        left, parts = left[~near], parts + 1
    assert parts == clusters
    assert np.linalg.norm(x.q[:, None] - x.k, axis=2).min(axis=1).max() <= within * (1 + 1e-12)


def test_clustered_members_are_equally_far_from_their_center():
    x = make("clustered", 50, 8, rng=0, clusters=1, spread=0.3, dtype=np.float64)
    center, radius = sphere_through(np.concatenate([x.q, x.k]))
    assert np.linalg.norm(center) == pytest.approx(np.sqrt(8))
    assert radius == pytest.approx(0.3 * np.sqrt(8))


def test_clustered_alpha_is_the_number_of_clusters():
    x = make("clustered", 1024, 256, rng=0, clusters=16, spread=0.0)
    assert alpha(x) == pytest.approx(16, rel=0.01)
    assert kappa(x) == pytest.approx(1, rel=0.01)


@pytest.mark.parametrize(("n", "d"), [(256, 16), (1024, 64)])
def test_planted_entries_are_heavy(n, d):
    share, closeness, strength = 0.1, 0.95, 0.4
    x = make("planted", n, d, rng=1, share=share, closeness=closeness, strength=strength)
    p = softmax(x)
    pairs = round(share * n)
    rows = np.argsort(p.max(axis=1))[-pairs:]
    columns = p[rows].argmax(axis=1)
    assert len(set(columns)) == pairs and set(columns) != set(range(pairs)) and np.mean(rows == columns) < 0.5
    heavy = p[rows, columns]
    assert heavy.mean() == pytest.approx(strength, abs=0.02)
    p[rows, columns] = 0
    assert heavy.min() > p.max()  # no other entry is as heavy as any planted one
    q, k = x.q[rows].astype(np.float64), x.k[columns].astype(np.float64)
    cosine = np.sum(q * k, axis=1) / np.linalg.norm(q, axis=1) / np.linalg.norm(k, axis=1)
    np.testing.assert_allclose(cosine, closeness, atol=1e-6)


def test_sinks_stand_where_they_are_put():
    first, placed = (make("sinks", 200, 16, rng=0, sinks=3, sink_positions=at) for at in ([0, 1, 2], [150, 7, 199]))
    np.testing.assert_array_equal(first.k, make("sinks", 200, 16, rng=0, sinks=3).k)
    np.testing.assert_array_equal(placed.k[[150, 7, 199]], np.ones((3, 16)))
    np.testing.assert_array_equal(placed.q, first.q)
    assert softmax(placed)[:, [150, 7, 199]].sum(axis=1) == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("n", [128, 512, 1024])
@pytest.mark.parametrize("mass", [0.2, 0.9])
def test_sinks_take_their_mass_at_any_length(n, mass):
    noise = 0.5
    x = make("sinks", n, 32, rng=0, sinks=3, mass=mass, noise=noise)
    p = softmax(x)
    # The background's sum is one of n lognormals, of log-deviation noise |g_i|, where |g_i| is 1 on average.
    longest = noise * 1.5
    deviation = np.sqrt(np.expm1(longest**2) / n)
    np.testing.assert_allclose(p[:, :3].sum(axis=1), mass, atol=6 * deviation * mass * (1 - mass))
    np.testing.assert_allclose(p[:, :3], p[:, [0]] * np.ones(3), rtol=1e-5)
    assert alpha(x) == pytest.approx((n * mass / 3) ** 2, rel=0.02)


@pytest.mark.parametrize("n", [512, 1024])
@pytest.mark.parametrize("target", [1.0, 1.1, 4.0, 300.0, 1e5])
def test_alpha_dial(n, target):
    x = make("alpha", n, 64, rng=5, alpha=target)
    assert alpha(x) == pytest.approx(target, rel=0.05)
    assert kappa(x) < 1.05


@pytest.mark.parametrize("n", [512, 1024])
@pytest.mark.parametrize("target", [1.0, 1.5, 30.0, 1e6])
def test_kappa_dial_leaves_the_softmax_matrix_alone(n, target):
    x = make("kappa", n, 64, rng=5, kappa=target, dtype=np.float64)
    assert kappa(x) == pytest.approx(target, rel=0.05)
    assert alpha(x) < 1.05
    flat = make("kappa", n, 64, rng=5, kappa=1.0, dtype=np.float64)
    np.testing.assert_allclose(softmax(x), softmax(flat), rtol=1e-9)


def test_kappa_dial_evens_out_what_the_noise_adds():
    n, noise = 1024, 1.0
    sums = np.log(np.sum(np.exp(logits(make("kappa", n, 16, rng=5, kappa=1.0, noise=noise))), axis=1))
    sampling = np.sqrt(np.expm1(noise**2) / n)  # relative deviation of a sum of n lognormals; uncorrected it is 4 times
    assert sums.std() < 2 * sampling


def test_heavy_values_and_their_keys():
    plain = make("heavy_values", 512, 32, rng=2, rows=5, factor=50.0)
    norms = np.sort(np.linalg.norm(plain.v, axis=1))
    assert norms[-5] > 10 * norms[-6] and norms[-6] < 2 * np.sqrt(32)
    seen = make("heavy_values", 512, 32, rng=2, rows=5, factor=50.0, mass=0.3, noise=0.5)
    heavy = np.argsort(np.linalg.norm(seen.v, axis=1))[-5:]
    assert softmax(seen)[:, heavy].sum(axis=1) == pytest.approx(0.3, abs=0.05)
    assert softmax(plain)[:, heavy].sum(axis=1).mean() < 0.03


@pytest.mark.parametrize("n", [1, 2, 257, 600])
@pytest.mark.parametrize("decay", [0.0, 0.5, 2.0])
def test_compressible_lengths(n, decay):
    radius = 1.7
    x = make("compressible", n, 8, rng=0, decay=decay, radius=radius, dtype=np.float64)
    lengths = np.linalg.norm(x.q, axis=1)
    np.testing.assert_allclose(np.sort(lengths), np.sort(np.sqrt(radius / x.scale) * np.arange(1.0, n + 1) ** -decay))
    keys = np.linalg.norm(x.k, axis=1)
    np.testing.assert_allclose(np.sort(keys), np.sqrt(radius / x.scale) * np.r_[np.zeros(n % 2), np.ones(n - n % 2)])
    assert abs(logits(x)).max() <= radius * (1 + 1e-12)
    if n == 600:  # random order, of the queries and of the keys' pairs
        assert decay == 0 or abs(np.corrcoef(np.argsort(-lengths), np.arange(n))[0, 1]) < 6 / np.sqrt(n)
        partner = np.argmin(x.k @ x.k.T, axis=1)
        np.testing.assert_allclose(x.k[partner], -x.k)
        assert abs(np.corrcoef(partner, np.arange(n))[0, 1]) < 6 / np.sqrt(n / 2)


def test_compressible_output_is_odd_in_the_query():
    x = make("compressible", 301, 6, rng=1, d_v=4, radius=2.0, dtype=np.float64)
    y, mirrored = (softmax(one) @ x.v for one in (x, replace(x, q=-x.q)))
    np.testing.assert_allclose(mirrored, -y, atol=1e-13)
    short = np.argsort(np.linalg.norm(x.q, axis=1))[:100]  # proportional to a short query: the derivative at 0
    linear = x.scale * x.q @ (x.k.T @ x.v) / 301
    np.testing.assert_allclose(y[short], linear[short], atol=0.01 * abs(linear[short]).max())


@pytest.mark.parametrize("decay", [0.75, 1.0, 1.5])
def test_compressible_tail_is_as_documented(decay):
    """The rows' directions make it random: 20 draws; their mean is held to 6 of its standard errors and 10 percent."""
    n, k = 4000, 30
    found = []
    for seed in range(20):
        x = make("compressible", n, 8, rng=seed, decay=decay, radius=0.5, dtype=np.float64)
        rows = np.sort(np.sum((x.scale * x.q @ (x.k.T @ x.v) / n) ** 2, axis=1))[::-1]  # small logits: y to first order
        found.append(rows[k:].sum() / rows.sum())
    expected = (k ** (1 - 2 * decay) - n ** (1 - 2 * decay)) / ((2 * decay - 1) * zeta(2 * decay))
    assert abs(np.mean(found) - expected) < 6 * np.std(found) / np.sqrt(len(found)) + 0.1 * expected


@pytest.mark.parametrize(("n", "d", "d_v"), [(200, 8, 1), (1500, 32, 3)])
def test_index_queries_ask_for_one_token_each(n, d, d_v):
    x = make("index", n, d, rng=0, d_v=d_v, dtype=np.float64, mass=0.9)
    own = np.diag(softmax(x))
    assert own.min() >= 0.9 and np.median(own) > 0.99  # at least the mass, much more where no key is near
    np.testing.assert_allclose(np.linalg.norm(x.k, axis=1), np.sqrt(d))
    assert set(np.unique(x.v)) == {-1.0, 1.0} and abs(x.v.mean()) < 5 / np.sqrt(x.v.size)
    np.testing.assert_array_equal(np.sign(softmax(x) @ x.v), x.v)
    assert 0.81 * n <= alpha(x) <= n * (1 + n * 0.01) and alpha(x) < 1.1 * n and kappa(x) <= 1 / 0.9
    # The length is the least that the nearest pair of keys allows.
    products = x.k @ x.k.T
    np.fill_diagonal(products, -np.inf)
    margin = x.scale * np.linalg.norm(x.q[0]) / np.sqrt(d) * (d - products.max())
    assert margin == pytest.approx(np.log((n - 1) * 9))
