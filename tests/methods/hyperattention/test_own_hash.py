"""Blocks by a query's own hash, against a loop over the queries; and that nothing depends on what comes later."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import references

from sublinattn import hyper_attention
from sublinattn.core import backends
from sublinattn.methods.hyperattention import own_hash
from sublinattn.methods.hyperattention.claims.algorithm4_causal import exact_limit
from sublinattn.methods.hyperattention.claims.algorithm4_normaliser import causal_mean
from sublinattn.methods.hyperattention.own_hash import OwnBlocks, own_blocks

SIZES = [(40, 40, 8), (37, 41, 7), (13, 60, 8), (60, 13, 4), (1, 30, 8), (30, 5, 8), (50, 64, 1)]


def drawn(n_q: int, n_k: int, bits: int, apart: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Buckets of three problems: many queries and keys share one; the last `apart` in order are marked."""
    rng = np.random.default_rng(n_q + bits)
    q, k, earlier = (np.minimum(rng.integers(2**bits, size=(3, n)), 2**bits - 2) for n in (n_q, n_k + apart, 11))
    for row in k:
        row[rng.choice(n_k + apart, apart, replace=False)] = 2**16 - 1
    return q.astype(np.uint16), k.astype(np.uint16), earlier.astype(np.uint16)


def first_place(bucket: int, i: int, n_q: int, keys: np.ndarray, b: int) -> int:
    """Where the block of query i of n_q begins among sorted buckets, as the head of `own_hash.py` has it."""
    lo, hi = int((keys < bucket).sum()), int((keys <= bucket).sum())
    rank = (lo + hi) // 2 + (2 * i + 1 - n_q) * max(hi - lo - b, 0) // (2 * n_q)
    return min(min(rank, len(keys) - 1) // b * b, len(keys) - b)


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("bits", [1, 3, 10])
@pytest.mark.parametrize("apart", [0, 2])
@pytest.mark.parametrize("tile", [1, 5])
def test_each_query_meets_the_keys_around_its_rank(
    xp: Any, sizes: tuple[int, int, int], bits: int, apart: int, tile: int
) -> None:
    n_q, n_k, b = sizes
    q, k, earlier = drawn(n_q, n_k, bits, apart)
    q_start, k_start = 100 + np.arange(3) * n_q, 7 + np.arange(3) * (n_k + apart)
    arrays = (xp.asarray(x) for x in (q, k))
    how: dict[str, Any] = {"earlier": xp.asarray(earlier), "block_size": b, "tile": tile, "apart": apart}
    blocks = own_blocks(xp, *arrays, q_start=q_start, k_start=k_start, **how)
    (group,) = blocks.groups
    q_rows, k_rows, first = (backends.asnumpy(x) for x in (group.q_rows, group.k_rows, group.first))
    order = np.argsort(k, axis=1, kind="stable")[:, :n_k] + k_start[:, None]
    np.testing.assert_array_equal(backends.asnumpy(blocks.k_order), order)
    seen = []
    for problem, rows, keys, start in zip(group.problem, q_rows, k_rows, first, strict=True):
        there = rows[rows >= 0]
        assert (rows[len(there) :] == -1).all() and (np.diff(there) > 0).all()  # nobody's rows last; by position
        np.testing.assert_array_equal(keys, order[problem, start : start + min(b, n_k)])
        for row in there:
            i, buckets = row - q_start[problem], np.sort(k[problem])[:n_k]
            assert start == first_place(int(q[problem, i]), i, n_q, buckets, min(b, n_k))
        seen += list(there)
    assert sorted(seen) == sorted((q_start[:, None] + np.arange(n_q)).ravel())
    assert len(q_rows) <= 3 * (n_q // tile + -(-n_k // b))
    ranks = np.stack([np.arange(11)[::-1]] * 3)
    rows, _, host = blocks.tests(xp, ranks)
    np.testing.assert_array_equal(backends.asnumpy(rows), q_start[:, None] - 11 + ranks)
    expected = [
        [first_place(int(earlier[p, i]), i, 11, np.sort(k[p])[:n_k], min(b, n_k)) for i in ranks[p]] for p in range(3)
    ]
    np.testing.assert_array_equal(host, expected)


def test_more_blocks_than_uint16_can_name(xp: Any) -> None:
    n = 2**16 + 5
    k = (np.arange(n) % 2**16).astype(np.uint16)[None]
    q = k[:, ::-1].copy()
    start = np.zeros(1, np.int64)
    how: dict[str, Any] = {"earlier": xp.asarray(q[:, :3]), "block_size": 1, "tile": 2}
    blocks = own_blocks(xp, xp.asarray(q), xp.asarray(k), q_start=start, k_start=start, **how)
    (group,) = blocks.groups
    rows, keys = backends.asnumpy(group.q_rows), backends.asnumpy(group.k_rows)[:, 0]
    for column in rows.T:
        there = column >= 0
        np.testing.assert_array_equal(q[0, column[there]], k[0, keys[there]])


# ------------------------------------------------------------------------------------------------- limits and estimates
@pytest.mark.parametrize(
    "case",
    [
        {"n": 128, "block_size": 16},
        {"n": 333, "block_size": 7},
        {"n": 250, "block_size": 16, "exact_keys": 5},
        {"n": 65, "block_size": 64},
        {"n": 90, "queries": 141, "block_size": 8, "exact_keys": [[3, 60], [5, 20]]},
        {"n": 141, "queries": 90, "block_size": 8, "exact_keys": 2},
    ],
)
def test_exact_where_every_key_is_sampled(xp: Any, case: dict[str, Any]) -> None:
    assert exact_limit(np.random.default_rng(0), xp, recursion="own hash", **case).measured < 1e-12


@pytest.mark.parametrize(
    "case", [{"n": 16, "block_size": 2, "sample_size": 3}, {"n": 13, "block_size": 3, "sample_size": 4}]
)
def test_unbiased(xp: Any, case: dict[str, Any]) -> None:
    """All samples of the squares, enumerated: normaliser and product come out right on average."""
    for recursion in ("paper", "own hash"):
        assert causal_mean(np.random.default_rng(1), xp, recursion=recursion, **case).measured < 1e-10


@pytest.mark.parametrize("estimator", ["practical", "theory"])
@pytest.mark.parametrize("n_q", [200, 260, 150])
def test_public_function_sees_nothing_later(xp: Any, estimator: Any, n_q: int) -> None:
    """To the bit, with draws that are the same; and where it is not asked for, a later query moves an output."""
    arrays = references.qkv(3, n_q, 200, lead=(2,), d=8, d_v=4, size=1.0)
    last, rng = n_q - 41, np.random.default_rng(4)
    later = [x.copy() for x in arrays]
    for x in later:
        x[:, last + 1 :] = rng.standard_normal(x[:, last + 1 :].shape)
    how: dict[str, Any] = {"block_size": 10, "sample_size": 12, "min_exact": 0, "exact_keys": [17, 60], "rng": 1}

    def change(block_by: Any) -> float:
        outs = [
            hyper_attention(*map(xp.asarray, x), causal=True, estimator=estimator, block_by=block_by, **how)
            for x in (arrays, later)
        ]
        return float(abs(np.subtract(*map(backends.asnumpy, outs)))[:, : last + 1].max())

    assert change("own-hash") == 0
    assert n_q == 150 or change("rank") > 1e-3


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_kernel_sees_nothing_later(kernel_xp: Any, dtype: Any) -> None:
    """The GPU's kernel: tiles of fixed shape, and each row's reference moves by itself."""
    rng = np.random.default_rng(0)
    arrays = [(3 * rng.standard_normal((2, 300, 32))).astype(dtype) for _ in range(3)]
    later = [x.copy() for x in arrays]
    for x in later:
        x[:, 240:] = rng.standard_normal((2, 60, 32)).astype(dtype)
    how: dict[str, Any] = {"causal": True, "block_by": "own-hash", "block_size": 20, "sample_size": 20, "min_exact": 0}
    out, other = (backends.asnumpy(hyper_attention(*map(kernel_xp.asarray, x), rng=2, **how)) for x in (arrays, later))
    np.testing.assert_array_equal(out[:, :240].view(np.uint16), other[:, :240].view(np.uint16))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
def test_dtypes_and_leading_axes(xp: Any, dtype: Any) -> None:
    arrays = references.qkv(5, 130, 130, lead=(2, 3), d=8, d_v=5, size=1.0)
    how: dict[str, Any] = {"causal": True, "block_by": "own-hash", "block_size": 8, "sample_size": 8, "min_exact": 16}
    expected = hyper_attention(*arrays, **how, rng=0)
    out, lse = hyper_attention(*(xp.asarray(x.astype(dtype)) for x in arrays), **how, rng=0, return_lse=True)
    assert out.dtype == dtype and lse.shape == (2, 3, 130)
    if dtype in (np.float32, np.float64):
        np.testing.assert_allclose(backends.asnumpy(out), expected, atol=1e-4)
    else:  # rounding the rows may move one of them to another bucket
        close = np.isclose(backends.asnumpy(out).astype(float), expected, atol=0.05).all(axis=-1)
        assert close.mean() > 0.8


def test_a_tile_shape_is_a_matter_of_sizes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of queries are as long as the sizes say, however the queries are spread over the blocks."""
    seen: list[tuple[int, ...]] = []
    make = own_hash.own_blocks

    def noted(*args: Any, **how: Any) -> OwnBlocks:
        blocks = make(*args, **how)
        seen.append(blocks.groups[0].q_rows.shape[1:])
        return blocks

    monkeypatch.setattr("sublinattn.methods.hyperattention.own_hash.own_blocks", noted)
    rng = np.random.default_rng(0)
    for q in (rng.standard_normal((128, 8)), np.ones((128, 8))):
        k, v = rng.standard_normal((2, 128, 8))
        hyper_attention(q, k, v, causal=True, block_by="own-hash", block_size=16, sample_size=16, min_exact=0, rng=0)
    assert seen == [(math.ceil(16 / 2),)] * 6


# ------------------------------------------------------------------------------------------------------------ bad input
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"causal": True, "block_by": "hash"}, "block_by must be 'rank', 'own-hash' or None, got 'hash'"),
        ({"causal": True, "block_by": 1}, "block_by must be 'rank', 'own-hash' or None, got 1"),
        ({"block_by": "own-hash"}, "block_by is only for causal=True, got 'own-hash' with causal=False"),
        ({"block_by": "rank"}, "block_by is only for causal=True, got 'rank' with causal=False"),
    ],
)
def test_bad_input(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        hyper_attention(*references.qkv(0, 20, 20), **options)
