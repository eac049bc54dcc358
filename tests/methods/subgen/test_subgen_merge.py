"""SubGen's clusters of clusters (merging, doubling), its file, its bytes and its device.

With thousands of samples per cluster all members are among them: the clusters are then a partition that can be checked
key by key. Statistical tests are chi-square tests at 1e-7, some 1000: with other seeds, a false alarm in 1e4 runs.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import references
from scipy import stats
from toy_states import contents
from toy_subgen import D_V, D, blobs, distance, fed, members

from sublinattn.core import backends
from sublinattn.methods.subgen.subgen import SubGenCache

LEVEL = 1e-7
MANY = 4000


def assert_partition(cache: SubGenCache, k: np.ndarray, *, apart: float, number: int = 0) -> None:
    """Every key is in one cluster, within `radius` of its center; centers are farther than `apart` from each other."""
    clusters, head = members(cache, number), cache.heads[number]
    centers = backends.asnumpy(head.clusters.centers.rows)
    assert [len(its) for its in clusters] == head.samples.counts.tolist()
    assert head.samples.seen == len(k)
    assert sorted(itertools.chain(*clusters)) == sorted(tuple(x) for x in k.tolist())
    for its, center in zip(clusters, centers, strict=True):
        assert tuple(center.tolist()) in its
        assert max(distance(x, center) for x in its) <= head.radius
    pairs = [distance(x, y) for x, y in itertools.combinations(centers, 2)]
    assert not pairs or min(pairs) > apart


def assert_laws(cache: SubGenCache, k: np.ndarray, v: np.ndarray) -> None:
    """Slots hold tokens in proportion to `||v||^2`, samples are uniform over their cluster; two are independent."""
    head = cache.heads[0]
    number = {tuple(x): i for i, x in enumerate(k.tolist())}
    slots = np.array([number[tuple(x)] for x in backends.asnumpy(head.slot_keys).tolist()])
    np.testing.assert_array_equal(backends.asnumpy(head.slot_values), v[slots])
    weights = (v.astype(float) ** 2).sum(axis=1)
    np.testing.assert_allclose(cache.mu, weights.sum(), rtol=1e-12)
    expected = len(slots) * weights / weights.sum()
    often = expected >= 5
    counts = np.bincount(slots, minlength=len(k))
    counts, expected = (np.append(x[often], x[~often].sum()) for x in (counts, expected))
    assert stats.chisquare(counts, expected * len(slots) / expected.sum()).pvalue > LEVEL
    for samples, count in zip(backends.asnumpy(head.sampled.rows), cache.counts, strict=True):
        held = np.array([number[tuple(x)] for x in samples.tolist()])
        if count > 1:
            assert stats.chisquare(np.unique(held, return_counts=True)[1]).pvalue > LEVEL
        if 1 < count <= 20:
            _, held = np.unique(held, return_inverse=True)
            pairs = np.bincount(held[::2] * count + held[1::2], minlength=count**2)
            assert stats.chisquare(pairs).pvalue > LEVEL


def two(n: int = 120, **options: Any) -> tuple[SubGenCache, SubGenCache, list[np.ndarray]]:
    """Caches over two streams whose clusters overlap, and all rows."""
    (k, v), (other_k, other_v) = blobs(0, n, 7, 0.5), blobs(1, n, 9, 0.5)
    v[:, :] *= 2
    one, other = (SubGenCache(**({"delta": 0.7} | options), rng=seed) for seed in (1, 2))
    return one.update(k, v), other.update(other_k, other_v), [k, v, other_k, other_v]


# -------------------------------------------------------------------------------------------------------------- merging
@pytest.mark.parametrize("options", [{}, {"max_clusters": 6}, {"delta": 0.0}, {"delta": 100.0}])
def test_merging(options: Any, tmp_path: Any) -> None:
    one, other, (k, v, other_k, other_v) = two(cluster_samples=MANY, value_samples=MANY, **options)
    before, radii = contents(other, tmp_path), (one.radius, other.radius)
    assert one.merge(other) is one
    assert contents(other, tmp_path) == before
    k, v = np.concatenate([k, other_k]), np.concatenate([v, other_v])
    assert one.tokens_seen == 240
    assert_partition(one, k, apart=one.heads[0].clusters.delta)
    assert_laws(one, k, v)
    assert options.get("delta", 1) or len(one.centers) == 240
    if "max_clusters" in options:
        assert len(one.centers) <= 6
    else:
        assert one.radius == radii[1] + one.delta
    more = blobs(3, 100, 9, 0.5)
    one.update(*more)  # what the cache does next fits what it has become
    assert contents(other, tmp_path) == before
    k, v = np.concatenate([k, more[0]]), np.concatenate([v, more[1]])
    assert_partition(one, k, apart=one.heads[0].clusters.delta)
    assert_laws(one, k, v)


@pytest.mark.parametrize("case", ["the other has doubled more often", "this one has", "neither has"])
def test_merging_keeps_to_the_bound(case: str, tmp_path: Any) -> None:
    """Delta is the larger of both. 5 clusters and 5 others far away, of 5 allowed: it doubles until some are one."""
    near, far, delta, bound = blobs(4, 100, 1, 0.1), blobs(5, 100, 24, 0.6), 0.05, 8
    if case == "neither has":
        near, far, delta, bound = blobs(16, 60, 5), blobs(17, 60, 5), 0.7, 5
        far[0] += 1e3
    parts = (far, near) if case == "this one has" else (near, far)
    one, other = (
        SubGenCache(delta, MANY, MANY, max_clusters=bound, rng=i).update(*rows) for i, rows in enumerate(parts)
    )
    deltas = [one.current_delta, other.current_delta]
    assert np.sign(deltas[1] - deltas[0]) == {"this one has": -1, "neither has": 0}.get(case, 1)
    before = contents(other, tmp_path)
    one.merge(other)
    assert contents(other, tmp_path) == before and 1 <= len(one.centers) <= bound
    doublings = np.log2(one.current_delta / max(deltas))
    assert doublings.is_integer() and (doublings > 0) == (case == "neither has") and one.radius < 3 * one.current_delta
    k, v = (np.concatenate(x) for x in zip(*parts, strict=True))
    assert_partition(one, k, apart=one.current_delta)
    assert_laws(one, k, v)


@pytest.mark.parametrize("options", [{}, {"recent": 11}, {"max_clusters": 4}, {"max_clusters": 4, "recent": 50}])
def test_merging_with_an_empty_cache(xp: Any, options: Any, tmp_path: Any) -> None:
    k, v = blobs(6, 50, 8, 0.5)
    rows = xp.asarray(k), xp.asarray(v)
    full = SubGenCache(0.3, MANY, MANY, rng=1, **options).update(*rows)
    before = contents(full, tmp_path)
    full.merge(SubGenCache(0.3, MANY, MANY, rng=2, **options))
    assert contents(full, tmp_path) == before
    empty = SubGenCache(0.3, MANY, MANY, rng=2, **options).merge(full)
    assert contents(full, tmp_path) == before and empty.tokens_seen == 50
    out = 50 - options.get("recent", 0)
    if out:
        assert np.array_equal(backends.asnumpy(empty.centers), backends.asnumpy(full.centers)) and empty.mu == full.mu
        assert_partition(empty, k[:out], apart=0.3)
        assert_laws(empty, k[:out], v[:out])
    for cache in (full, empty):
        np.testing.assert_allclose(
            backends.asnumpy(cache.attend(rows[0][:3])),
            references.attention(k[:3], k, v)[0],
            atol=1e-9 if not out else 0.3,
        )
    fed(empty, *rows, 20)
    assert empty.tokens_seen == 100 and sum(empty.counts.tolist()) == 100 - options.get("recent", 0)


def test_merging_windows() -> None:
    """`other`'s tokens come last: its window is the merged one's, and this one's window has left it."""
    one, other, (k, v, other_k, other_v) = two(cluster_samples=MANY, value_samples=MANY, recent=15)
    one.merge(other)
    for name, x in (("recent_k", other_k), ("recent_v", other_v)):
        np.testing.assert_array_equal(one.contents()[name][0], x[-15:])
    k, v = np.concatenate([k, other_k])[:-15], np.concatenate([v, other_v])[:-15]
    assert_partition(one, k, apart=0.7)
    assert_laws(one, k, v)
    short = SubGenCache(0.7, MANY, MANY, recent=15, rng=9).update(other_k[:4] + 50, other_v[:4])
    before = one.counts.sum()
    one.merge(short)  # less than a window: 4 tokens leave
    np.testing.assert_array_equal(one.contents()["recent_k"][0], np.concatenate([other_k[-11:], other_k[:4] + 50]))
    assert one.counts.sum() == before + 4


