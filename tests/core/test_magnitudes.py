"""Finite in, finite out, or refused by name: scales, logits and values near the ends of their dtype's range."""

from __future__ import annotations

import numpy as np
import pytest

from sublinattn import (
    BalanceKVCache,
    ExactCache,
    HeavyHitterCache,
    OnePassSketch,
    PolynomialState,
    ReservoirCache,
    SinkCache,
    SubGenCache,
    attention,
    hyper_attention,
    kdeformer_attention,
    nystrom_attention,
    performer_attention,
    polynomial_attention,
    reformer_attention,
    thinformer_attention,
)
from sublinattn.core import backends
from sublinattn.core.exact import partial_attention
from sublinattn.methods.baselines.uniform import uniform_attention
from sublinattn.methods.hyperattention.hardness import hardness

N, D = 60, 4


def cached(make):
    def answer(q, k, v, *, scale):
        cache = make().update(k, v)
        few = cache.attend(q[:2], scale=scale)  # few queries take another way than many
        return np.concatenate([few, cache.attend(q[2:], scale=scale)])

    return answer


def exactly(q, k, v, *, scale):
    """In long double."""
    q, k, v = (x.astype(np.longdouble) for x in (q, k, v))
    logits = np.longdouble(scale) * (q @ k.T)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True) @ v


def hyper(q, k, v, **options):
    return hyper_attention(q, k, v, rng=0, min_exact=0, block_size=N // 4, sample_size=N, **options)


def state(q, k, v, *, scale):
    return PolynomialState(D, D, degree=2, scale=scale).update(k, v).attend(q)


def sketch(variant):
    def answer(q, k, v, *, scale):
        parameters = {"degree": 2, "sparsity": 3, "eps1": 0.5, "eps2": 0.5, "variant": variant}
        made = OnePassSketch(N, D, D, scale=scale, rng=0, **parameters).absorb_keys(k, v).absorb_queries(q)
        return made.decode().values

    return answer


EXACT = {
    "attention": attention,
    "ExactCache": cached(ExactCache),
    "SinkCache": cached(lambda: SinkCache(N)),
    "HeavyHitterCache": cached(lambda: HeavyHitterCache(N, 0)),
    "ReservoirCache": cached(lambda: ReservoirCache(N, rng=0)),
}
ESTIMATES = {
    "hyper": hyper,
    "hyper causal": lambda *x, **o: hyper(*x, causal=True, **o),
    "theory": lambda *x, **o: hyper(*x, estimator="theory", **o),
    "uniform": lambda *x, **o: uniform_attention(*x, sample_size=10, rng=0, **o),
    "uniform causal": lambda *x, **o: uniform_attention(*x, sample_size=10, rng=0, causal=True, **o),
    "performer": lambda *x, **o: performer_attention(*x, features=16, rng=0, **o),
    "performer causal": lambda *x, **o: performer_attention(*x, features=16, rng=0, causal=True, **o),
    "nystrom": lambda *x, **o: nystrom_attention(*x, landmarks=8, **o),
    "reformer": lambda *x, **o: reformer_attention(*x, chunk_size=8, rng=0, **o),
    "reformer causal": lambda *x, **o: reformer_attention(*x, chunk_size=8, rng=0, causal=True, **o),
    "kdeformer": lambda *x, **o: kdeformer_attention(*x, block_size=8, kde_queries=9, rng=0, **o),
    "thinformer": lambda *x, **o: thinformer_attention(*x, oversampling=0, rng=0, **o),
    "SubGenCache": cached(lambda: SubGenCache(1.0, 2, 4, rng=0)),
    "SubGenCache with a window": cached(lambda: SubGenCache(1.0, 2, 4, recent=9, rng=0)),
    "polynomial": lambda *x, **o: polynomial_attention(*x, degree=4, **o),
    "polynomial causal": lambda *x, **o: polynomial_attention(*x, degree=4, causal=True, **o),
    "PolynomialState": state,
    "OnePassSketch": sketch("paper"),
    "OnePassSketch, fused": sketch("fused"),
    "hardness": lambda q, k, v, *, scale: hardness(q, k, v, scale=scale, rng=0).column_norms,
}
# Factors of q, k and v as powers of the largest float, and the scale likewise.
EXTREMES = {
    "a large scale": (-0.3, -0.3, 0, 0.55),
    "a small scale": (0.3, 0.3, 0, -0.6),
    "small queries": (-0.6, 0, 0, 0.6),
    "large keys": (-0.7, 0.7, 0, 0),
    "large values": (0, 0, 0.98, 0),
    "large values and logits near 40": (0.02, 0.02, 0.6, 0),
    "values whose squares overflow": (0, 0, 0.51, 0),
    "logits that overflow": (0.6, 0.6, 0, 0),
    "a scale that overflows": (0, 0, 0, 0.999),
    "everything large": (0.9, 0.9, 0.9, 0.9),
    "everything small": (-0.9, -0.9, -0.9, -0.9),
}


def arrays(dtype, extreme):
    rng, largest = np.random.default_rng(0), float(np.finfo(dtype).max)
    q, k, v = (rng.uniform(-1, 1, (N, D)).astype(dtype) for _ in range(3))
    *factors, scale = (largest**power for power in EXTREMES[extreme])
    return [x * dtype(factor) for x, factor in zip((q, k, v), factors, strict=True)], scale


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("extreme", EXTREMES)
@pytest.mark.parametrize("name", EXACT)
def test_exact_answers_are_right_where_the_logits_fit(name, extreme, dtype):
    """Attention has an answer whenever its logits do: no product on the way may overflow or vanish."""
    (q, k, v), scale = arrays(dtype, extreme)
    if extreme in ("logits that overflow", "a scale that overflows", "everything large"):
        with pytest.raises(ValueError, match=r"must fit in float"):
            EXACT[name](q, k, v, scale=scale)
    else:
        got, want = EXACT[name](q, k, v, scale=scale), exactly(q, k, v, scale=scale)
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * float(abs(want).max()))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("extreme", EXTREMES)
@pytest.mark.parametrize("name", ESTIMATES)
def test_estimates_are_finite_or_refused(name, extreme, dtype):
    (q, k, v), scale = arrays(dtype, extreme)
    try:
        out = ESTIMATES[name](q, k, v, scale=scale)
    except ValueError as error:
        assert "finite" in str(error) or "fit in" in str(error) or "must" in str(error)
        assert extreme not in ("large values", "values whose squares overflow") or not name.startswith("hyper")
    else:
        assert np.isfinite(out).all()


