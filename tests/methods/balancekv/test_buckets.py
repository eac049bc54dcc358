"""Algorithm 1 of [BKV25]: which tokens the classes hold, what line 13 makes of them; chunks, merging, saving."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import references
from toy_caches import feed, stream
from toy_states import contents

from sublinattn import attention
from sublinattn.core.backends import asnumpy
from sublinattn.methods.balancekv.buckets import BucketedBalanceKVCache
from sublinattn.methods.balancekv.walk import halve, softmax_kernel
from sublinattn.primitives.reservoir import seed_from, uniforms

T, N, SCALE = 8, 90, 0.7
OPTIONS: dict[str, dict[str, Any]] = {
    "paper": {"c": 0.02},
    "pairs": {"pairs": True, "c": 0.02},
    "few classes": {"pairs": True, "centred": True, "buckets": 2},
    "bounded": {"pairs": True, "levels": 2},
}


def parts(cache: BucketedBalanceKVCache) -> list[dict[str, dict[str, np.ndarray]]]:
    """Filled slots of each head by the name of the merge and reduce: keys, values, weights."""
    heads: dict[int, dict[str, dict[str, np.ndarray]]] = {}
    for full, x in cache.contents().items():
        number, part, name = full.split(".")
        heads.setdefault(int(number), {}).setdefault(part, {})[name] = asnumpy(x)[0]
    for found in heads.values():
        for slots in found.values():
            there = slots["log_weights"] > -np.inf
            slots |= {name: slots[name][there] for name in ("keys", "values")}
            slots["weights"] = np.exp(slots.pop("log_weights")[there])
    return [heads[head] for head in range(len(heads))]


def in_class(v: np.ndarray, name: str) -> np.ndarray:
    """Which values lie in a class: all in the normaliser's."""
    norms = np.linalg.norm(v, axis=-1)
    return norms >= 0 if name == "normaliser" else (norms >= 2.0 ** (int(name) - 1)) & (norms < 2.0 ** int(name))


def kept_classes(v: np.ndarray, buckets: int) -> set[str]:
    numbers = {int(np.floor(np.log2(norm))) + 1 for norm in np.linalg.norm(v, axis=-1) if norm}
    return {str(i) for i in numbers if i > max(numbers) - buckets} | {"normaliser"}


# ------------------------------------------------------------------------------------------------- what the cache holds
@pytest.mark.parametrize("name", OPTIONS)
def test_every_class_holds_its_tokens_and_the_answer_is_line_13(xp: Any, name: str) -> None:
    q, k, v = stream(xp, 0, N, lead=(2,))
    cache = BucketedBalanceKVCache(T, rng=1, **OPTIONS[name]).update(k, v)
    answers = asnumpy(cache.attend(q, scale=SCALE))
    q, k, v = map(asnumpy, (q, k, v))
    for head, found in enumerate(parts(cache)):
        assert set(found) == kept_classes(v[head], cache.buckets) and len(found) > 2
        sums = {}
        for part, slots in found.items():
            here = in_class(v[head], part)
            tokens = [int(np.flatnonzero((k[head] == row).all(axis=1))[0]) for row in slots["keys"]]
            assert here[tokens].all() and len(set(tokens)) == len(tokens)
            values = v[head] if part != "normaliser" else np.ones((N, 1))
            np.testing.assert_array_equal(slots["values"], values[tokens])
            if cache.levels is None:
                total = slots["weights"].sum()
                assert abs(total - here.sum()) < 1e-9 if cache.pairs else total <= here.sum() + 1e-9
            sums[part] = (np.exp(SCALE * q[head] @ slots["keys"].T) * slots["weights"]) @ slots["values"]
        below = sums.pop("normaliser")
        largest = np.linalg.norm(v[head], axis=1).max()
        expected = np.clip(sum(sums.values()) / below, -largest, largest)
        np.testing.assert_allclose(answers[head], expected, rtol=1e-11)


