"""Exact attention against plain loops; partials and their merge [RS21]."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import references
from hypothesis import given, settings
from hypothesis import strategies as st
from references import assert_close
from threadpoolctl import threadpool_limits

from sublinattn import Partial, attention, partial_attention
from sublinattn.core import backends, exact, timing

SIZES = st.integers(1, 26)


def run(xp: Any, arrays: list[np.ndarray], **options: Any) -> tuple[np.ndarray, np.ndarray]:
    """Output and lse on the host."""
    return references.on(xp, attention, arrays, return_lse=True, **options)


def finished(p: Partial) -> tuple[np.ndarray, np.ndarray]:
    """Output and lse of a partial, on the host."""
    return backends.asnumpy(p.output()), backends.asnumpy(p.lse())


@settings(max_examples=40)
@given(
    n_q=SIZES, n_k=SIZES, lead=st.sampled_from([(), (1,), (3,), (2, 2)]), d=st.integers(1, 5), d_v=st.integers(1, 4),
    causal=st.booleans(), size=st.sampled_from([0.5, 30.0]), scale=st.sampled_from([None, 0.0, -0.3, 1.0]),
)  # fmt: skip
def test_equals_the_loops(
    xp: Any, small_tiles: None, n_q: int, n_k: int, lead: Any, d: int, d_v: int, causal: bool, size: float, scale: Any
) -> None:
    """The two sizes are without and with a subtracted maximum."""
    arrays = references.qkv(n_q * 19 + n_k, n_q, n_k, lead=lead, d=d, d_v=d_v, size=size)
    expected = references.attention(*arrays, causal=causal, scale=scale)
    assert_close(run(xp, arrays, causal=causal, scale=scale), expected, atol=1e-11)


def test_halves_in_half_precision_merge_as_well_as_one_call(xp: Any) -> None:
    """Split-KV attention merges by the lse: rounded to float16 it was off by 0.06, and the output 12 times as far."""
    q, k, v = references.qkv(3, 64, 2048, d=64, dtype=np.float16)
    q, k = q + np.float16(1), k + np.float16(1)  # logits near 8, where float16 has steps of 1/128
    exact = references.attention(*(x.astype(float) for x in (q, k, v)))[0]
    one, _ = run(xp, (q, k, v))
    (o1, l1), (o2, l2) = (run(xp, (q, k[half], v[half])) for half in (slice(1024), slice(1024, None)))
    weight = 1 / (1 + np.exp(l2.astype(float) - l1))[:, None]
    merged = weight * o1 + (1 - weight) * o2
    assert l1.dtype == np.float32
    assert np.linalg.norm(merged - exact) <= 2 * np.linalg.norm(one - exact)


@pytest.mark.parametrize("causal", [False, True])
def test_natural_tiles_equal_a_dense_product(xp: Any, causal: bool) -> None:
    """Past the tile of the CPU in both directions."""
    arrays = references.qkv(0, 1300, 1100, d=8)
    assert_close(run(xp, arrays, causal=causal), references.dense_attention(*arrays, causal=causal), 1e-9, 1e-12)


@settings(max_examples=40)
@given(cuts=st.lists(st.integers(0, 17), max_size=4), order=st.randoms(use_true_random=False), large=st.booleans())
def test_any_split_merged_in_any_order_is_the_whole(
    xp: Any, small_tiles: None, cuts: list[int], order: Any, large: bool
) -> None:
    arrays = references.qkv(3, 6, 17, lead=(2,), size=40.0 if large else 1.0)
    q, k, v = (xp.asarray(x) for x in arrays)
    edges = sorted({0, 17, *cuts})
    parts = [partial_attention(q, k[:, a:b], v[:, a:b]) for a, b in zip(edges, edges[1:], strict=False)]
    parts.append(Partial.empty(xp, (2, 6), 3, np.float64))
    order.shuffle(parts)
    total = functools.reduce(lambda a, b: a.merge(b), parts)
    assert_close(finished(total), references.attention(*arrays), atol=1e-12)


def test_merge_works_in_place_and_returns_self(xp: Any) -> None:
    q, k, v = (xp.asarray(x) for x in references.qkv(1, 3, 5))
    first = partial_attention(q, k[:2], v[:2])
    sums = first.o
    assert first.merge(partial_attention(q, k[2:], v[2:])) is first
    assert first.o is sums


def test_rows_without_keys_give_zero_and_minus_infinity(xp: Any) -> None:
    out, lse = finished(Partial.empty(xp, (2,), 3, np.float32).merge(Partial.empty(xp, (2,), 3, np.float32)))
    np.testing.assert_array_equal(out, np.zeros((2, 3)))
    np.testing.assert_array_equal(lse, [-np.inf, -np.inf])


def test_minus_infinite_logits_are_masked_keys(xp: Any) -> None:
    """A tile of logits with one masked key and one fully masked row, then a second tile without any."""
    rng = np.random.default_rng(0)
    logits, v = rng.standard_normal((2, 1, 3, 4)), rng.standard_normal((2, 1, 4, 2))
    logits[0, 0, 0, 1] = logits[0, 0, 2] = -np.inf
    tile = exact.Softmax(xp, backends.Scratch(xp, np.dtype(np.float64)), shift=True)
    p = tile.start("p", 1, 3, 2)
    tile.absorb(p, xp.asarray(logits[0].copy()), xp.asarray(v[0]))  # works in the logits' own memory
    first = backends.asnumpy(p.output()).copy()
    np.testing.assert_array_equal(first[0, 2], [0, 0])
    weights = np.exp(logits[0, 0, 0])
    np.testing.assert_allclose(first[0, 0], weights @ v[0, 0] / weights.sum())
    tile.absorb(p, xp.asarray(logits[1].copy()), xp.asarray(v[1]))
    both = np.exp(np.concatenate(list(logits[:, 0]), axis=1))
    expected = both @ np.concatenate(list(v[:, 0])) / both.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(backends.asnumpy(p.output())[0], expected)


@pytest.mark.parametrize("size", [1.0, 50.0, 100.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_logits_of_ten_thousand_are_safe(xp: Any, size: float, dtype: Any) -> None:
    arrays = references.qkv(5, 30, 40, size=size, dtype=dtype)
    out, lse = run(xp, arrays, scale=1.0)
    expected_out, expected_lse = references.attention(*arrays, scale=1.0)
    assert size < 100 or abs(expected_lse).max() > 1e4
    # a logit x has a relative rounding error of d ulp, and so its exponential one of d ulp x
    tolerance = 8 * np.finfo(dtype).eps * max(1.0, abs(expected_lse).max())
    np.testing.assert_allclose(out, expected_out, rtol=0, atol=10 * tolerance)
    np.testing.assert_allclose(lse, expected_lse, rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_dtype_comes_back_and_half_precision_accumulates_in_single(xp: Any, dtype: Any) -> None:
    q, k, v = references.qkv(6, 300, 5000, dtype=dtype, size=0.1)
    out, lse = run(xp, [q, k, v])
    assert (out.dtype, lse.dtype) == (dtype, np.promote_types(dtype, np.float32))
    expected, expected_lse = references.attention(q[:4], k, v)
    eps = float(np.finfo(dtype).eps)
    slack = max(eps, 4e-6) if dtype is not np.float64 else 1e-12  # one rounding of the result, not 5000
    np.testing.assert_allclose(out[:4].astype(float), expected, rtol=slack, atol=min(slack, 1e-6))
    np.testing.assert_allclose(lse[:4].astype(float), expected_lse, rtol=slack)


def test_ml_dtypes_bfloat16_comes_back() -> None:
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    arrays = references.qkv(7, 9, 11, dtype=bfloat16)
    out = attention(*arrays)
    assert out.dtype == bfloat16
    expected, _ = references.attention(*arrays)
    np.testing.assert_allclose(out.astype(float), expected, rtol=2**-8, atol=2**-10)


def test_inputs_are_left_alone_and_may_be_views(xp: Any) -> None:
    arrays = references.qkv(8, 12, 14, lead=(2,), size=30.0)
    on_device = [xp.asarray(x) for x in arrays]
    out = backends.asnumpy(attention(*on_device))
    for x, before in zip(on_device, arrays, strict=True):
        np.testing.assert_array_equal(backends.asnumpy(x), before)
    flipped = [xp.asarray(np.ascontiguousarray(x.swapaxes(0, 1))).swapaxes(0, 1) for x in arrays]
    np.testing.assert_allclose(backends.asnumpy(attention(*flipped)), out, rtol=1e-12, atol=1e-13)


@settings(max_examples=40)
@given(
    n_q=SIZES, n_k=SIZES, lead=st.sampled_from([(), (2,)]), lists=st.integers(1, 3),
    group=st.sampled_from([1, 2, 3, 8]), causal=st.booleans(), size=st.sampled_from([0.5, 30.0]),
)  # fmt: skip
def test_grouped_heads_are_heads_whose_keys_are_repeated(
    xp: Any, small_tiles: None, n_q: int, n_k: int, lead: Any, lists: int, group: int, causal: bool, size: float
) -> None:
    """A group of 8 is more than the rows of a tile."""
    q, _, _ = references.qkv(n_q, n_q, 1, lead=(*lead, lists * group), size=size)
    _, k, v = references.qkv(n_k, 1, n_k, lead=(*lead, lists), size=size)
    repeated = (np.repeat(x, group, axis=-3) for x in (k, v))
    expected = references.attention(q, *repeated, causal=causal)
    assert_close(run(xp, [q, k, v], causal=causal, grouped=True), expected, atol=1e-11)


@pytest.mark.parametrize("causal", [False, True])
def test_memory_is_linear(causal: bool) -> None:
    """The output and a tile per thread, never the 64 MiB of 4096 x 4096 logits."""
    arrays = references.qkv(9, 4096, 4096, d=8, d_v=8, dtype=np.float32)
    with threadpool_limits(1, user_api="blas"):
        assert timing.peak_bytes(np, lambda: attention(*arrays, causal=causal)) < 8 * 2**20


@pytest.mark.parametrize("n_q", [1, 3, 40])
@pytest.mark.parametrize("size", [1.0, 300.0])
def test_few_queries_share_the_keys_among_threads(monkeypatch: pytest.MonkeyPatch, n_q: int, size: float) -> None:
    monkeypatch.setattr(exact, "SPLIT_LOGITS", 1)
    q, k, v = references.qkv(0, n_q, 1000, d=5, d_v=5)  # 1000 = 16 * 62 + 8
    pair = attention(size * q, k, v, return_lse=True, check_finite=False)
    assert_close(pair, references.dense_attention(size * q, k, v), 5e-13)