def test_merging_many_shards_with_leading_axes() -> None:
    shards = [np.stack([blobs(10 * i + j, 40, 6, 0.3)[0] for j in range(3)]) for i in range(4)]
    caches = [SubGenCache(0.7, 2000, 20, rng=i).update(k, k[..., :D_V]) for i, k in enumerate(shards)]
    first = caches[0].merge(caches[1]).merge(caches[2].merge(caches[3]))
    everything = np.concatenate(shards, axis=1)
    for i in range(3):
        assert_partition(first, everything[i], apart=0.7, number=i)
        assert first.mu[i] == pytest.approx((everything[i][:, :D_V] ** 2).sum())


# ------------------------------------------------------------------------------------------------------------- the file
def test_loaded_after_merges_it_continues_too(tmp_path: Any) -> None:
    one, other, (k, v, _, _) = two(cluster_samples=3, value_samples=4, max_clusters=5, recent=3)
    one.merge(other).save(tmp_path / "x")
    loaded = SubGenCache.load(tmp_path / "x")
    assert contents(one.update(k, v), tmp_path) == contents(loaded.update(k, v), tmp_path)


# ----------------------------------------------------------------------------------------------------- bytes and device
def test_nbytes_are_those_of_all_arrays(xp: Any) -> None:
    k, v = (xp.asarray(np.stack([x, x])) for x in blobs(10, 3000, 6, 0.1, dtype=np.float32))
    cache = SubGenCache(1.0, 4, 8, recent=20, rng=0)
    assert cache.nbytes == references.array_bytes(cache) == 0
    held = []
    for start in range(0, 3000, 100):
        cache.update(k[:, start : start + 100], v[:, start : start + 100])
        held.append(cache.nbytes)
        assert held[-1] == references.array_bytes(cache)
        if xp is np:  # and none is a part of something larger
            roots = [x if x.base is None else x.base for x in cache.contents().values()]
            assert sum({id(root): root.nbytes for root in roots}.values()) == held[-1]
    assert len(set(held)) == 1 and [len(x) for x in cache.centers] == [6, 6]  # m is fixed: no byte more
    rows = 6 * D * 4 + 6 * 4 * D * 4 + 8 * (D + D_V) * 4 + 20 * (D + D_V) * 4  # centres, samples, slots, window
    assert held[-1] == 2 * (rows + 6 * 8 + 6 * 4 * 8 + 8 * 8)  # counts, dues, thresholds


