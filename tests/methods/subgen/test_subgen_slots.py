"""SubGen whose slots give both sums, and the laws of the slots. `test_subgen` has the state and answers bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import references
from toy_states import contents
from toy_subgen import D_V, D, blobs, fed

from sublinattn.core import backends
from sublinattn.methods.caches.reservoir import ReservoirCache
from sublinattn.methods.subgen.head import stored_weights
from sublinattn.methods.subgen.subgen import SubGenCache

LAWS = ("norm", "centred", "distance", "uniform")
FROM_MEAN = ("centred", "distance")


def slots(law: str, size: int = 50, **options: Any) -> SubGenCache:
    return SubGenCache(value_samples=size, normaliser="slots", law=law, **({"rng": 0} | options))


def test_files_of_the_versions_that_knew_no_laws_are_read(monkeypatch: Any, tmp_path: Any) -> None:
    rows = blobs(0, 200)
    cache = SubGenCache(1.0, 3, 4, recent=5, rng=0).update(*rows)
    former = ("delta", "cluster_samples", "value_samples", "recent", "max_clusters")
    with monkeypatch.context() as patch:
        patch.setattr(SubGenCache, "PARAMETERS", former)  # the file is then what they wrote, to the byte
        cache.save(tmp_path / "former")
    loaded = SubGenCache.load(tmp_path / "former")
    assert (loaded.normaliser, loaded.law) == ("clusters", "norm")
    assert contents(loaded.update(*rows), tmp_path) == contents(cache.update(*rows), tmp_path)


@pytest.mark.parametrize("law", LAWS)
def test_answers_are_those_of_the_stored_tokens(xp: Any, law: str) -> None:
    """Softmax over the slots, each counted once over its token's weight."""
    k, v = blobs(1, 300)
    cache = fed(slots(law), xp.asarray(k), xp.asarray(v + 1), 70)
    held = {name: backends.asnumpy(x) for name, x in cache.contents().items()}
    weight = {"norm": (held["0.slot_values"] ** 2).sum(axis=1), "uniform": np.ones(50)}.get(law)
    w = held["0.weights"] if weight is None else weight
    e = np.exp(0.5 * k[:5] @ held["0.slot_keys"].T) / w
    want = e @ held["0.slot_values"] / e.sum(axis=1)[:, None]
    np.testing.assert_allclose(backends.asnumpy(cache.attend(xp.asarray(k[:5]))), want, rtol=1e-10)
    assert cache.centers.shape == (0, D) and cache.counts.shape == (0,) and cache.radius == cache.current_delta == 0


def test_the_papers_law_is_the_reservoirs() -> None:
    """The same estimate from the same tokens: the draws have numbers of their own, so the rows are copied over."""
    k, v = blobs(2, 300)
    cache, reservoir = slots("norm").update(k, v), ReservoirCache(50, "value-norm", rng=0).update(k, v)
    for name, ours in (("keys", "0.slot_keys"), ("values", "0.slot_values")):
        reservoir.contents()[name][0] = cache.contents()[ours]
    np.testing.assert_allclose(cache.attend(k[:9]), reservoir.attend(k[:9]), rtol=1e-12)