@pytest.mark.parametrize(("scale", "size"), [(2.0**50, 2.0**100), (2.0**70, 2.0**58)])
def test_weighted_keys_are_summed_where_the_logits_fit(scale, size):
    """Scaled queries alone overflow here."""
    q, k, v = (x.astype(np.float32) for x in np.random.default_rng(0).uniform(-1, 1, (3, N, D)))
    q, k = q * np.float32(size), k * np.float32(8 / (scale * size))
    want = exactly(q, k, v, scale=scale)
    got = BalanceKVCache(N, rng=0).update(k, v).attend(q, scale=scale)  # which keeps every token
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * float(abs(want).max()))
    assert np.isfinite(ReservoirCache(N, "value-norm", rng=0).update(k, v).attend(q, scale=scale)).all()


def test_partials_of_large_values_merge_into_the_whole():
    (q, k, v), scale = arrays(np.float32, "large values")
    parts = [partial_attention(q, k[at], v[at], scale=scale) for at in (slice(20), slice(20, N))]
    want = exactly(q, k, v, scale=scale)
    got = parts[0].merge(parts[1])
    np.testing.assert_allclose(got.output(), want, rtol=0, atol=1e-4 * float(abs(want).max()))
    np.testing.assert_allclose(got.lse(), attention(q, k, v, scale=scale, return_lse=True)[1], rtol=1e-5)


def test_a_refused_query_leaves_no_trace_in_the_scores():
    (q, k, v), _ = arrays(np.float32, "large values")
    cache, fresh = (HeavyHitterCache(N, 0).update(k, v) for _ in range(2))
    with pytest.raises(ValueError, match="must fit in float"):
        cache.attend(q * np.float32(1e38), scale=1e15)
    np.testing.assert_array_equal(cache.attend(q), fresh.attend(q))
    np.testing.assert_array_equal(cache.contents()["scores"], fresh.contents()["scores"])


def test_an_answer_past_the_largest_float16_is_refused():
    _, _, leave = backends.enter(q=np.ones(3, np.float16))
    assert leave(np.full(3, 65504, np.float32)).dtype == np.float16
    with pytest.raises(ValueError, match=r"must fit in float16, got 7e\+04: pass q, k and v as float32"):
        leave(np.full(3, 7e4, np.float32))


def test_no_answer_of_subgen_is_larger_than_all_values_together():
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((3000, 64)).astype(np.float32) for _ in range(3))
    cache = SubGenCache.within(60000, 64, 64, delta=0.1, cluster_samples=2, value_samples=16, rng=0).update(k, v)
    for spread in (1, 10, 30, 50):
        assert abs(cache.attend(q[:50] * np.float32(spread))).max() <= np.linalg.norm(v) * 1.001


def test_the_cost_of_a_degree_is_known_before_it_is_paid():
    for d, degree, count in ((8, 10**7, "2.48e\\+51"), (10**6, 10**6, "10\\^602057"), (2, 10**7, "5.00e\\+13")):
        with pytest.raises(ValueError, match=rf"has {count} monomials, at most"):
            PolynomialState(d, 1, degree=degree)


@pytest.mark.parametrize("size", [1e9, 1e15])
def test_kernels_of_long_keys_do_not_overflow(size):
    """A product of two keys rounds to more than the square of the longest one: by much, where both are large."""
    q, k, v = (x.astype(np.float32) for x in np.random.default_rng(0).standard_normal((3, 60, 4)))
    q, k = q / np.float32(size), k * np.float32(size)
    assert np.isfinite(thinformer_attention(q, k, v, oversampling=0, rng=0)).all()
    assert np.isfinite(BalanceKVCache(8, rng=0).update(k, v).attend(q)).all()


def test_arrays_of_the_other_byte_order():
    q, k, v = np.random.default_rng(0).standard_normal((3, 60, 4))
    for method in (attention, kdeformer_attention, reformer_attention, thinformer_attention):
        draws = {} if method is attention else {"rng": 0}
        swapped = method(*(x.astype(x.dtype.newbyteorder()) for x in (q, k, v)), **draws)
        np.testing.assert_array_equal(swapped, method(q, k, v, **draws))
