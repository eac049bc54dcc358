"""The streams' clusters are what the docstrings say, found again by brute force: by pairs, in order, from arrays alone.

Seeds are fixed, so no run differs from another. Tolerances of random quantities are 6 standard deviations: a false
alarm below 1e-8 each if seeds were drawn anew. Distances are those after rounding to float32, without any tolerance.
"""

import numpy as np
import pytest
from scipy.spatial import KDTree
from scipy.spatial.distance import cdist
from toy_workloads import alpha, kappa, softmax, sphere_through

from sublinattn.lab.workloads import make


def distances(x, y):
    return cdist(x.astype(np.float64), y.astype(np.float64))


def online(k, delta):
    """Indices of the keys that open a cluster, point by point."""
    k, opened = k.astype(np.float64), []
    for i, x in enumerate(k):
        if not opened or np.sqrt(np.sum((k[opened] - x) ** 2, axis=1)).min() > delta:
            opened.append(i)
    return opened


def parts(k, delta):
    """Part of every key: keys within delta of each other, which must be an equivalence."""
    near = distances(k, k) <= delta
    paths = near.astype(np.float64) @ near
    assert ((paths > 0) == near).all()
    return np.unique(near.argmax(axis=1), return_inverse=True)[1]


# ---------------------------------------------------------------------------------------------------------- clusterable
@pytest.mark.parametrize("order", ["random", "norm", "cluster"])
@pytest.mark.parametrize(
    ("clusters", "exponent", "m"), [(7, 0.0, 7), (1, 0.5, 20), (1, 1.0, 400), (0.3, 1.0, 120), (1, 0, 1)]
)
@pytest.mark.parametrize(("d", "delta", "separation"), [(8, 0.7, 2.2), (17, 1.3, 3.1), (2, 0.01, 2.01)])
def test_clusterable_parts(order, clusters, exponent, m, d, delta, separation):
    n = 400
    knobs = {"clusters": clusters, "exponent": exponent, "delta": delta, "separation": separation, "order": order}
    x = make("clusterable", n, d, rng=1, **knobs)
    assert x.k.dtype == np.float32
    part = parts(x.k, delta)
    apart = distances(x.k, x.k)
    assert len(online(x.k, delta)) == part.max() + 1 == m
    assert apart[part[:, None] == part].max() <= delta
    if m > 1:
        assert apart[part[:, None] != part].min() > (separation - 1) * delta
    sizes = np.bincount(part)
    assert set(sizes) <= {n // m, -(-n // m)}
    changes = np.count_nonzero(np.diff(part))
    if order == "cluster":
        assert changes == m - 1
    elif m == 20:  # of 399 neighbours, 1/20 are of one part
        assert abs(changes - 0.95 * 399) < 6 * np.sqrt(399 * 0.05)
        assert abs(np.mean(part[m:] == part[:-m]) - 1 / m) < 6 * np.sqrt(1 / m / (n - m))  # and not by turns
    norms = np.linalg.norm(x.v, axis=1)
    assert (np.diff(norms) >= -1e-6).all() == (order == "norm")


def test_clusterable_centers():
    n, d, clusters, delta = 1500, 6, 5, 1.0
    x = make("clusterable", n, d, rng=0, clusters=clusters, delta=delta, separation=3.0, norm=5.0, dtype=np.float64)
    part = parts(x.k, delta)
    centers = []
    for i in range(clusters):
        members = x.k[part == i]
        center, radius = sphere_through(members)
        assert np.linalg.norm(center) == pytest.approx(5.0) and radius == pytest.approx(delta / 2, rel=2e-6)
        assert np.linalg.norm(members.mean(axis=0) - center) < 6 * delta / 2 / np.sqrt(n / clusters)
        centers.append(center)
    assert np.sort(distances(np.array(centers), np.array(centers)).ravel())[clusters] > 3 * delta


def test_clusterable_orders_are_of_the_same_tokens():
    streams = {order: make("clusterable", 200, 8, rng=0, order=order) for order in ("random", "norm", "cluster")}
    rows = {order: np.hstack([x.k, x.v]) for order, x in streams.items()}
    for order, x in streams.items():
        np.testing.assert_array_equal(x.q, streams["random"].q)
        np.testing.assert_array_equal(np.unique(rows[order], axis=0), np.unique(rows["random"], axis=0))
    assert not np.array_equal(rows["norm"], rows["random"]) and not np.array_equal(rows["cluster"], rows["random"])


def test_clusterable_queries():
    n, d = 1200, 64
    x = make("clusterable", n, d, rng=0, clusters=9, query_norm=3.5, dtype=np.float64)
    np.testing.assert_allclose(np.linalg.norm(x.q, axis=1), 3.5)
    part = parts(x.k, 1.0)
    centers = np.array([x.k[part == i].mean(axis=0) for i in range(9)])  # to 0.03 of 8
    cosine = x.q @ (centers / np.linalg.norm(centers, axis=1, keepdims=True)).T / 3.5
    aimed = cosine[::2]
    # The cosine of a direction e_1 + g/2 has a standard deviation below 1/(2 sqrt(d)), that of a uniform one 1/sqrt(d).
    assert abs(aimed.max(axis=1) - 2 / np.sqrt(5)).max() < 6 / 2 / np.sqrt(d)
    assert aimed.max(axis=1).mean() == pytest.approx(2 / np.sqrt(5), abs=0.01)
    counts = np.bincount(aimed.argmax(axis=1), minlength=9)
    assert abs(counts - n / 18).max() < 6 * np.sqrt(n / 18)
    assert abs(cosine[1::2].mean()) < 6 / np.sqrt(d * n / 2) and cosine[1::2].std() == pytest.approx(
        1 / np.sqrt(d), rel=0.1
    )


@pytest.mark.parametrize("exponent", [0.0, 1.0])
def test_clusterable_softmax(exponent):
    """Moderate logits, which bound alpha and kappa as stated, far from uniform where clusters are few."""
    x = make("clusterable", 1024, 64, rng=0, clusters=16 if exponent == 0 else 1, exponent=exponent)
    reach = x.scale * 5 * 8.5
    assert abs(x.scale * x.q @ x.k.T).max() <= reach < 5.5
    heavy = np.sort(softmax(x)[::2], axis=1)[:, -64:].sum(axis=1)  # 64 keys are one part of 16
    assert heavy.mean() > (0.7 if exponent == 0 else 0.2)


@pytest.mark.parametrize("mean", [0.0, 0.5, -2.0])
def test_clusterable_values(mean):
    n, d_v = 20000, 6
    x = make("clusterable", n, 8, rng=0, d_v=d_v, clusters=2, mean=mean, dtype=np.float64)
    assert abs(x.v.mean(axis=0) - mean).max() < 6 / np.sqrt(n) and abs(x.v.std() - 1) < 6 / np.sqrt(2 * n * d_v)
    part = parts(x.k[:1000], 1.0)
    assert abs(x.v[:1000][part == 0].mean(axis=0) - mean).max() < 6 / np.sqrt(np.count_nonzero(part == 0))
    singular = np.linalg.svd(x.v, compute_uv=False)
    stable_rank = np.sum(singular**2) / singular[0] ** 2
    assert stable_rank == pytest.approx(d_v * (1 + mean**2) / (1 + d_v * mean**2), rel=0.05)


@pytest.mark.parametrize(("d", "norm"), [(64, 8.0), (16, 8.0), (3, 70000.0)])
def test_as_many_parts_as_tokens(d, norm):
    """2^17 parts of one key: in 3 dimensions no pair is missed."""
    n = 2**17
    x = make("clusterable", n, d, d_v=1, rng=0, clusters=1, exponent=1.0, norm=norm)
    if d == 3:
        gaps, _ = KDTree(x.k.astype(np.float64)).query(x.k.astype(np.float64), k=2)
        assert gaps[:, 1].min() > 2.0
    assert (abs(np.linalg.norm(x.k, axis=1) - norm) <= 0.51).all()
    chosen = np.random.default_rng(0).integers(n, size=64)  # in d = 16 and 64 by pairs, for some keys
    k = x.k.astype(np.float64)
    squares = np.sum(k**2, axis=1) + np.sum(k[chosen] ** 2, axis=1)[:, None] - 2 * k[chosen] @ k.T
    assert (np.partition(squares, 1, axis=1)[:, 1] > 4.0).all()


# ------------------------------------------------------------------------------------------------------------- drifting
@pytest.mark.parametrize("speed", [0.0, 0.4, 1.0, 3.0, 20.0])
@pytest.mark.parametrize(("d", "delta", "norm"), [(3, 0.1, 8.0), (16, 1.3, 8.0)])
def test_drifting_clusters(speed, d, delta, norm):
    n, clusters = 1500, 5
    x = make("drifting", n, d, rng=0, clusters=clusters, delta=delta, speed=speed, norm=norm)
    k, moment = x.k.astype(np.float64), np.linspace(0, 1, n)
    apart = distances(x.k, x.k)
    still = make("drifting", n, d, rng=0, clusters=clusters, delta=delta, speed=0.0, norm=norm)
    part = parts(still.k, delta)  # the same draws without the drift
    same = part[:, None] == part
    assert distances(still.k, still.k)[same].max() <= delta / 2
    assert apart[~same].min(initial=np.inf) > delta  # at any two times
    shift = k - still.k
    np.testing.assert_allclose(np.linalg.norm(shift[-1] - shift[0]), speed * delta, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(shift, shift[0] + moment[:, None] * (shift[-1] - shift[0]), atol=1e-4 * (1 + speed))
    np.testing.assert_allclose(shift @ still.k.T, 0, atol=1e-4 * (1 + speed))
    np.testing.assert_allclose(shift @ x.q.T, 0, atol=1e-4 * (1 + speed))

    stretches = max(1, int(np.ceil(2 * speed / np.sqrt(3))))
    stretch = np.minimum((moment * stretches).astype(int), stretches - 1)
    together = same & (stretch[:, None] == stretch)
    assert apart[together].max() <= delta  # enough
    found = len(online(x.k, delta))
    per_part = [np.ptp(moment[part == i]) * speed for i in range(clusters)]
    assert sum(max(1, int(np.ceil(length - 1e-6))) for length in per_part) <= found <= clusters * stretches
    if speed == 0:
        assert found == clusters


def test_drifting_leaves_the_softmax_alone():
    slow, fast = (make("drifting", 256, 16, rng=3, speed=speed, dtype=np.float64) for speed in (0.0, 50.0))
    np.testing.assert_allclose(softmax(fast), softmax(slow), rtol=1e-5)  # room for rounding grows with speed
    reach = slow.scale * 5 * 8.25
    assert abs(slow.scale * slow.q @ slow.k.T).max() <= reach
    np.testing.assert_allclose(np.linalg.norm(fast.q, axis=1), 5.0)


# -------------------------------------------------------------------------------------------------------------- needles
@pytest.mark.parametrize(("n", "d", "count", "mass"), [(300, 16, 4, 0.9), (1000, 64, 10, 0.5), (300, 8, 1, 0.99)])
def test_needles_by_the_recipe(n, d, count, mass):
    x = make("needles", n, d, rng=2, d_v=10, needles=count, mass=mass, clusters=12, dtype=np.float64)
    at = np.flatnonzero(np.count_nonzero(x.v, axis=1) == 1)
    numbers = x.v[at].argmax(axis=1)
    assert len(at) == count and sorted(numbers) == list(range(count))
    np.testing.assert_allclose(x.v[at, numbers], np.sqrt(10))
    wanted = (x.q @ x.k[at].T).argmax(axis=1)
    assert set(np.bincount(wanted)) <= {n // count, -(-n // count)}
    p = softmax(x)
    np.testing.assert_allclose(p[np.arange(n), at[wanted]], mass, rtol=1e-9)
    np.testing.assert_array_equal((p @ x.v).argmax(axis=1), numbers[wanted])
    np.testing.assert_allclose(
        np.sum(x.q * x.k[at[wanted]], axis=1),
        np.linalg.norm(x.q, axis=1) * np.linalg.norm(x.k[at[wanted]], axis=1),
    )
    assert len(online(x.k, 1.0)) == 12 + count == parts(x.k, 1.0).max() + 1
    rest = np.delete(np.arange(n), at)
    assert distances(x.k[at], x.k[rest]).min() > 2.5
    lengths = np.linalg.norm(x.q, axis=1)
    assert alpha(x) == pytest.approx(n**2 * mass**2 / count, rel=0.01 + 2 * count / n)
    assert kappa(x) == pytest.approx(np.exp(x.scale * 8 * np.ptp(lengths)), rel=1e-6)
    assert kappa(x) < 1.5


def test_needles_are_anywhere():
    depths = [np.flatnonzero(np.count_nonzero(make("needles", 60, 16, rng=i).v, axis=1) == 1) for i in range(100)]
    depths = np.concatenate(depths)
    assert abs(depths.mean() - 29.5) < 6 * np.sqrt(60**2 / 12 / 400) and len(np.unique(depths)) > 50
    asked = make("needles", 600, 16, rng=0).q @ np.ones(16)
    for lag in (1, 4):  # neither needle after needle nor by turns: 1/4 of neighbours ask for the same
        assert abs(np.mean(asked[lag:] == asked[:-lag]) - 1 / 4) < 6 * np.sqrt(3 / 16 / (600 - lag))


def test_the_norm_asked_for_is_enough():
    with pytest.raises(ValueError, match="need a norm of about") as caught:
        make("clusterable", 4096, 8, rng=0, clusters=1, exponent=1.0)
    norm = float(str(caught.value).split("about ")[1].split(",")[0])
    x = make("clusterable", 4096, 8, rng=0, clusters=1, exponent=1.0, norm=norm)
    gaps = distances(x.k, x.k)
    np.fill_diagonal(gaps, np.inf)
    assert gaps.min() > 2