@pytest.mark.parametrize("name", OPTIONS)
def test_chunks_change_no_bit_and_neither_does_a_file(xp: Any, name: str, tmp_path: Path) -> None:
    q, k, v = stream(xp, 1, N, lead=(2,))
    make = {"rng": 1, **OPTIONS[name]}
    whole = BucketedBalanceKVCache(T, **make).update(k, v)
    for cuts in (list(range(1, N)), [1, 7, 8, 9, 40, 41, 80]):
        cache = feed(BucketedBalanceKVCache(T, **make), k, v, cuts)
        assert list(cache.contents()) == list(whole.contents())
        for array, x in whole.contents().items():
            np.testing.assert_array_equal(asnumpy(cache.contents()[array]), asnumpy(x))
        np.testing.assert_array_equal(asnumpy(cache.attend(q)), asnumpy(whole.attend(q)))
    whole.save(tmp_path / "whole")
    loaded = BucketedBalanceKVCache.load(tmp_path / "whole")
    assert loaded.nbytes == whole.nbytes and loaded.classes == whole.classes
    np.testing.assert_array_equal(asnumpy(loaded.attend(q)), asnumpy(whole.attend(q)))
    for cache in (whole, loaded):
        cache.update(k, 3 * v)
    np.testing.assert_array_equal(asnumpy(loaded.attend(q)), asnumpy(whole.attend(q)))


def test_a_class_is_halved_for_its_sum_of_values_alone() -> None:
    t, rng = 64, np.random.default_rng(11)
    k, v = rng.standard_normal((1, t + 1, 3)), rng.uniform(-1, 1, (1, t + 1, 3))
    v *= 1.5 / np.linalg.norm(v, axis=2, keepdims=True)  # class 1
    seeds = [seed_from(np.random.default_rng([seed_from(1), 0, own])) for own in (0, 1 + 2**11)]
    found = parts(BucketedBalanceKVCache(t, c=0.5, rng=1).update(k, v))[0]
    halves = []
    for part, seed, values in (("normaliser", seeds[0], np.ones((1, t + 1, 1))), ("1", seeds[1], v)):
        tokens = (k[:, :t], values[:, :t], np.ones((1, t), bool), uniforms(seed, 0, 0, 0, np.arange(t))[None])
        kept, there = halve(np, *tokens, scale=1 / np.sqrt(3), c=0.5, normaliser=False)
        half = kept[0][there[0]]
        np.testing.assert_array_equal(found[part]["keys"], k[0][[t, *half]])
        halves.append(sorted(half))
    assert halves[0] != halves[1]


def test_bytes_are_those_of_every_class_and_of_the_normaliser() -> None:
    """A class of m tokens has a batch, and half a batch for each level; the normaliser a number in place of a value."""
    _, k, v = stream(np, 2, 1000, lead=(2,), dtype=np.float32)
    cache = BucketedBalanceKVCache(T, rng=0).update(k, v)
    expected = 0
    for head, found in enumerate(parts(cache)):
        for part in found:
            m = in_class(v[head], part).sum()
            slots = T + T // 2 * int((m - 1) // T).bit_length()
            expected += slots * (4 + (1 if part == "normaliser" else 3) + 1) * 4
    assert cache.nbytes == expected


def test_within_never_holds_more_than_its_bytes() -> None:
    _, k, v = stream(np, 8, 5000, dtype=np.float32)
    cache = BucketedBalanceKVCache.within(20_000, 4, 3, buckets=6, pairs=True, rng=0)
    v *= (2.0 ** (np.arange(5000) % 6) / np.linalg.norm(v, axis=1))[:, None]  # norms of 1, 2, ..., 32 in turn
    assert 18_000 < cache.update(k, v).update(k, v).nbytes <= 20_000 and len(cache.classes[0]) == 6


# -------------------------------------------------------------------------------------------------- laws of the answers
def test_pairs_are_unbiased_in_both_sums() -> None:
    """500 heads of the same tokens; one of 4 means is off by 5.5 of its deviations in 2 of 10^7 runs."""
    heads = 500
    rng = np.random.default_rng(3)
    k, v = rng.standard_normal((60, 2)), rng.standard_normal((60, 3)) * 4.0 ** rng.integers(0, 2, (60, 1))
    alike = [np.broadcast_to(x, (heads, *x.shape)).copy() for x in (k, v)]
    cache = BucketedBalanceKVCache(4, pairs=True, scale=1.0, rng=0).update(*alike)
    q, sums = np.array([0.5, -0.8]), np.zeros((heads, 4))
    for head, found in enumerate(parts(cache)):
        for part, slots in found.items():
            at = slice(3, 4) if part == "normaliser" else slice(0, 3)
            sums[head, at] += (np.exp(slots["keys"] @ q) * slots["weights"]) @ slots["values"]
    e = np.exp(k @ q)
    exact = np.append(e @ v, e.sum())
    deviation = sums.std(axis=0) / np.sqrt(heads)
    assert (deviation > 0).all() and (abs(sums.mean(axis=0) - exact) < 5.5 * deviation).all()


