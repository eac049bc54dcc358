"""Thinformer's coreset, against kernel halving in plain loops, for any number of keys."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import references

from sublinattn import attention, thinformer_attention, uniform_attention
from sublinattn.core import backends
from sublinattn.methods.baselines import thinformer
from sublinattn.methods.baselines.common import enter


def plain(k: Any, v: Any, scale: float, g: int, delta: float, draws: Any, problem: int) -> dict[int, float]:
    """Keys of one problem that are kept, and their weights."""
    n = len(k)
    rounds = max(0, math.ceil(math.log2(n) / 2 - g - 1e-12))
    shift, bound = scale * max(x @ x for x in k), np.abs(v).max() ** 2
    kernel = np.exp(scale * (k @ k.T) - shift) * (v @ v.T + bound)
    keys, aside, drawn, size = list(range(n)), {}, iter(draws), 4 ** (g + 1)
    for i in range(rounds):
        if len(keys) % 2:
            aside[keys.pop()] = 2.0**i
        kept = []
        whole = len(keys) // size * size
        for start, stop, s in ((0, whole, size), (whole, len(keys), len(keys) - whole)):
            if start == stop:
                continue
            numbers, coins = next(drawn)
            for b, first in enumerate(range(start, stop, s)):
                kept += halved(keys[first : first + s], kernel, numbers[problem, b], coins[problem, b],
                               0.5 + math.log(2 / (delta / 4 ** (g + 1) / rounds / n * s)))  # fmt: skip
        keys, size = kept, 2 * size
    return {**dict.fromkeys(keys, 2.0**rounds), **aside}


def halved(keys: list[int], kernel: Any, numbers: Any, coin: int, factor: float) -> list[int]:
    pairs = list(zip(keys[::2], keys[1::2], strict=True))

    def between(p: tuple[int, int], r: tuple[int, int]) -> float:
        return kernel[p[0], r[0]] - kernel[p[0], r[1]] - kernel[p[1], r[0]] + kernel[p[1], r[1]]

    first, largest = [0], math.sqrt(between(pairs[0], pairs[0]))
    for i, p in enumerate(pairs[1:], 1):
        size = math.sqrt(between(p, p))
        largest = max(largest, size)
        signed = sum((1 - 2 * first[j]) * between(pairs[j], p) for j in range(i))
        first.append(int(factor * numbers[i] * size * largest <= signed))
    return [p[choice ^ coin] for p, choice in zip(pairs, first, strict=True)]


@pytest.mark.parametrize(("n", "g"), [(16, 0), (64, 0), (50, 0), (23, 0), (64, 1), (101, 1), (37, 1), (9, 0), (3, 0)])
def test_coreset_is_that_of_plain_loops(xp: Any, n: int, g: int) -> None:
    rng = np.random.default_rng(n)
    q, k, v = references.qkv(n, 3, n, lead=(2,))
    x = enter(*map(xp.asarray, (q, k, v)), scale=None, check_finite=True)
    batches = sum(thinformer.schedule(n, g, thinformer.halving_rounds(n, g)), [])
    draws = [(rng.uniform(-1, 1, (2, m, s // 2)), rng.integers(2, size=(2, m))) for m, s in batches]
    rows, weights = thinformer.coreset(x, g, 0.5, draws)
    assert weights.sum() == n and weights.max() * 2**g < 2 * math.sqrt(n)
    left = int((weights == weights.max()).sum())
    assert left <= 2**g * math.sqrt(n) < 2 * left + 2
    for b in range(2):
        want = plain(k[b], v[b], 0.5, g, 0.5, draws, b)
        assert dict(zip(backends.asnumpy(rows)[b].tolist(), weights.tolist(), strict=True)) == want


def test_is_weighted_attention_over_the_coreset(xp: Any, small_tiles: None) -> None:
    """Values that name their keys: with zero queries the output is the weights over n."""
    n = 45
    q, k, _ = references.qkv(1, 4, n, lead=(2,))
    out, lse = references.on(
        xp, thinformer_attention, [0 * q, k, np.broadcast_to(np.eye(n), (2, n, n)).copy()], oversampling=0, rng=0,
        return_lse=True,
    )  # fmt: skip
    weights = np.round(out[:, 0] * n, 9)
    assert set(weights.ravel()) == {0, 1, 4, 8} and (weights.sum(axis=1) == n).all()
    np.testing.assert_allclose(lse, math.log(n))


def test_without_its_noise_halving_beats_a_uniform_sample_of_as_many_keys() -> None:
    """128 of 1024 keys, median error of 30 heads. With the noise that the theorem asks for, most swaps are coins."""
    heads = [np.broadcast_to(x, (30, *x.shape)) for x in references.qkv(2, 50, 1024, d=8, size=0.7)]
    x = enter(*heads, scale=None, check_finite=True)
    batches = sum(thinformer.schedule(1024, 2, thinformer.halving_rounds(1024, 2)), [])
    coins = np.random.default_rng(0)
    draws = [(np.zeros((30, m, s // 2)), coins.integers(2, size=(30, m))) for m, s in batches]
    rows, _ = thinformer.coreset(x, 2, 0.5, draws)
    kept = (np.take_along_axis(y, rows[..., None], axis=1) for y in heads[1:])
    exact = attention(*(y[:1] for y in heads))
    outs = (attention(heads[0], *kept), uniform_attention(*heads, sample_size=128, rng=0))
    thin, uniform = (np.median(np.linalg.norm(out - exact, axis=(1, 2))) for out in outs)
    assert thin < 0.75 * uniform


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"oversampling": -1}, "oversampling must be at least 0, got -1"),
        ({"delta": 0.0}, "delta must be between 1e-100 and 1, got 0"),
        ({"delta": 1.5}, "delta must be between 1e-100 and 1, got 1.5"),
        ({"scale": -1.0}, "scale must be at least 0, got -1.0"),
    ],
)
def test_parameters_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        thinformer_attention(*references.qkv(0, 4, 6), **options)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_keys_whose_squares_overflow_are_refused_and_those_just_below_are_answered(dtype):
    q, k, v = np.random.default_rng(0).standard_normal((3, 2, 600, 8)).astype(dtype)
    longest, largest = np.sqrt((k**2).sum(axis=-1).max()), float(np.finfo(dtype).max)
    for part, fits in ((0.3, True), (0.55, False), (1.5, False)):
        its = k * dtype(np.sqrt(largest) * np.sqrt(part * np.sqrt(8)) / longest)
        if fits:
            assert np.isfinite(thinformer_attention(q, its, v, rng=0)).all()
        else:
            with pytest.raises(ValueError, match="k must have rows whose squared norms are finite"):
                thinformer_attention(q, its, v, rng=0)
