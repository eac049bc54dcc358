"""Reservoirs: the tokens that their draws name, the law of these, and merging.

That the draws have the law they should is tested in `primitives/test_reservoir`; here, that the cache goes by them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
from scipy import stats
from toy_caches import BUDGET, feed, over, spans, stream, tokens
from toy_states import contents

from sublinattn.core import backends
from sublinattn.methods.caches.reservoir import ReservoirCache
from sublinattn.primitives.reservoir import next_total, seed_from, uniforms

N = 40
CUTS = [[], list(range(1, N)), [1, 2, 9, 10, 26, 39]]
HEADS = 8000


def mu_of(cache: ReservoirCache, folder: Path) -> list[float]:
    """Sum of the squared value norms of every head, as the file tells."""
    cache.save(folder / "mu")
    with safetensors.safe_open(folder / "mu", framework="np") as file:
        (header,) = file.metadata().values()
    return json.loads(header)["about"]["state"]["mu"]


def smallest(head: int, draws: list[tuple[int, int]], budget: int) -> list[int]:
    """Tokens of smallest priority; each draws its own from a seed and its number in that stream."""
    priority = [float(uniforms(seed_from(seed), head, j)) for seed, j in draws]
    return sorted(sorted(range(len(draws)), key=priority.__getitem__)[:budget])


# ---------------------------------------------------------------------------------------------- which tokens are stored
@pytest.mark.parametrize("cuts", CUTS)
@pytest.mark.parametrize("budget", [1, BUDGET, N - 1])
def test_uniform_stores_the_smallest_priorities(xp: Any, budget: int, cuts: list[int]) -> None:
    q, k, v = stream(xp, 0, N, lead=(3,))
    cache = ReservoirCache(budget, rng=5)
    for begin, end in spans(cuts, N):
        answer = cache.update(k[:, begin:end], v[:, begin:end]).attend(q)
        for head in range(3):
            kept = smallest(head, [(5, j) for j in range(end)], budget)
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


# -------------------------------------------------------------------------------------------------------------- merging
def test_merged_uniform_is_the_smallest_of_the_union(xp: Any, tmp_path: Path) -> None:
    q, k, v = stream(xp, 7, N, lead=(2,))
    for cut in (3, BUDGET, 25):
        parts = [(x[:, :cut], x[:, cut:30], x[:, 30:]) for x in (k, v)]
        first, second, last = zip(*parts, strict=True)
        one, other = (ReservoirCache(BUDGET, rng=rng).update(*rows) for rng, rows in enumerate((first, second)))
        before = contents(other, tmp_path)
        one.merge(other)
        empty = ReservoirCache(BUDGET, rng=9).merge(one)
        assert contents(other, tmp_path) == before
        draws = [(0, j) for j in range(cut)] + [(1, j) for j in range(30 - cut)]
        for cache, seed in ((one, 0), (empty, 9)):
            for end in (30, N):
                assert cache.tokens_seen == end
                for head in range(2):
                    kept = smallest(head, draws + [(seed, j) for j in range(30, end)], BUDGET)
                    assert sorted(tokens(cache, k, head)) == kept
                    expected = over(q[head], k[head], v[head], kept)
                    answer = backends.asnumpy(cache.attend(q)[head])
                    np.testing.assert_allclose(answer, expected, rtol=1e-12, atol=1e-12)
                if end < N:
                    cache.update(*last)


def test_merged_value_norm_takes_slots_of_either(xp: Any, tmp_path: Path) -> None:
    _, k, v = stream(xp, 8, N, lead=(2,))
    parts = [(k[:, :25], v[:, :25]), (k[:, 25:], v[:, 25:])]
    one, other = (ReservoirCache(64, "value-norm", rng=rng).update(*part) for rng, part in enumerate(parts))
    kept = [[tokens(cache, k, head) for head in range(2)] for cache in (one, other)]
    mu = np.add(mu_of(one, tmp_path), mu_of(other, tmp_path))
    one.merge(other)
    assert mu_of(one, tmp_path) == mu.tolist()
    for head in range(2):
        slots = list(zip(tokens(one, k, head), kept[0][head], kept[1][head], strict=True))
        assert all(now in (mine, other) for now, mine, other in slots)
        assert {now < 25 for now, *_ in slots} == {True, False}


def test_value_norm_slots_after_merging_are_independent_and_in_proportion() -> None:
    """The joint law of two slots, over 8000 heads; a token's key is its number.

    Chi-square at 1e-6; every count expected is at least 15.
    """
    weights = np.array([1.0, 0.0, 3.0, 0.8, 2.0, 0.9, 4.0, 1.0, 4.0, 1.0])
    n = len(weights)
    k, v = (np.broadcast_to(x[:, None], (HEADS, n, 1)) for x in (np.arange(n), np.sqrt(weights)))
    k = k.astype(float)
    one, other = (ReservoirCache(2, "value-norm", rng=rng) for rng in (3, 4))
    for cache, part in ((one, slice(0, 4)), (one, slice(4, 7)), (other, slice(7, 9))):
        cache.update(k[:, part], v[:, part])
    one.merge(other).update(k[:, 9:], v[:, 9:])
    stored = one.contents()["keys"][:, :, 0].astype(int)
    law = np.outer(weights, weights).ravel() / weights.sum() ** 2
    counts = np.bincount(stored @ [n, 1], minlength=n * n)
    assert not counts[law == 0].any() and HEADS * law[law > 0].min() > 15
    assert stats.chisquare(counts[law > 0], HEADS * law[law > 0]).pvalue > 1e-6


# ------------------------------------------------------------------------------------------------ without replacement
@pytest.mark.parametrize("cuts", CUTS)
def test_priority_stores_and_counts_what_its_draws_say(xp: Any, cuts: list[int], tmp_path: Path) -> None:
    q, k, v = stream(xp, 1, N, lead=(2,))
    v[:, 4] = 0
    plain = [backends.asnumpy(x) for x in (q, k, v)]
    cache = feed(ReservoirCache(BUDGET, "priority", rng=5), k, v, cuts)
    cache.save(tmp_path / "cache")
    loaded = ReservoirCache.load(tmp_path / "cache")
    answer = backends.asnumpy(cache.attend(q, scale=0.5))
    np.testing.assert_array_equal(backends.asnumpy(loaded.attend(q, scale=0.5)), answer)
    for head in range(2):
        squares = np.sum(plain[2][head] ** 2, axis=1)
        u = np.array([float(uniforms(seed_from(5), head, j)) for j in range(N)])
        priority = np.divide(u, squares, out=np.full(N, np.inf), where=squares > 0)
        order = np.argsort(priority)
        kept, threshold = order[:BUDGET], priority[order[BUDGET]]
        assert sorted(tokens(cache, k, head)) == sorted(kept)
        weights = np.maximum(1, 1 / (threshold * squares[kept])) * np.exp(0.5 * plain[0][head] @ plain[1][head, kept].T)
        expected = weights @ plain[2][head, kept] / weights.sum(axis=1)[:, None]
        np.testing.assert_allclose(answer[head], expected, rtol=1e-10, atol=1e-12)
    for state in (cache, loaded):
        state.update(k, 2 * v)
    np.testing.assert_array_equal(backends.asnumpy(cache.attend(q)), backends.asnumpy(loaded.attend(q)))


def test_priority_merges_into_the_sample_of_the_union_and_is_exact_within_its_budget(xp: Any, tmp_path: Path) -> None:
    q, k, v = stream(xp, 7, N, lead=(2,))
    for budget in (BUDGET, N):
        one, two = (ReservoirCache(budget, "priority", rng=seed) for seed in (1, 2))
        one.update(k[:, :15], v[:, :15])
        two.update(k[:, 15:], v[:, 15:])
        before = contents(two, tmp_path)
        one.merge(two)
        assert contents(two, tmp_path) == before and one.tokens_seen == N
        for head in range(2):
            squares = np.sum(backends.asnumpy(v)[head] ** 2, axis=1)
            draws = [float(uniforms(seed_from(1 + (j >= 15)), head, j - 15 * (j >= 15))) for j in range(N)]
            assert sorted(tokens(one, k, head)) == sorted(np.argsort(draws / squares)[:budget])
    for head in range(2):
        expected = over(q[head], k[head], v[head], list(range(N)))
        np.testing.assert_allclose(backends.asnumpy(one.attend(q))[head], expected, rtol=1e-11)


def test_priority_leaves_empty_slots_out_and_without_any_value_answers_zero() -> None:
    q, k, v = stream(np, 3, N, lead=(2,))
    v[0] = 0
    v[1, 3:] = 0
    few = ReservoirCache(BUDGET, "priority", rng=0).update(k, v).attend(q)
    np.testing.assert_allclose(few[1], over(q[1], k[1], v[1], [0, 1, 2]), rtol=1e-12)
    v[1] = 1
    answer = ReservoirCache(BUDGET, "priority", rng=0).update(k, v).attend(q)
    assert not answer[0].any() and np.isfinite(answer).all() and answer[1].any()