def test_long_values_are_exact_among_many_short_ones() -> None:
    """Fewer long values than a batch are kept as they are: with normaliser and short values right, the answer is."""
    rng = np.random.default_rng(4)
    k, v = np.zeros((2000, 2)), np.ones((2000, 1)) * 1e-9
    v[rng.permutation(2000)[:6]] = rng.uniform(1, 1.9, (6, 1))
    cache = BucketedBalanceKVCache(T, buckets=40, pairs=True, rng=0).update(k, v)
    np.testing.assert_allclose(cache.attend(k[:1]), v.mean(axis=0)[None], rtol=1e-12)


def test_classes_are_erased_when_a_longer_value_comes_and_their_tokens_are_lost() -> None:
    v = np.array([1.0, 3.0, 5.0, 100.0, 1.0, 60.0])[:, None]  # classes 1, 2, 3, 7, 1, 6
    cache = BucketedBalanceKVCache(T, buckets=5, rng=0)
    seen = [cache.update(v[j : j + 1], v[j : j + 1]).classes[0] for j in range(6)]
    assert seen == [[1], [1, 2], [1, 2, 3], [3, 7], [3, 7], [3, 6, 7]]
    exact = (v * np.exp(v / 100))[[2, 3, 5]].sum() / np.exp(v / 100).sum()
    np.testing.assert_allclose(cache.attend(np.full((1, 1), 0.01), scale=1.0), exact, rtol=1e-12)


@pytest.mark.parametrize("eps", [0.5, 0.01])
def test_no_class_is_erased_that_line_8_keeps(eps: float) -> None:
    """With buckets >= log2(2 n exp(s r^2) / eps) + 1; the largest value anywhere in its class."""
    for largest in (1.0, 1.999, 2.0, 3e5):
        n, r2 = 1000, 2.0
        factor = eps / (2 * n) * np.exp(-r2)
        buckets = int(np.ceil(np.log2(1 / factor) + 1))
        cache = BucketedBalanceKVCache(T, buckets=buckets)
        norms = largest * 2.0 ** -np.linspace(0, buckets + 2, 200)
        cache.update(np.zeros((200, 1)), norms[:, None])
        kept = {int(np.floor(np.log2(x))) + 1 for x in norms if 2.0 ** (np.floor(np.log2(x)) + 1) > factor * largest}
        assert kept <= set(cache.classes[0]) and len(cache.classes[0]) <= buckets


def test_values_of_zero_count_in_the_normaliser_alone(xp: Any) -> None:
    q, k, v = stream(xp, 5, 40, lead=(2,))
    v[:, 3:20] = 0
    v[1] = 0
    cache = BucketedBalanceKVCache(64, rng=0).update(k, v)
    exact, _ = references.attention(*map(asnumpy, (q, k, v)))
    np.testing.assert_allclose(asnumpy(cache.attend(q)), exact, rtol=1e-12, atol=1e-15)
    assert cache.classes[0] and not cache.classes[1]
    nothing = BucketedBalanceKVCache(4, rng=0).update(k, 0 * v)
    assert not asnumpy(nothing.attend(q)).any() and nothing.tokens_seen == 40


def test_a_normaliser_whose_tokens_are_all_gone_answers_zero() -> None:
    """Of few slots the smaller part may be none, while a token of level 0 is waited for."""
    q, k, v = stream(np, 10, 60)
    cache, empty = BucketedBalanceKVCache(2, levels=1, rng=0), 0
    for j in range(60):
        answer = cache.update(k[j : j + 1], v[j : j + 1]).attend(q)
        there = len(parts(cache)[0]["normaliser"]["weights"])
        assert there or not answer.any()
        empty += not there
    assert empty


def test_values_that_differ_by_orders_of_magnitude_answer_in_float32() -> None:
    q, k, v = stream(np, 6, N, dtype=np.float32)
    for size in (1e-17, 1e17):
        scaled = (size * v).astype(np.float32)
        answer = BucketedBalanceKVCache(T, pairs=True, rng=0).update(k, scaled).attend(q)
        assert np.isfinite(answer).all() and 1e-2 * size < abs(answer).max() <= np.linalg.norm(scaled, axis=1).max()


