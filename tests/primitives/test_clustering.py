"""Online clusters against the sequential rule in a loop over points and centres, in float64."""

from __future__ import annotations

import itertools
import math
from typing import Any

import fake_device
import numpy as np
import pytest

from sublinattn.core import backends
from sublinattn.primitives import clustering
from sublinattn.primitives.clustering import OnlineClusters, absorb_each, nearest

CHUNKS = [1, 7, 512, 10**6]


def square(x: Any, y: Any) -> float:
    return math.fsum((float(a) - float(b)) ** 2 for a, b in zip(x, y, strict=True))


def clusters_by_loop(x: np.ndarray, delta: float) -> tuple[list[int], list[int]]:
    """[SG24]'s rule, one point after another: which points become centres, and which centre each point joins."""
    made: list[int] = []
    labels = []
    for i, point in enumerate(x):
        squares = [square(point, x[j]) for j in made]
        if not made or min(squares) > delta**2:
            made.append(i)
            labels.append(len(made) - 1)
        else:
            labels.append(squares.index(min(squares)))  # of equally near ones the oldest
    return made, labels


def absorbed(xp: Any, x: np.ndarray, delta: float, chunk: int) -> tuple[OnlineClusters, list[int]]:
    rows = xp.asarray(x)
    clusters = OnlineClusters(delta, rows[:0].copy())
    labels: list[int] = []
    for start in range(0, len(x), chunk):
        found = clusters.absorb(xp, rows[start : start + chunk])
        assert found.dtype == np.int64 and len(found) == len(x[start : start + chunk])
        labels += found.tolist()
    return clusters, labels


def lattice(n: int, d: int, side: int) -> np.ndarray:
    return np.random.default_rng(n + d).integers(-side, side + 1, size=(n, d)).astype(float)


def blobs(n: int, d: int, groups: int, spread: float) -> np.ndarray:
    rng = np.random.default_rng(n * d + groups)
    return rng.normal(size=(groups, d))[rng.integers(groups, size=n)] + spread * rng.normal(size=(n, d))


def offset(x: np.ndarray, norm: float) -> np.ndarray:
    """As exact in float32: a multiple of 2^-10 added to multiples of 2^-10."""
    return np.round(x * 1024) / 1024 + np.round(norm / x.shape[1] ** 0.5)


