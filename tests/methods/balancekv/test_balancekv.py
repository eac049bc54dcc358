"""The cache holds what merging and reducing by plain loops holds, whatever the chunks; merged, saved and loaded too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import references
from toy_caches import feed, stream
from toy_states import contents

from sublinattn.core.backends import asnumpy
from sublinattn.methods.balancekv.balancekv import BalanceKVCache
from sublinattn.methods.balancekv.walk import halve
from sublinattn.primitives.reservoir import seed_from, uniforms

T, N = 8, 150
OPTIONS: dict[str, dict[str, Any]] = {
    "paper": {"c": 0.02},
    "pairs": {"pairs": True, "c": 0.02},
    "centred pairs": {"pairs": True, "centred": True, "c": 1.5, "scale": 0.9},
}
CUTS = {"at once": [], "one by one": list(range(1, N)), "uneven": [1, 7, 8, 9, 40, 41, 80, 129]}


def plain(cache: BalanceKVCache, k: np.ndarray, v: np.ndarray, head: int) -> dict[int, list[int]]:
    """Token numbers by level, of one head, each batch halved when the next token comes."""
    levels: dict[int, list[int]] = {0: []}
    halvings: dict[int, int] = {}

    def lift(level: int, batch: list[int | None]) -> None:
        number = halvings[level] = halvings.get(level, -1) + 1
        there = np.array([token is not None for token in batch])
        rows = [token if token is not None else 0 for token in batch]
        steps = np.arange(T // 2 if cache.pairs else T)
        uniform = uniforms(seed_from(1), level, head, number, steps)
        scale = cache.scale or 1 / np.sqrt(k.shape[1])
        options = {"scale": scale, "c": cache.c, "pairs": cache.pairs, "centred": cache.centred}
        tokens = (x[rows] * there[:, None] for x in (k, v))
        kept, filled = (x[0] for x in halve(np, *(x[None] for x in (*tokens, there, uniform)), **options))
        half = [batch[i] if full else None for i, full in zip(kept, filled, strict=True)]
        if levels.get(level + 1):
            lift(level + 1, levels.pop(level + 1) + half)
        else:
            levels[level + 1] = half

    for token in range(len(k)):
        if len(levels[0]) == T:
            batch, levels[0] = levels[0], []
            lift(0, batch)
        levels[0].append(token)
    return {level: [token for token in half if token is not None] for level, half in levels.items()}


def held(cache: BalanceKVCache, k: np.ndarray, head: int) -> dict[int, list[int]]:
    """Token numbers by level, as the cache's weights say it."""
    keys, log_weights = (asnumpy(cache.contents()[name])[head] for name in ("keys", "log_weights"))
    assert not keys[log_weights == -np.inf].any()
    levels: dict[int, list[int]] = {}
    for row, log_weight in zip(keys, log_weights, strict=True):
        if log_weight > -np.inf:
            level = round(float(log_weight) / np.log(2))
            levels.setdefault(level, []).append(int(np.flatnonzero((k == row).all(axis=1))[0]))
    return levels


@pytest.mark.parametrize("cuts", CUTS)
@pytest.mark.parametrize("name", OPTIONS)
def test_holds_the_halves_of_the_plain_loop(xp: Any, name: str, cuts: str) -> None:
    q, k, v = stream(xp, 0, N, lead=(2,))
    cache = feed(BalanceKVCache(T, rng=1, **OPTIONS[name]), k, v, CUTS[cuts])
    q, k, v = map(asnumpy, (q, k, v))
    answers = asnumpy(cache.attend(xp.asarray(q), scale=0.7))
    for head in range(2):
        expected = plain(cache, k[head], v[head], head)
        assert held(cache, k[head], head) == {level: half for level, half in expected.items() if half}
        repeated = [token for level, half in expected.items() for token in half for _ in range(2**level)]
        answer, _ = references.attention(q[head], k[head][repeated], v[head][repeated], scale=0.7)
        np.testing.assert_allclose(answers[head], answer, rtol=1e-10)