# -------------------------------------------------------------------------------------------------------------- merging
@pytest.mark.parametrize("name", ["paper", "pairs", "few classes"])
@pytest.mark.parametrize(("n", "louder"), [(3, 1.0), (45, 2000.0), (70, 1 / 2000)])
def test_merged_caches_hold_the_classes_of_both(xp: Any, name: str, n: int, louder: float, tmp_path: Path) -> None:
    q, k, v = stream(xp, 7, N, lead=(2,))
    v[:, n:] *= louder
    one, two = (BucketedBalanceKVCache(T, rng=seed, **OPTIONS[name]) for seed in (1, 2))
    one.update(k[:, :n], v[:, :n])
    two.update(k[:, n:], v[:, n:])
    before = contents(two, tmp_path)
    one.merge(two)
    assert contents(two, tmp_path) == before and one.tokens_seen == N
    for head, found in enumerate(parts(one)):
        values = asnumpy(v)[head]
        assert set(found) == kept_classes(values, one.buckets)
        for part, slots in found.items():
            total, there = slots["weights"].sum(), in_class(values, part).sum()
            assert abs(total - there) < 1e-9 if one.pairs else total <= there + 1e-9
    one.save(tmp_path / "merged")
    loaded = BucketedBalanceKVCache.load(tmp_path / "merged")
    for cache in (one, loaded):
        cache.update(k, v)
    np.testing.assert_array_equal(asnumpy(one.attend(q)), asnumpy(loaded.attend(q)))
    empty = BucketedBalanceKVCache(T, rng=9, **OPTIONS[name]).merge(one)
    assert empty.classes == one.classes and empty.merge(BucketedBalanceKVCache(T, rng=8, **OPTIONS[name])) is empty


def test_small_streams_merge_into_exact_attention() -> None:
    q, k, v = stream(np, 9, T)
    one, two = (BucketedBalanceKVCache(T, rng=seed) for seed in (1, 2))
    merged = one.update(k[:3], v[:3]).merge(two.update(k[3:], v[3:]))
    np.testing.assert_allclose(merged.attend(q), attention(q, k, v), rtol=1e-12)


def test_caches_of_other_parameters_classes_or_draws_do_not_merge() -> None:
    _, k, v = stream(np, 9, 20)
    cache = BucketedBalanceKVCache(T, rng=1).update(k, v)
    with pytest.raises(ValueError, match="other must have this state's parameters"):
        cache.merge(BucketedBalanceKVCache(T, buckets=3, rng=2).update(k, v))
    with pytest.raises(ValueError, match="other must have draws of its own"):
        cache.merge(BucketedBalanceKVCache(T, rng=1).update(k, v))
    bounded = [BucketedBalanceKVCache(T, levels=2, rng=seed).update(k, v) for seed in (1, 2)]
    with pytest.raises(ValueError, match="merge needs caches whose levels are not bounded, got levels=2"):
        bounded[0].merge(bounded[1])


# ------------------------------------------------------------------------------------------------------------- the walk
def test_without_the_normaliser_the_kernel_is_that_of_the_values(xp: Any) -> None:
    rng = np.random.default_rng(5)
    k, v = rng.standard_normal((2, 6, 3)), rng.standard_normal((2, 6, 2))
    filled = np.ones((2, 6), bool)
    filled[0, 4:] = False
    k[~filled] = v[~filled] = 0
    found = asnumpy(softmax_kernel(xp, *map(xp.asarray, (k, v, filled)), scale=SCALE, normaliser=False))
    expected = np.exp(SCALE * k @ k.swapaxes(1, 2)) * (v @ v.swapaxes(1, 2))
    for problem in range(2):
        ratio = (
            found[problem][filled[problem]][:, filled[problem]] / expected[problem][filled[problem]][:, filled[problem]]
        )
        np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-12)
        assert ratio[0, 0] > 0 and found[problem].max() <= 1 + 1e-12
    assert not found[0, 4:].any()
    nothing = softmax_kernel(xp, *map(xp.asarray, (0 * k, 0 * v, ~filled & filled)), scale=SCALE, normaliser=False)
    assert not asnumpy(nothing).any()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: BucketedBalanceKVCache(8, buckets=0), ValueError, "buckets must be at least 1, got 0"),
        (lambda: BucketedBalanceKVCache(8, buckets=2.0), TypeError, "buckets must be an integer, got float"),
        (lambda: BucketedBalanceKVCache(7), ValueError, "batch must be even, got 7"),
        (lambda: BucketedBalanceKVCache.within(99, 4, 3, buckets=4), ValueError, "nbytes must be at least that of 3"),
        (lambda: BucketedBalanceKVCache.within(9999, 4, 3, buckets=0), ValueError, "buckets must be at least 1, got 0"),
    ],
)
def test_impossible_parameters(make: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=f"^{message}"):
        make()
