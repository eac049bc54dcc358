"""Reservoirs: the tokens that their draws name, the law of these, and merging.

The laws are tested by chi-square at 1e-6, five times in all: with other seeds, one false alarm in 2e5 runs. Every count
expected is at least 15.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import references
import safetensors
from scipy import stats
from toy_caches import BUDGET, feed, over, stream, tokens
from toy_states import contents

from sublinattn.core import backends
from sublinattn.methods.caches.reservoir import ReservoirCache
from sublinattn.primitives.reservoir import next_total, seed_from, uniforms

N = 40
CUTS = [[], list(range(1, N)), [1, 2, 9, 10, 26, 39]]
LEVEL = 1e-6
HEADS = 8000


def mu_of(cache: ReservoirCache, folder: Path) -> list[float]:
    """Sum of the squared value norms of every head, as the file tells."""
    cache.save(folder / "mu")
    with safetensors.safe_open(folder / "mu", framework="np") as file:
        (header,) = file.metadata().values()
    return json.loads(header)["about"]["state"]["mu"]


# ------------------------------------------------------------------------------------------------ which tokens are held
@pytest.mark.parametrize("cuts", CUTS)
@pytest.mark.parametrize("budget", [1, BUDGET, N - 1])
def test_uniform_holds_the_smallest_priorities(xp: Any, budget: int, cuts: list[int]) -> None:
    q, k, v = stream(xp, 0, N, lead=(3,))
    cache = ReservoirCache(budget, rng=5)
    edges = [0, *cuts, N]
    for begin, end in zip(edges, edges[1:], strict=False):
        answer = cache.update(k[:, begin:end], v[:, begin:end]).attend(q)
        for head in range(3):
            priority = [float(uniforms(seed_from(5), head, j)) for j in range(end)]
            kept = sorted(sorted(range(end), key=priority.__getitem__)[:budget])
            assert sorted(tokens(cache, k, head)) == kept
            expected = over(q[head], k[head], v[head], kept)
            np.testing.assert_allclose(backends.asnumpy(answer[head]), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("cuts", CUTS)
@pytest.mark.parametrize("scale", [0.5, 0.0, -40.0])
def test_value_norm_stores_what_its_draws_say(xp: Any, tmp_path: Path, scale: float, cuts: list[int]) -> None:
    q, k, v = stream(xp, 1, N, lead=(2,))
    plain = [backends.asnumpy(x) for x in (q, k, v)]
    cache = feed(ReservoirCache(BUDGET, "value-norm", rng=5), k, v, cuts)
    answer = backends.asnumpy(cache.attend(q, scale=scale))
    for head in range(2):
        held, due, mu = [-1] * BUDGET, [0.0] * BUDGET, 0.0
        for j in range(N):
            mu += float(np.sum(plain[2][head, j] ** 2))
            for slot in range(BUDGET):
                if due[slot] <= mu:
                    held[slot] = j
                    due[slot] = float(next_total(mu, uniforms(seed_from(5), head, slot, j)))
        assert tokens(cache, k, head) == held
        assert mu_of(cache, tmp_path)[head] == pytest.approx(mu, rel=1e-14)
        logits = scale * plain[0][head] @ plain[1][head, held].T
        squares = np.sum(plain[2][head, held] ** 2, axis=1)
        weights = mu / (BUDGET * squares) * np.exp(logits - logits.max(axis=1)[:, None])
        expected = weights @ plain[2][head, held] / weights.sum(axis=1)[:, None]
        np.testing.assert_allclose(answer[head], expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_value_norms_that_differ_by_orders_of_magnitude(xp: Any, dtype: Any) -> None:
    """Weights 1/||v||^2 from 1e-36 to 1e36: a slot's share is its weight times its exponential, in the logarithm."""
    q, k, v = stream(xp, 2, N, dtype=dtype)
    v /= xp.sqrt((v * v).sum(axis=1))[:, None]
    cache = ReservoirCache(64, "value-norm", rng=0)
    for size, part in ((1e-18, slice(0, 20)), (1.0, slice(20, 30)), (1e18, slice(30, N))):
        cache.update(k[part], (size * v[part]).astype(dtype))
        for scale in (1.0, 1e3):
            answer = backends.asnumpy(cache.attend(q, scale=scale))
            assert np.isfinite(answer).all() and abs(answer).max() > 1e-3 * size
    kept = backends.asnumpy(cache.contents()["values"]).astype(float)[0]
    assert np.linalg.norm(kept, axis=1).min() > 1e17