@pytest.mark.parametrize("name", OPTIONS)
def test_small_tiles_change_no_bit(small_tiles: None, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    _, k, v = stream(np, 1, N, lead=(3,))
    few = feed(BalanceKVCache(T, rng=1, **OPTIONS[name]), k, v, []).contents()
    monkeypatch.undo()
    for name_, x in feed(BalanceKVCache(T, rng=1, **OPTIONS[name]), k, v, []).contents().items():
        np.testing.assert_array_equal(x, few[name_])


@pytest.mark.parametrize("n", [1, T, T + 1, 2 * T, 2 * T + 1, 37, 8 * T, 8 * T + 1, N])
def test_memory_is_a_batch_and_half_a_batch_per_level(n: int) -> None:
    _, k, v = stream(np, 2, n, lead=(3,))
    levels = 0 if n <= T else int(np.log2((n - 1) // T)) + 1
    cache = BalanceKVCache(T, rng=0).update(k, v)
    assert cache.nbytes == 3 * (T + levels * T // 2) * 8 * 8


def test_pairs_count_every_token_and_the_smaller_part_no_more() -> None:
    _, k, v = stream(np, 3, N, lead=(4,))
    for pairs in (True, False):
        weights = np.exp(BalanceKVCache(T, pairs=pairs, rng=0).update(k, v).contents()["log_weights"]).sum(axis=1)
        assert (abs(weights - N) < 1e-4).all() if pairs else (weights <= N + 1e-4).all() and (weights < N - 1).any()


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize(("n", "others"), [(3, 4), (5, 20), (75, 75), (64, 86), (128, 3), (2, 148)])
def test_merged_caches_hold_tokens_of_both(xp: Any, name: str, n: int, others: int, tmp_path: Path) -> None:
    q, k, v = stream(xp, 4, n + others, lead=(2,))
    make = {rng: BalanceKVCache(T, rng=rng, **OPTIONS[name]) for rng in (1, 2)}
    one, two = make[1].update(k[:, :n], v[:, :n]), make[2].update(k[:, n:], v[:, n:])
    before = contents(two, tmp_path)
    one.merge(two)
    assert contents(two, tmp_path) == before and one.tokens_seen == n + others
    if n + others <= T:
        exact, _ = references.attention(*map(asnumpy, (q, k, v)))
        np.testing.assert_allclose(asnumpy(one.attend(q)), exact, rtol=1e-12)
    for head in range(2):
        levels = held(one, asnumpy(k)[head], head)
        assert len(levels.get(0, [])) <= T and all(len(half) <= T // 2 for level, half in levels.items() if level)
        total = sum(2**level * len(half) for level, half in levels.items())
        assert total == n + others if one.pairs else total <= n + others
    one.save(tmp_path / "merged")
    loaded = BalanceKVCache.load(tmp_path / "merged")
    for cache in (one, loaded):
        cache.update(k, v)
    np.testing.assert_array_equal(asnumpy(one.attend(q)), asnumpy(loaded.attend(q)))


# --------------------------------------------------------------------------------------------------- bounded levels
@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("levels", [1, 2, 3])
def test_bounded_levels_are_the_same_for_any_chunks_and_memory_stays(xp: Any, levels: int, pairs: bool) -> None:
    q, k, v = stream(xp, 7, 700, lead=(2,))
    make = {"levels": levels, "pairs": pairs, "c": 0.02, "rng": 1}
    whole = BalanceKVCache(T, **make).update(k, v)
    for cuts in (list(range(1, 700)), [3, 8, 9, 64, 65, 300, 555]):
        cache = feed(BalanceKVCache(T, **make), k, v, cuts)
        for name, x in whole.contents().items():
            np.testing.assert_array_equal(asnumpy(cache.contents()[name]), asnumpy(x))
        np.testing.assert_array_equal(asnumpy(cache.attend(q)), asnumpy(whole.attend(q)))
    assert whole.nbytes == 2 * (T + levels * T // 2) * 8 * 8
    for head in range(2):  # a token is held once; of the last groups of tokens there may be no token yet
        kept = held(whole, asnumpy(k)[head], head)
        tokens = [token for half in kept.values() for token in half]
        assert len(set(tokens)) == len(tokens)
        total = sum(2**level * len(half) for level, half in kept.items())
        base = min(kept)
        assert base > 0 and (abs(total - 700) <= 2**base if pairs else total <= 700 + 2**base)


def test_sampled_tokens_are_spread_over_the_stream_and_over_their_groups() -> None:
    """All tokens alike but for their number: those held are about as often early as late, even as odd."""
    n, k = 1000, np.zeros((1000, 1))
    kept = []
    for seed in range(60):
        cache = BalanceKVCache(4, levels=2, pairs=True, rng=seed).update(k, 1 + np.arange(n)[:, None] / n)
        held_values = cache.contents()["values"][0, :, 0]
        weights = np.exp(cache.contents()["log_weights"][0])
        kept.append(weights @ (held_values - 1) * n / weights.sum())
    assert abs(np.mean(kept) - n / 2) < 5 * np.std(kept) / np.sqrt(60) and np.std(kept) > 20


def test_within_fills_its_bytes_and_no_more_however_long_the_stream() -> None:
    _, k, v = stream(np, 8, 5000, dtype=np.float32)
    cache = BalanceKVCache.within(32 * 40, 4, 3, pairs=True, rng=0)
    assert (cache.batch, cache.levels) == (12, 4)
    assert cache.update(k, v).nbytes == 32 * (12 + 4 * 6)


def test_bounded_caches_do_not_merge(tmp_path: Path) -> None:
    q, k, v = stream(np, 9, 400)
    one, two = (BalanceKVCache(T, levels=2, rng=seed).update(k, v) for seed in (1, 2))
    with pytest.raises(ValueError, match="merge needs caches whose levels are not bounded, got levels=2"):
        one.merge(two)
    one.save(tmp_path / "one")
    loaded = BalanceKVCache.load(tmp_path / "one").update(k[:77], v[:77])
    np.testing.assert_array_equal(loaded.attend(q), one.update(k[:77], v[:77]).attend(q))


def test_heads_and_halvings_have_draws_of_their_own() -> None:
    """The same batch again and again, in each head: the parts differ."""
    k = np.tile(np.eye(4, 2), (3, 20, 1))
    k[..., 1] = np.arange(80) / 1e6
    cache = BalanceKVCache(4, pairs=True, rng=0).update(k, np.ones((3, 80, 1)))
    drawn = [round(1e6 * x) % 4 for x in cache.contents()["keys"][:, 4:, 1].ravel()]
    assert len(set(map(tuple, np.reshape(drawn, (3, -1))))) == 3


def test_the_scale_of_the_balance_is_that_of_the_logits_by_default() -> None:
    _, k, v = stream(np, 5, N)
    default, told, other = (
        BalanceKVCache(T, scale=scale, c=0.001, rng=0).update(k, v).contents()["keys"] for scale in (None, -0.5, 3.0)
    )
    np.testing.assert_array_equal(default, told)  # d = 4; a sign changes no kernel between keys
    assert not np.array_equal(default, other)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: BalanceKVCache(1), ValueError, "batch must be at least 2, got 1"),
        (lambda: BalanceKVCache(7), ValueError, "batch must be even, got 7"),
        (lambda: BalanceKVCache(8.0), TypeError, "batch must be an integer, got float"),
        (lambda: BalanceKVCache(8, pairs=1), TypeError, "pairs must be"),
        (lambda: BalanceKVCache(8, c=0), ValueError, "c must be above 0 and finite, got 0"),
        (lambda: BalanceKVCache(8, c="1"), TypeError, "c must be"),
        (lambda: BalanceKVCache(8, scale=np.inf), ValueError, "scale must be"),
        (lambda: BalanceKVCache(8, levels=0), ValueError, "levels must be at least 1, got 0"),
        (lambda: BalanceKVCache.within(95, 4, 3), ValueError, "nbytes must be at least that of 3 slots, got 95"),
        (lambda: BalanceKVCache.within(0, 4, 3), ValueError, "nbytes must be at least 1, got 0"),
    ],
)
def test_impossible_parameters(make: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=f"^{message}"):
        make()