def test_room_to_spare_is_an_eighth() -> None:
    k = np.random.default_rng(11).normal(size=(1000, D))
    cache = fed(SubGenCache(0.0, 2, 3, rng=0), k, k, 1)
    rows = 1000 * (D * 8 * 3 + 8 + 2 * 8) + 3 * (2 * D * 8 + 8)
    assert cache.nbytes == references.array_bytes(cache) and rows <= cache.nbytes <= 1.13 * rows


@pytest.mark.parametrize("lead", [(), (3,)])
def test_host_syncs_are_few(xp: Any, lead: tuple[int, ...]) -> None:
    """A fixed number per chunk, whatever the number of tokens, clusters, slots and problems."""
    if not hasattr(xp, "counts"):
        pytest.skip("transfers are not counted")
    for n, groups in ((30, 3), (240, 50)):
        k, v = (xp.asarray(np.broadcast_to(x, (*lead, *x.shape))) for x in blobs(13, n, groups))
        cache = SubGenCache(1.0, 4, 9, recent=6, rng=0)
        for most in (9, 4):  # clusters are made; all are there
            before = xp.counts.syncs
            cache.update(k, v)
            assert xp.counts.syncs - before <= most
        before = xp.counts.syncs
        cache.attend(k)
        assert xp.counts.syncs - before <= 8
