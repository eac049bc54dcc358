"""What the one-pass sketch refuses, and that it is then as it was: to the byte of its file, and in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_sketches import D_V, D, N, absorbed, assert_close, contents, make, rows

VARIANTS = ["paper", "fused"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_merging_refuses(variant: str, tmp_path: Path) -> None:
    q, k, v = rows(np, 7)
    one = make(variant).absorb_keys(k[:30], v[:30])
    before = contents(one, tmp_path)

    def refuses(other: Any, error: Any, message: str) -> None:
        with pytest.raises(error, match=f"^{message}"):
            one.merge(other)
        assert contents(one, tmp_path) == before

    refuses({}, TypeError, "other must be a OnePassSketch, got dict")
    refuses(make(variant, rng=1), ValueError, "other must have this sketch's hashes")
    parameters = "other must have this sketch's parameters"
    for options in ({"degree": 5}, {"sparsity": 4}, {"eps1": 0.7}, {"eps2": 0.4}, {"scale": 1.0}, {"n": N + 1}):
        refuses(make(variant, **options), ValueError, parameters)
    refuses(make("fused" if variant == "paper" else "paper"), ValueError, parameters)
    narrow = make(variant).absorb_keys(*(x[30:].astype(np.float32) for x in (k, v)), start=30)
    refuses(narrow, TypeError, "other must have rows of dtype float64, got float32")
    refuses(make(variant).absorb_keys(k[29:], v[29:], start=29), ValueError, "k must bring each index once")
    refuses(one, ValueError, "k must bring each index once")
    refuses(absorbed(variant, q, k, v), ValueError, "other must have absorbed all 60 keys .* queries, got 30")
    one = make(variant).absorb_keys(k, v).absorb_queries(q[:30])
    before = contents(one, tmp_path)
    refuses(make(variant), ValueError, "other must have absorbed all 60 keys once there are queries, got 0")
    refuses(
        make(variant).absorb_keys(k, v).absorb_queries(q[29:], start=29), ValueError, "q must bring each index once"
    )
    for other_k, other_v in ((k[::-1] * 1.01, v), (k, v * 1.01)):  # the normaliser sees the keys only
        other = make(variant).absorb_keys(other_k, other_v).absorb_queries(q[30:], start=30)
        refuses(other, ValueError, "other must have absorbed the same keys .* sums that differ")


@pytest.mark.parametrize("variant", VARIANTS)
def test_order_and_ranges(variant: str, tmp_path: Path) -> None:
    q, k, v = rows(np, 8)
    sketch = make(variant)

    def refuses(error: Any, message: str, method: str, *rows: Any, **options: Any) -> None:
        before, bytes_before = contents(sketch, tmp_path), sketch.nbytes
        with pytest.raises(error, match=f"^{message}"):
            getattr(sketch, method)(*rows, **options)
        assert contents(sketch, tmp_path) == before and sketch.nbytes == bytes_before

    refuses(ValueError, "absorb_queries needs all 60 keys first, got 0", "absorb_queries", q)
    refuses(ValueError, "k must have its rows below n = 60, got rows 1 to 60", "absorb_keys", k, v, start=1)
    refuses(ValueError, "start must be at least 0", "absorb_keys", k, v, start=-1)
    refuses(TypeError, "start must be an integer", "absorb_keys", k, v, start=1.0)
    sketch.absorb_keys(k[:59], v[:59])
    refuses(ValueError, "absorb_queries needs all 60 keys first, got 59", "absorb_queries", q)
    refuses(ValueError, "decode needs all 60 queries first, got 0", "decode")
    refuses(ValueError, "k must bring each index once, got rows 58 to 59 after", "absorb_keys", k[:2], v[:2], start=58)
    refuses(ValueError, "k must have its rows below n", "absorb_keys", k[:2], v[:2])
    narrow = [x[59:].astype(np.float32) for x in (q, k, v)]
    refuses(
        TypeError, r"k must have the dtype of the rows before it \(float64\), got float32", "absorb_keys", *narrow[1:]
    )
    for bad in (np.nan, np.inf):
        refuses(ValueError, "v must be finite", "absorb_keys", k[59:], np.full((1, D_V), bad))
        refuses(ValueError, "k must be finite", "absorb_keys", np.full((1, D), bad), v[59:])
    refuses(ValueError, r"v must have shape \(2,\) or \(c, 2\), got \(1, 3\)", "absorb_keys", k[59:], k[59:])
    refuses(ValueError, "v must have as many rows as k", "absorb_keys", k[59:], v)
    sketch.absorb_keys(k[59:], v[59:])
    refuses(TypeError, "q must have the dtype of the rows before it", "absorb_queries", narrow[0])
    refuses(ValueError, "q must be finite", "absorb_queries", q * np.inf)
    sketch.absorb_queries(q[:40])
    refuses(ValueError, "absorb_keys must come before all queries, got keys after 40 queries", "absorb_keys", k, v)
    refuses(ValueError, "q must bring each index once, got rows 39 to 40", "absorb_queries", q[39:41], start=39)
    refuses(ValueError, "q must have its rows below n = 60", "absorb_queries", q[:30])
    refuses(ValueError, "decode needs all 60 queries first, got 40", "decode")
    refuses(ValueError, r"method must be one of \('identify', 'scan'\), got 'guess'", "decode", "guess")
    sketch.absorb_queries(q[40:])
    assert_close(sketch, absorbed(variant, q, k, v))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_normaliser_that_is_not_positive(xp: Any, variant: str, tmp_path: Path) -> None:
    q, k, v = rows(xp, 9)
    sketch = make(variant, degree=1).absorb_keys(k * 0 + 1, v)
    before, bytes_before = contents(sketch, tmp_path), sketch.nbytes
    bad = q * 1
    bad[30] = -5.0
    with pytest.raises(ValueError, match="^degree must be high enough .* got 1 and a row sum of -"):
        sketch.absorb_queries(bad)
    assert contents(sketch, tmp_path) == before and sketch.nbytes == bytes_before
    sketch.absorb_queries(q * 0.1)
    assert_close(sketch, absorbed(variant, q * 0.1, k * 0 + 1, v, degree=1))


@pytest.mark.parametrize("variant", VARIANTS)
def test_features_that_would_overflow(variant: str, tmp_path: Path) -> None:
    q, k, v = rows(np, 10, dtype=np.float32)
    sketch = make(variant).absorb_keys(k, v)
    before = contents(sketch, tmp_path)
    with pytest.raises(ValueError, match=r"^q must have rows whose norm to the power of the degree \(4\) is below"):
        sketch.absorb_queries(np.float32(1e12) * q)
    assert contents(sketch, tmp_path) == before
    with pytest.raises(ValueError, match=r"^k must have rows whose norm to the power of the degree \(4\) is below"):
        make(variant).absorb_keys(np.float32(1e12) * k, v)
