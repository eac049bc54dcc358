"""Hamming-sorted LSH: the Gray code, the buckets, the blocks of the sortLSH mask [KDE23, HA24]."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import references
from hypothesis import given, settings
from hypothesis import strategies as st

from sublinattn.core import backends
from sublinattn.methods.hyperattention.sort_lsh import (
    MAX_BITS,
    buckets,
    default_bits,
    gray_rank,
    hyperplanes,
    sort_blocks,
)


@pytest.mark.parametrize("bits", range(1, MAX_BITS + 1))
def test_gray_rank_is_a_bijection_and_neighbours_differ_in_one_bit(xp: Any, bits: int) -> None:
    codes = np.arange(2**bits, dtype=np.uint16)
    rank = backends.asnumpy(gray_rank(xp.asarray(codes)))
    assert rank.dtype == np.uint16
    np.testing.assert_array_equal(np.sort(rank), codes)
    in_order = np.argsort(rank)
    assert set(np.bitwise_count(in_order ^ np.roll(in_order, 1)).tolist()) == {1}  # the last and the first too


@settings(max_examples=60)
@given(
    batch=st.integers(1, 3), n=st.integers(1, 30), d=st.integers(1, 5), bits=st.integers(1, MAX_BITS),
    dtype=st.sampled_from([np.float32, np.float64]),
)  # fmt: skip
def test_bucket_is_the_place_of_the_sign_bits_in_the_gray_code(
    xp: Any, batch: int, n: int, d: int, bits: int, dtype: Any
) -> None:
    rng = np.random.default_rng(n)
    x, planes = rng.standard_normal((batch, n, d)).astype(dtype), hyperplanes(rng, batch, d, bits)
    bucket = references.on(xp, partial(buckets, xp), [x, planes])
    assert bucket.dtype == np.uint16 and bucket.shape == (batch, n)
    place = bucket.astype(int)
    code = place ^ (place >> 1)  # the code word at that place
    expected = sum((np.einsum("bnd,bd->bn", x, planes[:, :, i]) > 0) * 2**i for i in range(bits))
    np.testing.assert_array_equal(code, expected)


def test_buckets_past_one_tile_of_rows() -> None:
    """More than one tile of the CPU; opposite points differ in every bit; length does not matter."""
    rng = np.random.default_rng(0)
    x, planes = rng.standard_normal((1, 40001, 8)), hyperplanes(rng, 1, 8, 7)
    place = buckets(np, x, planes).astype(int)
    code = place ^ (place >> 1)
    opposite = buckets(np, -3 * x, planes).astype(int)
    np.testing.assert_array_equal(code ^ opposite ^ (opposite >> 1), np.full((1, 40001), 127))
    np.testing.assert_array_equal(code[0], sum((x[0] @ planes[0, :, i] > 0) * 2**i for i in range(7)))


@pytest.mark.parametrize(
    ("n", "block", "bits"),
    [(1, 5, 1), (256, 256, 1), (257, 256, 1), (512, 256, 1), (513, 256, 2), (131072, 256, 9), (2**30, 2, 16)],
)
def test_default_bits(n: int, block: int, bits: int) -> None:
    assert default_bits(n, block) == bits


@settings(max_examples=60)
@given(
    p=st.integers(1, 3),
    n_q=st.integers(1, 40),
    n_k=st.integers(1, 40),
    block=st.integers(1, 45),
    bits=st.integers(1, 5),
)
def test_blocks_cover_every_query_once_and_cut_both_orders(
    xp: Any, p: int, n_q: int, n_k: int, block: int, bits: int
) -> None:
    rng = np.random.default_rng(n_q)
    q, k = (rng.integers(2**bits, size=(p, n)).astype(np.uint16) for n in (n_q, n_k))
    q_start, k_start = np.arange(p) * n_q, np.arange(p) * n_k
    blocks = sort_blocks(xp, xp.asarray(q), xp.asarray(k), block_size=block, q_start=q_start, k_start=k_start)
    q_order, k_order = backends.asnumpy(blocks.q_order), backends.asnumpy(blocks.k_order)
    for order, bucket, start in ((q_order, q, q_start), (k_order, k, k_start)):
        np.testing.assert_array_equal(order, np.argsort(bucket, axis=1, kind="stable") + start[:, None])
    assert blocks.block_size == block
    t = blocks.q_block_size
    assert (t - 1) * n_k < block * n_q <= t * n_k  # proportional ranks, rounded up
    seen = []
    for group in blocks.groups:
        q_rows, k_rows = backends.asnumpy(group.q_rows), backends.asnumpy(group.k_rows)
        for i, (problem, place) in enumerate(zip(group.problem, group.block, strict=True)):
            np.testing.assert_array_equal(q_rows[i], q_order[problem, place * t : (place + 1) * t])
            np.testing.assert_array_equal(k_rows[i], k_order[problem, place * block : (place + 1) * block])
            assert k_rows[i].size > 0
            seen.append(q_rows[i])
    np.testing.assert_array_equal(np.sort(np.concatenate(seen)), np.arange(p * n_q))


def test_hyperplanes_are_drawn_per_problem_from_the_seed() -> None:
    first, second = hyperplanes(np.random.default_rng(1), 2, 3, 4)
    assert abs(first - second).min() > 0
    np.testing.assert_array_equal(first, hyperplanes(np.random.default_rng(1), 2, 3, 4)[0])


@pytest.mark.parametrize("angle", [0.3, 1.0, 2.5])
def test_a_hyperplane_separates_two_points_with_probability_angle_over_pi(angle: float) -> None:
    """Of 48000 hyperplanes, in directions that are not the axes': 5.5 standard deviations, false alarms 4e-8."""
    planes = hyperplanes(np.random.default_rng(2), 3000, 6, 16)
    first, second = np.linalg.qr(np.random.default_rng(3).standard_normal((6, 2)))[0].T
    other = np.cos(angle) * first + np.sin(angle) * second
    apart = int(np.count_nonzero((first @ planes > 0) != (other @ planes > 0)))
    p = angle / np.pi
    assert abs(apart - 48000 * p) <= 5.5 * (48000 * p * (1 - p)) ** 0.5