def test_values_of_zero_are_never_stored_and_answered_with_zero(xp: Any, tmp_path: Path) -> None:
    q, k, v = stream(xp, 3, N, lead=(2,))
    nothing = 0 * v
    cache = ReservoirCache(BUDGET, "value-norm", rng=0).update(k, nothing)
    assert not backends.asnumpy(cache.attend(q)).any() and mu_of(cache, tmp_path) == [0, 0]
    some = backends.asnumpy(nothing)
    some[1, 7] = 2.0  # one token of one head
    cache.update(k, xp.asarray(some))
    answer = backends.asnumpy(cache.attend(q))
    assert not answer[0].any() and tokens(cache, k, 1) == [7] * BUDGET
    np.testing.assert_allclose(answer[1], 2.0, rtol=1e-14)
    cache.update(k, nothing)
    assert tokens(cache, k, 1) == [7] * BUDGET


# ------------------------------------------------------------------------------------------------------ the law of them
def crowd(budget: int, weights: Any, heads: int, sizes: Any, rng: int) -> ReservoirCache:
    """Independent problems over the same tokens; a token's key is its number, counted from 1."""
    number = np.broadcast_to(np.arange(1.0, len(sizes) + 1)[:, None], (heads, len(sizes), 1))
    value = np.broadcast_to(np.sqrt(sizes)[:, None], number.shape)
    cache = ReservoirCache(budget, weights, rng=rng)
    for part in np.array_split(np.arange(len(sizes)), min(3, len(sizes))):
        cache.update(number[:, part], value[:, part])
    return cache


def numbers(cache: ReservoirCache) -> np.ndarray:
    return cache.contents()["keys"][:, :, 0].astype(int) - 1


def uniform_p_value(held: np.ndarray, n: int) -> float:
    """That each subset is equally likely: inclusion of each token, (m / n) and the covariance of two known."""
    heads, m = held.shape
    counts = np.bincount(held.ravel(), minlength=n)
    p = m / n
    return float(stats.chi2.sf(((counts - heads * p) ** 2).sum() / (heads * p * (1 - p)) * (n - 1) / n, n - 1))


def test_uniform_inclusion_and_pairs() -> None:
    heads, n, m = HEADS, 12, 4
    held = numbers(crowd(m, "uniform", heads, np.ones(n), rng=0))
    assert all(len(set(row)) == m for row in held.tolist())
    assert uniform_p_value(held, n) > LEVEL
    subsets = np.sort(held, axis=1)[:, :2] @ [n, 1]  # the two earliest of the four
    expected = {a * n + b: (n - 1 - b) * (n - 2 - b) / 2 for a in range(n) for b in range(a + 1, n)}
    possible = np.array([code for code, ways in expected.items() if ways])
    ways = np.array([expected[code] for code in possible])
    counts = np.array([(subsets == code).sum() for code in possible])
    assert counts.sum() == heads and heads * ways.min() / ways.sum() > 15
    assert stats.chisquare(counts, heads * ways / ways.sum()).pvalue > LEVEL


def test_uniform_inclusion_after_merging() -> None:
    """Streams of 9 and 8 tokens, then 4 more: all 21 alike."""
    heads, m = HEADS, 4
    one, other = (crowd(m, "uniform", heads, np.ones(n), rng=rng) for n, rng in ((9, 1), (8, 2)))
    other.contents()["keys"][:] += 9
    one.merge(other)
    more = np.broadcast_to(np.arange(18.0, 22.0)[:, None], (heads, 4, 1))
    one.update(more, more)
    held = numbers(one)
    assert all(len(set(row)) == m for row in held.tolist())
    assert uniform_p_value(held, 21) > LEVEL


