"""Reformer's LSH attention, against loops over rounds, queries and keys."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import references

from sublinattn import reformer_attention
from sublinattn.methods.baselines import reformer


def reach(q: Any, k: Any, rotations: Any, sizes: tuple[int, ...], c: int) -> np.ndarray:
    """Whether some round puts key j within reach of query i."""
    seen = np.zeros((len(q), len(k)), bool)
    t = math.ceil(c * len(q) / len(k))
    for r in range(rotations.shape[1]):

        def bucket(x: np.ndarray, r: int = r) -> int:
            number, first, unit = 0, 0, 1
            for size in sizes:
                sides = x @ rotations[:, r, first : first + size // 2]
                number += unit * int(np.argmax(np.concatenate([sides, -sides])))
                first, unit = first + size // 2, unit * size
            return number

        q_order, k_order = (sorted(range(len(x)), key=lambda i, x=x: (bucket(x[i]), i)) for x in (q, k))
        for rank, i in enumerate(q_order):
            start = (rank // t - 1) * c
            for place in range(start, start + 2 * c):
                seen[i, k_order[place % len(k)]] = True
    return seen


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("n_q", "n_k"), [(32, 32), (37, 37), (20, 37), (37, 25)])
@pytest.mark.parametrize(("rounds", "buckets"), [(1, 6), (3, 6), (2, (2, 4)), (2, None)])
def test_is_exact_attention_over_the_keys_in_reach(
    xp: Any, small_tiles: None, causal: bool, n_q: int, n_k: int, rounds: int, buckets: Any
) -> None:
    c = 4
    q, k, v = references.qkv(0, n_q, n_k, lead=(2,))
    options: dict[str, Any] = {"chunk_size": c, "rounds": rounds, "buckets": buckets, "causal": causal, "rng": 1}
    out, lse = references.on(xp, reformer_attention, [q, k, v], return_lse=True, **options)
    if causal and n_q < n_k:
        k, v = k[:, :n_q], v[:, :n_q]
    sizes = buckets if isinstance(buckets, tuple) else (buckets or 2 * math.ceil(n_k / c),)
    drawn = np.random.default_rng(1).standard_normal((2, 4, rounds, sum(sizes) // 2), dtype=np.float32)
    for b in range(2):
        seen = reach(q[b], k[b], drawn[b], sizes, c)
        assert not seen.all()
        if causal:
            seen = np.tril(seen | np.eye(*seen.shape, dtype=bool))
        logits = np.where(seen, q[b] @ k[b].T / 2, -np.inf)
        with np.errstate(divide="ignore"):
            want = np.log(np.exp(logits).sum(axis=1))
        np.testing.assert_allclose(lse[b], want, rtol=1e-10)
        np.testing.assert_allclose(out[b], np.exp(logits - want[:, None]) @ v[b], rtol=1e-9, atol=1e-12)


def test_more_rounds_reach_more_keys() -> None:
    arrays = references.qkv(2, 200, 200)
    exact = references.attention(*arrays)[1]
    lse = [reformer_attention(*arrays, chunk_size=8, rounds=r, rng=0, return_lse=True)[1] for r in (1, 4, 16)]
    assert (lse[0].mean() < lse[1].mean() < lse[2].mean() < exact.mean()) and all(
        (x <= exact + 1e-12).all() for x in lse
    )


def test_many_buckets_are_pairs() -> None:
    """Default: one hash up to 64 buckets, two whose product is about as large past that."""
    few, many = (reformer.default_factors(n, 64) for n in (2048, 32768))
    assert few == (64,) and many == (32, 32)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"chunk_size": 0}, ValueError, "chunk_size must be at least 1, got 0"),
        ({"rounds": 0}, ValueError, "rounds must be at least 1, got 0"),
        ({"buckets": 5}, ValueError, r"buckets must be even \(each direction and its opposite\), got 5"),
        ({"buckets": (4, 3)}, ValueError, r"buckets must be even .* got \(4, 3\)"),
        ({"buckets": ()}, ValueError, "buckets must name at least one hash, got none"),
        ({"buckets": 0}, ValueError, "buckets must be at least 2, got 0"),
        ({"buckets": 2.0}, TypeError, "buckets must be an integer, got float"),
    ],
)
def test_parameters_are_checked(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{message}"):
        reformer_attention(*references.qkv(0, 4, 6), **options)