STREAMS = {
    "lattice, ties at delta": (lattice(700, 2, 12), 5.0),
    "lattice, ties at sqrt 2": (lattice(600, 3, 4), math.sqrt(2)),
    "line": (np.random.default_rng(0).permutation(900)[:, None].astype(float), 3.0),
    "line in order": (np.arange(900.0)[:, None], 2.0),
    "duplicates, delta 0": (lattice(800, 2, 6), 0.0),
    "all alike": (np.full((600, 3), 0.1), 0.0),
    "blobs": (blobs(700, 8, 30, 0.1), 1.5),
    "many clusters": (blobs(700, 4, 700, 0.0), 0.5),
    "one cluster": (blobs(600, 4, 1, 0.1), 10.0),
    "norm 1e3, radius 1": (offset(blobs(600, 16, 20, 0.2), 1e3), 1.0),
    "norm 1e3, lattice": (lattice(600, 4, 2) + 500, 2.0),
    "norm 1e3, both signs": (offset(blobs(500, 16, 20, 0.2), 1e3) * (-1.0) ** np.arange(500)[:, None], 1.0),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", STREAMS)
def test_clusters_equal_the_loop_for_every_chunking(xp: Any, name: str, dtype: Any) -> None:
    x, delta = STREAMS[name]
    x = x.astype(dtype)
    made, expected = clusters_by_loop(x, delta)
    for chunk in CHUNKS if xp is np else CHUNKS[1:3]:
        clusters, labels = absorbed(xp, x, delta, chunk)
        centres = backends.asnumpy(clusters.centers.rows)
        assert centres.dtype == dtype and np.array_equal(centres, x[made])
        assert labels == expected
    apart = [square(a, b) for a, b in itertools.combinations(centres[:200], 2)]
    assert not apart or min(apart) > delta**2
    assert max(square(a, centres[label]) for a, label in zip(x, labels, strict=True)) <= delta**2


@pytest.mark.parametrize("sequential", [1, 3, 50])
def test_blocks_of_any_size(sequential: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clustering, "SEQUENTIAL", sequential)
    monkeypatch.setattr(clustering, "tile_rows", lambda xp, m, dtype: 5)
    for name in ("lattice, ties at delta", "blobs", "many clusters", "line in order"):
        x, delta = STREAMS[name]
        x = x[:300]
        made, expected = clusters_by_loop(x, delta)
        for chunk in (64, 300):
            clusters, labels = absorbed(np, x, delta, chunk)
            assert labels == expected and np.array_equal(clusters.centers.rows, x[made])


@pytest.mark.parametrize("most", [0, 1, 2, 5, 11, 12, 100])
@pytest.mark.parametrize("chunk", [1, 7, 400])
def test_as_far_as_there_is_room(xp: Any, most: int, chunk: int) -> None:
    x, delta = blobs(400, 5, 12, 0.01), 0.5
    made, expected = clusters_by_loop(x, delta)
    assert len(made) == 12
    stop = made[most] if most < 12 else len(x)
    rows = xp.asarray(x)
    clusters = OnlineClusters(delta, rows[:0].copy())
    at, labels = 0, []
    while at < len(x):
        found = clusters.absorb(xp, rows[at : at + chunk], maximum=most)
        labels += found.tolist()
        at += len(found)
        if len(found) < min(chunk, len(x) - at + len(found)):
            break
    assert at == stop and labels == expected[:stop]
    assert np.array_equal(backends.asnumpy(clusters.centers.rows), x[made[:most]])
    assert len(clusters.absorb(xp, rows[: made[most] if most < 12 else 9], maximum=most)) == stop or most >= 12


@pytest.mark.parametrize("most", [math.inf, 7])
@pytest.mark.parametrize("products", [2**24, 20_000])
def test_several_streams_together_are_each_alone(monkeypatch: pytest.MonkeyPatch, products: int, most: float) -> None:
    """On a device: streams of different sizes, deltas and numbers of centres, in blocks and tiles of several sizes."""
    monkeypatch.setattr(clustering, "PRODUCTS", products)
    streams = [(x.astype(np.float32), delta) for x, delta in STREAMS.values() if x.shape[1] == 4]
    streams.append((blobs(40, 4, 1, 0.0).astype(np.float32), 1.0))
    together, alone = ([OnlineClusters(delta, x[:0]) for x, delta in streams] for x in range(2))
    for clusters, (x, _) in zip(together, streams, strict=True):
        clusters.centers = type(clusters.centers)(fake_device.asarray(x[:0]))
    for begin, end in ((0, 1), (1, 200), (200, 230), (230, 700)):
        parts = [x[begin : max(begin + 1, end - 7 * i)][:end] for i, (x, _) in enumerate(streams) if len(x) > begin]
        mine = [its for its, (x, _) in zip(together, streams, strict=True) if len(x) > begin]
        plain = [its for its, (x, _) in zip(alone, streams, strict=True) if len(x) > begin]
        found = absorb_each(fake_device, mine, [fake_device.asarray(x) for x in parts], maximum=most)
        expected = absorb_each(np, plain, parts, maximum=most)
        for x, y in zip(found, expected, strict=True):
            assert x.tolist() == y.tolist()
    for x, y in zip(together, alone, strict=True):
        assert np.array_equal(x.centers.rows.get(), y.centers.rows)


# -------------------------------------------------------------------------------------------------------------- nearest
def nearest_by_loop(x: Any, centres: Any, position: Any, born: Any) -> tuple[list[int], list[float]]:
    index, squares = [], []
    for i, point in enumerate(x):
        best, least = -1, math.inf
        for j, centre in enumerate(centres):
            if born is None or born[j] <= position[i]:
                found = square(point, centre)
                if found < least:
                    best, least = j, found
        index.append(best)
        squares.append(least)
    return index, squares


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("far", [0, 1000])
@pytest.mark.parametrize("masked", [False, True])
def test_nearest_equals_brute_force(xp: Any, dtype: Any, far: int, masked: bool) -> None:
    rng = np.random.default_rng(5)
    for x, centres in (
        (lattice(90, 3, 4) + far, lattice(40, 3, 4) + far),
        (blobs(90, 20, 9, 0.1) + far, blobs(40, 20, 9, 0.1) + far),
    ):
        x, centres = x.astype(dtype), centres.astype(dtype)
        position, born = (np.arange(90), np.sort(rng.integers(5, 90, size=40))) if masked else (None, None)
        seen = {"position": xp.asarray(position), "born": xp.asarray(born)} if masked else {}
        index, squares = nearest(xp, xp.asarray(x), xp.asarray(centres), **seen)
        expected, least = nearest_by_loop(x, centres, position, born)
        assert index.tolist() == expected and index.dtype == np.int64
        np.testing.assert_allclose(squares, least, rtol=1e-14)
        assert not masked or -1 in expected


def test_nearest_of_none(xp: Any) -> None:
    index, squares = nearest(xp, xp.asarray(np.ones((3, 2))), xp.asarray(np.ones((0, 2))))
    assert index.tolist() == [-1] * 3 and np.isinf(squares).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_slack_bounds_the_rounding_of_the_products(dtype: Any) -> None:
    """Worst of 4e5 pairs in 6 shapes: the error of `|y|^2 - 2 <x, y>` stays below half of what `nearest` allows."""
    rng = np.random.default_rng(7)
    for d, far in itertools.product((1, 16, 256), (0.0, 100.0)):
        x, y = ((rng.normal(size=(256, d)) + far).astype(dtype) for _ in range(2))
        augmented = np.concatenate([-2 * y, np.einsum("ij,ij->i", y, y)[:, None]], axis=1)
        product = np.concatenate([x, np.ones((256, 1), dtype)], axis=1) @ augmented.T
        wide = np.longdouble
        exact = (y.astype(wide) ** 2).sum(axis=1) - 2 * x.astype(wide) @ y.astype(wide).T
        norms = [np.linalg.norm(z, axis=1).max() for z in (x, y)]
        assert abs(product - exact).max() < 0.5 * clustering.rounding(x, sum(norms))


@pytest.mark.parametrize("delta", [1e10, 1e19, 1e25, 1e150])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_delta_beyond_all_distances(dtype: Any, delta: float) -> None:
    clusters, labels = absorbed(np, blobs(30, 3, 30, 1.0).astype(dtype), delta, 10)
    assert labels == [0] * 30 and len(clusters.centers) == 1


def test_host_syncs_are_few(xp: Any) -> None:
    """A fixed number per chunk and per block of the sequential rule, whatever the number of points and centres."""
    if not hasattr(xp, "counts"):
        pytest.skip("transfers are not counted")
    for n in (50, 200):
        x = xp.asarray(blobs(n, 4, n, 0.0))
        clusters = OnlineClusters(0.01, x[:0].copy())
        for most in (6, 2):  # all are new; all are old
            before = xp.counts.syncs
            clusters.absorb(xp, x)
            assert xp.counts.syncs - before <= most


@pytest.mark.parametrize(("dtype", "size"), [(np.float32, 1e-22), (np.float64, 1e-161)])
def test_squares_in_the_denormal_range(dtype: Any, size: float) -> None:
    """Their rounding is absolute: a bound relative to the squares would exclude the nearest centre."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        x = (size * rng.standard_normal((60, 8))).astype(dtype)
        (one, its), (all_, theirs) = (absorbed(np, x, 3 * size, rows) for rows in (1, 60))
        assert its == theirs and len(one.centers) == len(all_.centers)
