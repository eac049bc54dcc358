"""SubGen against plain lists, and against attention where it is exact or unbiased.

Statistical tests are z-tests at |z| <= 6: with other seeds, each of about 40 gives a false alarm in 5e8 runs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import references
from toy_states import contents
from toy_subgen import D_V, D, Plain, assert_same, blobs, fed

from sublinattn.core import backends
from sublinattn.methods.subgen.head import normalisers
from sublinattn.methods.subgen.subgen import SubGenCache

N = 200
OPTIONS: dict[str, dict[str, Any]] = {
    "clusters": {"delta": 1.0},
    "window": {"delta": 1.0, "recent": 17},
    "doubling": {"delta": 0.01, "max_clusters": 9},
    "doubling to one": {"delta": 0.01, "max_clusters": 1},
    "doubling and window": {"delta": 0.01, "max_clusters": 20, "recent": 5},
    "each key a cluster": {"delta": 0.0},
    "all in the window": {"delta": 1.0, "recent": 1000},
    "uniform slots and window": {"delta": 1.0, "law": "uniform", "recent": 17},
    "slots far from the mean": {"delta": 1.0, "law": "distance"},
    "slots alone": {"normaliser": "slots"},
    "slots alone and window": {"normaliser": "slots", "law": "distance", "recent": 17},
    "slots alone, centred": {"normaliser": "slots", "law": "centred"},
    "slots alone, uniform": {"normaliser": "slots", "law": "uniform"},
}


def make(name: str, *, t: int = 5, s: int = 7, rng: int = 3) -> SubGenCache:
    clusters = {} if "normaliser" in OPTIONS[name] else {"cluster_samples": t}
    return SubGenCache(value_samples=s, rng=rng, **clusters, **OPTIONS[name])


def plain(name: str, k: Any, v: Any, *, t: int = 5, s: int = 7, rng: int = 3, number: int = 0) -> Plain:
    options = dict(OPTIONS[name])
    most, clustered = options.pop("max_clusters", np.inf), options.pop("normaliser", "clusters") == "clusters"
    out = Plain(options.pop("delta", 0.0), t, s, rng=rng, number=number, most=most, clustered=clustered, **options)
    for row in zip(k, v, strict=True):
        out.add(*row)
    return out


# ------------------------------------------------------------------------------------------------ the state and answers
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", OPTIONS)
def test_state_and_answers_equal_the_plain_lists(xp: Any, name: str, dtype: Any) -> None:
    k, v = blobs(0, N, 8, dtype=dtype)
    v[5] = 0
    expected = plain(name, k, v)
    q = references.qkv(1, 6, 1, d=D, dtype=dtype)[0]
    for chunk in (1, 7, 64, N):
        cache = fed(make(name), xp.asarray(k), xp.asarray(v), chunk)
        if name != "all in the window":
            assert_same(cache, expected)
            assert np.array_equal(backends.asnumpy(cache.centers), np.array(expected.centres).reshape(-1, D))
            assert (cache.counts.tolist(), cache.mu, cache.radius) == (expected.counts, expected.mu, expected.radius)
            assert cache.current_delta == expected.delta and cache.delta == OPTIONS[name].get("delta")
        assert cache.tokens_seen == N
        for scale in (None, 0.3, -1.0) + (20.0,) * (dtype == np.float64):  # 20: logits far above 40, which are shifted
            want = [expected.attend(x, 0.5 if scale is None else scale) for x in q]
            got = cache.attend(xp.asarray(q), scale=scale)
            assert got.dtype == dtype
            np.testing.assert_allclose(
                backends.asnumpy(got), want, rtol=1e-10 if dtype == np.float64 else 2e-4, atol=1e-5
            )
        single = cache.attend(xp.asarray(q)[2])
        assert single.shape == (D_V,)
        np.testing.assert_allclose(
            backends.asnumpy(single), backends.asnumpy(cache.attend(xp.asarray(q)))[2], rtol=1e-5
        )


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_chunks_change_no_bit(name: str, dtype: str, tmp_path: Any) -> None:
    if dtype == "bfloat16":
        dtype = pytest.importorskip("ml_dtypes").bfloat16
    rng = np.random.default_rng(4)
    k = (rng.normal(size=(2, N, 20)) * 2).astype(dtype)  # wide rows: sums are taken in a pattern of their own
    v = rng.normal(size=(2, N, 11)).astype(dtype)
    q = rng.normal(size=(2, 4, 20)).astype(dtype)
    whole = make(name).update(k, v)
    answer = whole.attend(q)
    assert answer.dtype == k.dtype and answer.shape == (2, 4, 11)
    if "recent" not in OPTIONS[name] and "law" not in OPTIONS[name]:
        np.testing.assert_allclose(whole.mu, (v.astype(float) ** 2).sum(axis=(1, 2)), rtol=1e-12)
    for chunk in (1, 13):
        other = fed(make(name), k, v, chunk)
        assert contents(other, tmp_path) == contents(whole, tmp_path)
        assert np.array_equal(other.attend(q), answer)
    one_by_one = make(name)
    for row in zip(k[0], v[0], strict=True):
        one_by_one.update(*row)
    chunks = fed(make(name), k[0], v[0], 50)
    assert contents(one_by_one, tmp_path) == contents(chunks, tmp_path)


@pytest.mark.parametrize("far", [0.0, 100.0])
def test_leading_axes_are_separate_caches(xp: Any, far: float) -> None:
    """A vector added to all keys changes no answer: logits are then near -5e3, where an empty slot's zero would win.

    Streams have different numbers of clusters; in the second case one has had no value but 0 outside the window.
    """
    streams = [blobs(i, N, 4 + i, 0.2 * i) for i in range(6)]
    name, shift = "doubling and window", np.array([far, 0, 0, 0])
    if far:
        name, streams[2][1][:-3] = "window", 0
    k, v = (np.stack(x).reshape(2, 3, N, -1) for x in zip(*streams, strict=True))
    cache = fed(make(name), xp.asarray(k + shift), xp.asarray(v), 50)
    q = k[..., :3, :] - shift
    answers = backends.asnumpy(cache.attend(xp.asarray(q)))
    assert len(cache.centers) == len(cache.counts) == len(cache.mu) == len(cache.radius) == 6
    for i, rows in enumerate(streams):
        expected = plain(name, *rows, number=i)  # head i has draws of its own
        if not far:
            assert_same(cache, expected, head=i)
        assert cache.counts[i].tolist() == expected.counts and cache.mu[i] == expected.mu
        want = [expected.attend(x, 0.5) for x in q.reshape(6, 3, D)[i]]
        np.testing.assert_allclose(answers[i // 3, i % 3], want, rtol=1e-9)


def test_nothing_shown_can_change_it(tmp_path: Any) -> None:
    cache = make("window").update(*blobs(2, N))
    before = contents(cache, tmp_path)
    cache.centers[:] = 7
    cache.counts[:] = 7
    assert contents(cache, tmp_path) == before


# --------------------------------------------------------------------------------------------------------- exact limits
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1.0, 100.0])
def test_within_the_window_it_is_attention(xp: Any, dtype: Any, size: float) -> None:
    """With `size` 100, logits reach 1e4."""
    q, k, v = references.qkv(5, 9, 60, d=D, d_v=D_V, size=size, dtype=dtype)
    for recent in (60, 61):
        cache = fed(SubGenCache(1.0, 2, 3, recent=recent, rng=0), xp.asarray(k), xp.asarray(v), 11)
        want = references.attention(q, k, v)[0]
        got = backends.asnumpy(cache.attend(xp.asarray(q)))
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-10 if dtype == np.float64 else 2e-5 * size)


@pytest.mark.parametrize("recent", [0, 4])
def test_values_all_zero(xp: Any, recent: int) -> None:
    k, v = blobs(7, 30)
    cache = SubGenCache(1.0, 2, 3, recent=recent, rng=0).update(xp.asarray(k), xp.asarray(0 * v))
    assert cache.mu == 0 and not backends.asnumpy(cache.attend(xp.asarray(k[:3]))).any()
    cache.update(xp.asarray(k), xp.asarray(v))
    assert cache.mu > 0 and backends.asnumpy(cache.attend(xp.asarray(k[:3]))).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("recent", [0, 3])
def test_logits_of_1e4_give_no_nan(dtype: Any, recent: int) -> None:
    q, k, v = references.qkv(8, 20, 100, d=D, d_v=D_V, size=100.0, dtype=dtype)
    for delta in (0.0, 50.0, 1e3):
        out = SubGenCache(delta, 2, 8, recent=recent, rng=0).update(k, v).attend(q, scale=1.0)
        assert not np.isnan(out).any()
        assert delta or np.isfinite(out).all()  # each key a cluster: no slot lies above them
    one = SubGenCache(0.0, 1, 2, recent=recent, rng=0).update(k[:1], v[:1])
    rounding = 4 * D * np.finfo(dtype).eps * np.linalg.norm(q, axis=1).max() * np.linalg.norm(k[0])  # of a logit
    np.testing.assert_allclose(one.attend(q, scale=1.0), np.repeat(v[:1], 20, axis=0), rtol=rounding)


# ------------------------------------------------------------------------------------------------------- the estimators
def answers(delta: float, t: int, s: int, q: Any, k: Any, v: Any, runs: int, **options: Any) -> np.ndarray:
    """Many caches of one stream, as leading axes: each has draws of its own."""
    many = (np.broadcast_to(x, (runs, *x.shape)) for x in (k, v))
    cache = SubGenCache(delta, t, s, rng=9, **options).update(*many)
    return cache.attend(np.broadcast_to(q, (runs, *q.shape)), scale=1.0)


@pytest.mark.parametrize("recent", [0, 5])
def test_numerator_is_unbiased_and_of_known_variance(recent: int) -> None:
    """At delta = 0 tau is exact: the answer's mean is attention, its variance THEORY section 5's over tau^2."""
    q, k, v = references.qkv(10, 3, 15, d=D, d_v=D_V)
    v *= np.exp(np.random.default_rng(0).normal(size=(15, 1)))
    runs, s, out = 3000, 4, len(k) - recent
    got = answers(0.0, 1, s, q, k, v, runs, recent=recent)
    want = references.attention(q, k, v, scale=1.0)[0]
    error = got - want
    z = error.mean(axis=0) / (error.std(axis=0) / np.sqrt(runs))
    assert abs(z).max() <= 6
    weights = np.exp(q @ k.T)
    exact = (v[:out] ** 2).sum() * (weights[:, :out] ** 2).sum(axis=1)
    variance = (exact - ((weights[:, :out] @ v[:out]) ** 2).sum(axis=1)) / s / weights.sum(axis=1) ** 2
    squares = (error**2).sum(axis=-1)
    assert abs((squares.mean(axis=0) - variance) / (squares.std(axis=0) / np.sqrt(runs))).max() <= 6


@pytest.mark.parametrize("options", [{}, {"max_clusters": 3}])
def test_normaliser_is_unbiased_and_of_known_variance(options: Any) -> None:
    k, v = blobs(11, 40, 4, 0.4)
    q = references.qkv(12, 3, 1, d=D)[0]
    runs, t = 1500, 3
    many = (np.broadcast_to(x, (runs, *x.shape)) for x in (k, v))
    cache = SubGenCache(0.3 if options else 1.0, t, 1, rng=2, **options).update(*many)
    assert options or len(cache.counts[0]) == 4
    m, o = normalisers(np, cache.heads, np.broadcast_to(q, (runs, *q.shape)), 1.0)
    tau = np.exp(m) * o[..., 0]
    want = np.exp(q @ k.T).sum(axis=1)
    z = (tau.mean(axis=0) - want) / (tau.std(axis=0) / np.sqrt(runs))
    assert abs(z).max() <= 6
    if not options:  # each cluster: count^2 / t times the variance of exp(<q, k>) over its members
        label = np.array([np.linalg.norm(cache.centers[0] - x, axis=1).argmin() for x in k])
        variance = sum(np.sum(label == i) ** 2 / t * np.exp(q @ k[label == i].T).var(axis=1) for i in range(4))
        squares = (tau - want) ** 2
        assert abs((squares.mean(axis=0) - variance) / (squares.std(axis=0) / np.sqrt(runs))).max() <= 6
    width = np.sinh(cache.radius[0] * np.linalg.norm(q, axis=1)) ** 2 / t
    assert (tau.var(axis=0) <= width * want**2).all()  # what SubGenCache promises of tau's relative variance