def test_value_norm_slots_after_merging_are_independent_and_in_proportion() -> None:
    """The joint law of two slots. That of one stream is in `primitives/test_reservoir`."""
    sizes = np.array([1.0, 0.0, 3.0, 0.8, 2.0, 0.9, 4.0])
    one, other = (crowd(2, "value-norm", HEADS, x, rng) for rng, x in ((3, sizes), (4, sizes[[0, 6]])))
    other.contents()["keys"][:] += 7
    one.merge(other)
    more = np.full((HEADS, 1, 1), 10.0)
    one.update(more, more / more)
    weights = np.concatenate([sizes, sizes[[0, 6]], [1.0]])
    stored, n = numbers(one), len(weights)
    law = np.outer(weights, weights).ravel() / weights.sum() ** 2
    counts = np.bincount(stored @ [n, 1], minlength=n * n)
    assert not counts[law == 0].any() and HEADS * law[law > 0].min() > 15
    assert stats.chisquare(counts[law > 0], HEADS * law[law > 0]).pvalue > LEVEL


def test_the_estimate_tends_to_attention_as_the_budget_grows() -> None:
    """Error of the self-normalised estimates over 200 draws, at four times the slots: half, within a factor of 1.4."""
    q, k, v = stream(np, 4, 500, n_q=1)
    expected, _ = references.attention(q, k, v)
    for weights in ("uniform", "value-norm"):
        errors = []
        for budget in (50, 200):
            many = [np.broadcast_to(x, (200, *x.shape)) for x in (q, k, v)]
            answers = ReservoirCache(budget, weights, rng=6).update(*many[1:]).attend(many[0])
            errors.append(np.sqrt(((answers - expected) ** 2).sum(axis=-1).mean()))
        without = np.sqrt((1 - 200 / 500) / (1 - 50 / 500)) if weights == "uniform" else 1.0  # replacement
        assert 1 / 1.4 < errors[1] / (errors[0] / 2 * without) < 1.4


# -------------------------------------------------------------------------------------------------------------- merging
def test_merged_uniform_is_the_smallest_of_the_union(xp: Any, tmp_path: Path) -> None:
    q, k, v = stream(xp, 7, N, lead=(2,))
    for cut in (3, BUDGET, 30):
        parts = [(k[:, :cut], v[:, :cut]), (k[:, cut:], v[:, cut:])]
        one, other = (ReservoirCache(BUDGET, rng=rng).update(*part) for rng, part in enumerate(parts))
        before = contents(other, tmp_path)
        one.save(tmp_path / "one")
        merged = [one.merge(other), ReservoirCache.load(tmp_path / "one").merge(other)]
        assert contents(other, tmp_path) == before and merged[0] is one
        assert contents(merged[1], tmp_path) == contents(one, tmp_path)
        empty = ReservoirCache(BUDGET, rng=9).merge(one)
        for cache in (*merged, empty):
            assert cache.tokens_seen == N
            for head in range(2):
                priority = [float(uniforms(seed_from(0), head, j)) for j in range(cut)]
                priority += [float(uniforms(seed_from(1), head, j)) for j in range(N - cut)]
                kept = sorted(sorted(range(N), key=priority.__getitem__)[:BUDGET])
                assert sorted(tokens(cache, k, head)) == kept
                close = over(q[head], k[head], v[head], kept)
                np.testing.assert_allclose(backends.asnumpy(cache.attend(q)[head]), close, rtol=1e-12, atol=1e-12)
        one.update(k, v)
        assert one.tokens_seen == 2 * N


def test_merged_value_norm_takes_slots_of_either(xp: Any, tmp_path: Path) -> None:
    q, k, v = stream(xp, 8, N, lead=(2,))
    parts = [(k[:, :25], v[:, :25]), (k[:, 25:], v[:, 25:])]
    one, other = (ReservoirCache(64, "value-norm", rng=rng).update(*part) for rng, part in enumerate(parts))
    before = contents(other, tmp_path)
    held = [[tokens(cache, k, head) for head in range(2)] for cache in (one, other)]
    mu = np.add(mu_of(one, tmp_path), mu_of(other, tmp_path))
    one.merge(other)
    assert contents(other, tmp_path) == before and one.tokens_seen == N
    for head in range(2):
        slots = list(zip(tokens(one, k, head), held[0][head], held[1][head], strict=True))
        assert all(now in (mine, its) for now, mine, its in slots)
        assert {now < 25 for now, *_ in slots} == {True, False}
        assert mu_of(one, tmp_path)[head] == mu[head]
    assert np.isfinite(backends.asnumpy(one.update(k, v).attend(q))).all()