@pytest.mark.parametrize("law", FROM_MEAN)
@pytest.mark.parametrize("chunk", [1, 7, 40])
def test_values_alike_weigh_alike_until_one_differs(law: str, chunk: int) -> None:
    """Rounding of the running mean of equal values is no difference."""
    k, _ = blobs(3, 40)
    v = np.full((40, D_V), 0.1)
    cache = fed(slots(law, 4000), k[:30], v[:30], chunk)
    assert cache.mu == 30 and cache.contents()["0.value_sum"].all()
    np.testing.assert_allclose(cache.attend(k[:3]), v[:3], rtol=1e-12)
    v[30:] += np.arange(1, 11)[:, None]
    fed(cache, k[30:], v[30:], chunk)
    far = np.array([np.linalg.norm(v[j] - v[:j].mean(axis=0)) for j in range(30, 40)]) ** (2 if law == "centred" else 1)
    assert cache.mu == pytest.approx(30 + (far / far[0]).sum())
    assert len(np.unique(cache.contents()["0.slot_keys"], axis=0)) == 40  # no token is lost


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_values_and_logits_may_be_extreme(law: str, dtype: Any) -> None:
    q, k, v = references.qkv(8, 20, 100, d=D, d_v=D_V, size=100.0, dtype=dtype)
    tiny = dtype(np.finfo(dtype).tiny)
    for factor in (dtype(1), np.sqrt(tiny), dtype(1e15)):
        out = slots(law, recent=3).update(k, v * factor).attend(q, scale=1.0)
        assert np.isfinite(out).all() and out.any() and abs(out).max() <= abs(v * factor).max() * (1 + 1e-5)
    zero = slots(law).update(k, 0 * v)
    assert not zero.attend(q).any()
    assert zero.update(k, v).attend(q).any()


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("normaliser", ["slots", "clusters"])
def test_unbiased_whatever_the_law(law: str, normaliser: str) -> None:
    """Means of 4000 answers that are exact but for z, or of tau (out - o), are zero: z-tests at |z| <= 6."""
    q, k, v = references.qkv(10, 3, 15, d=D, d_v=D_V)
    v = v + 1
    runs = 4000
    many = (np.broadcast_to(x, (runs, *x.shape)) for x in (k, v))
    clusters = {"delta": 0.0, "cluster_samples": 1} if normaliser == "clusters" else {}
    cache = SubGenCache(value_samples=4, normaliser=normaliser, law=law, rng=9, **clusters).update(*many)
    error = cache.attend(np.broadcast_to(q, (runs, *q.shape)), scale=1.0) - references.attention(q, k, v, scale=1.0)[0]
    if normaliser == "slots":  # weigh each answer by its tau
        heads = cache.heads
        keys, values = (np.stack([getattr(head, name) for head in heads]) for name in ("slot_keys", "slot_values"))
        e = np.exp(q @ keys.swapaxes(1, 2)) / stored_weights(heads, values)[:, None]
        error = error * e.sum(axis=-1)[..., None]
    assert abs(error.mean(axis=0) / (error.std(axis=0) / np.sqrt(runs))).max() <= 6


@pytest.mark.parametrize("law", LAWS)
def test_merged_it_is_a_cache_of_both_streams(law: str, tmp_path: Any) -> None:
    (k, v), (other_k, other_v) = blobs(0, 120), blobs(1, 90)
    other_v = 3 * other_v + 2
    one, two = slots(law, 4000, rng=1).update(k, v), slots(law, 4000, rng=2).update(other_k, other_v)
    before, mu = contents(two, tmp_path), (one.mu, two.mu)
    one.merge(two)
    assert contents(two, tmp_path) == before
    share = np.isin(one.contents()["0.slot_keys"][:, 0], other_k[:, 0]).mean()
    unit = 1.0
    if law in FROM_MEAN:  # each stream's weights are in a unit of its own: the distance of its second value
        power = 2 if law == "centred" else 1
        unit = (np.linalg.norm(other_v[1] - other_v[0]) / np.linalg.norm(v[1] - v[0])) ** power
        np.testing.assert_array_equal(one.contents()["0.value_sum"], v.sum(axis=0) + other_v.sum(axis=0))
    assert one.mu == pytest.approx(mu[0] + unit * mu[1])
    p = unit * mu[1] / one.mu
    assert abs(share - p) <= 6 * np.sqrt(p * (1 - p) / 4000)
    out, whole = one.attend(k[:20]), [np.concatenate(x) for x in ((k, other_k), (v, other_v))]
    assert abs(out - references.attention(k[:20], *whole)[0]).mean() < 0.3
    one.save(tmp_path / "x")
    assert contents(SubGenCache.load(tmp_path / "x").update(k, v), tmp_path) == contents(one.update(k, v), tmp_path)
    empty = slots(law, 4000, rng=3).merge(two)
    np.testing.assert_array_equal(empty.attend(k[:3]), two.attend(k[:3]))
