"""Decoding after a prompt that caches have compressed: against dense attention over what they keep, and the decoder."""

from __future__ import annotations

import fake_device
import numpy as np
import pytest

from sublinattn.core import backends
from sublinattn.lab.models import open_model
from sublinattn.lm.attend import CachedAttention, causal
from sublinattn.lm.mixed_caches import AfterPrompt, Kept, PromptCached, Share
from sublinattn.methods.balancekv.balancekv import BalanceKVCache
from sublinattn.methods.balancekv.buckets import BucketedBalanceKVCache
from sublinattn.methods.caches.exact import ExactCache, ZeroCache
from sublinattn.methods.caches.heavy_hitter import HeavyHitterCache
from sublinattn.methods.caches.k_center import KCenterCache
from sublinattn.methods.caches.reservoir import ReservoirCache
from sublinattn.methods.caches.sink import SinkCache
from sublinattn.methods.subgen.subgen import SubGenCache
from sublinattn.primitives.reservoir import seed_from, uniforms

N, T, D, GROUP = 40, 7, 8, 2


def rows(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


K, V, Q = rows(0, 3, N + T, D), rows(1, 3, N + T, D), rows(2, 3, GROUP, T, D)


SHAPES = (3 * GROUP, N + T, D), (3, N + T, D), (3, N + T, D)
"""Of q, k and v of a text."""


def dense(head: int, weights: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Answers to the queries of a key head: tokens of weight `weights` (m,), then the window's own."""
    k, v = (np.concatenate([x, own[head, N:]]).astype(float) for x, own in ((k, K), (v, V)))
    out = []
    for q in Q[head]:
        own = np.tri(T)
        e = np.exp(q.astype(float) @ k.T / np.sqrt(D)) * np.concatenate([np.tile(weights, (T, 1)), own], axis=1)
        out.append(e @ v / e.sum(axis=1, keepdims=True))
    return np.stack(out)


def answered(cache, xp=np):
    there = (lambda x: x) if xp is np else xp.asarray
    cache.update(there(K[:, :N]), there(V[:, :N]))
    attend = AfterPrompt([[Share([2, 0], Kept(cache), [2, 0]), Share([1], Kept(cache), [1])]])
    out = attend(0, *(there(x[None]) for x in (Q.reshape(3 * GROUP, T, D), K[:, N:], V[:, N:])))
    return (out if xp is np else out.get()).reshape(3, GROUP, T, D)


@pytest.mark.parametrize("xp", [np, fake_device], ids=["numpy", "device"])
def test_queries_see_what_is_kept_of_the_prompt_and_their_own_window(xp):
    for cache, kept in (
        (ExactCache(), np.arange(N)),
        (SinkCache(10, 2), np.r_[0:2, N - 10 : N]),
        (SinkCache(N + 10, 2), np.arange(N)),  # not full, as is the sample
        (ReservoirCache(N + 10, rng=0), np.arange(N)),
        (HeavyHitterCache(12, 12), np.arange(N - 12, N)),
        (ZeroCache(), np.arange(0)),
    ):
        out = answered(cache, xp)
        for head in range(3):
            wanted = dense(head, np.ones(len(kept)), K[head, kept], V[head, kept])
            np.testing.assert_allclose(out[head], wanted, rtol=2e-5, atol=2e-6)


def test_a_sampled_token_counts_for_those_that_it_stands_for():
    uniform, by_norm = ReservoirCache(10, rng=0), ReservoirCache(10, "value-norm", rng=0)
    for cache in (uniform, by_norm):
        out = answered(cache)
        keys, values = (cache.contents()[name] for name in ("keys", "values"))
        for head in range(3):
            squares = (values[head].astype(float) ** 2).sum(axis=1)
            whole = (V[head, :N].astype(float) ** 2).sum()
            weights = np.full(10, N / 10) if cache is uniform else whole / (10 * squares)
            np.testing.assert_allclose(out[head], dense(head, weights, keys[head], values[head]), rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize("xp", [np, fake_device], ids=["numpy", "device"])
def test_a_sample_without_replacement_counts_by_its_threshold_and_is_exact_within_its_budget(xp):
    for budget in (10, N):
        cache = ReservoirCache(budget, "priority", rng=0)
        out = answered(cache, xp)
        for head in range(3):
            squares = (V[head, :N].astype(float) ** 2).sum(axis=1)
            priority = uniforms(seed_from(0), head, np.arange(N)) / squares
            order = np.argsort(priority)
            kept, threshold = order[:budget], priority[order[budget]] if budget < N else np.inf
            wanted = dense(head, np.maximum(1, 1 / (threshold * squares[kept])), K[head, kept], V[head, kept])
            np.testing.assert_allclose(out[head], wanted, rtol=2e-4, atol=1e-5)
    nothing = ReservoirCache(10, "priority", rng=0).update(K[:, :N], 0 * V[:, :N])
    assert not Kept(nothing).partial([0], Q[:1, 0], 1.0).l.any()  # tokens of value 0 are never stored


@pytest.mark.parametrize("xp", [np, fake_device], ids=["numpy", "device"])
def test_halved_tokens_count_by_their_level_and_empty_slots_for_nothing(xp):
    cache = BalanceKVCache(batch=8, rng=0)
    out, held = answered(cache, xp), {name: backends.asnumpy(x) for name, x in cache.contents().items()}
    weights = np.exp(held["log_weights"])
    assert set(np.unique(weights)) > {0, 1} and weights.max() > 1.9
    for head in range(3):
        wanted = dense(head, weights[head], held["keys"][head], held["values"][head])
        np.testing.assert_allclose(out[head], wanted, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("xp", [np, fake_device], ids=["numpy", "device"])
def test_the_answer_of_buckets_counts_by_their_normaliser(xp):
    cache = BucketedBalanceKVCache(8, buckets=2, rng=0)
    out, held = answered(cache, xp), {name: backends.asnumpy(x)[0] for name, x in cache.contents().items()}
    clipped = 0
    for head in range(3):
        largest = np.linalg.norm(V[head, :N].astype(float), axis=1).max()
        k, v = (x[head, N:].astype(float) for x in (K, V))
        for q, answers in zip(Q[head].astype(float), out[head], strict=True):
            above, below = 0, 0
            for part in {name.rsplit(".", 1)[0] for name in held if name.startswith(f"{head}.")}:
                e = np.exp(q @ held[f"{part}.keys"].T / np.sqrt(D) + held[f"{part}.log_weights"])
                total = e @ held[f"{part}.values"]
                above, below = (above, total) if part.endswith("normaliser") else (above + total, below)
            clipped += (abs(above / below) > largest).sum()
            own = np.exp(q @ k.T / np.sqrt(D)) * np.tri(T)
            prompt = below * np.clip(above / below, -largest, largest)
            wanted = (prompt + own @ v) / (below + own.sum(axis=1, keepdims=True))
            np.testing.assert_allclose(answers, wanted, rtol=2e-4, atol=2e-5)
    assert clipped


def test_slots_that_give_both_sums_count_for_what_they_stand_for():
    cache = SubGenCache(value_samples=10, normaliser="slots", law="distance", rng=0)
    out, held = answered(cache), cache.contents()
    for head, mu in enumerate(cache.mu):
        keys, values, weights = (held[f"{head}.{name}"] for name in ("slot_keys", "slot_values", "weights"))
        wanted = dense(head, mu / (10 * weights), keys, values)
        np.testing.assert_allclose(out[head], wanted, rtol=2e-4, atol=1e-5)
    nothing = SubGenCache(value_samples=10, normaliser="slots", rng=0).update(K[:, :N], 0 * V[:, :N])
    assert not Kept(nothing).partial([0], Q[:1, 0], 1.0).l.any()  # no value is above 0: no slot is filled


def test_subgen_adds_its_two_sums_to_those_of_the_window():
    """With every key its own cluster the normaliser is exact; with many slots the numerator nearly is."""
    cache = SubGenCache(0.0, 1, 40_000, rng=0)
    out = answered(cache)
    for head in range(3):
        wanted = dense(head, np.ones(N), K[head, :N], V[head, :N])
        assert np.linalg.norm(out[head] - wanted) < 0.05 * np.linalg.norm(wanted)
    with pytest.raises(TypeError, match="a SubGenCache with a recent window cannot be merged"):
        Kept(SubGenCache(0.0, 1, 4, recent=2, rng=0).update(K, V))


MERGED = {
    "sink": lambda: SinkCache(10, 2),
    "k-center": lambda: KCenterCache(10, 2),
    "uniform": lambda: ReservoirCache(10, rng=0),
    "uniform, not full": lambda: ReservoirCache(3 * N, rng=0),
    "value-norm": lambda: ReservoirCache(10, "value-norm", rng=0),
    "value-norm, more slots than tokens": lambda: ReservoirCache(3 * N, "value-norm", rng=0),
    "priority": lambda: ReservoirCache(10, "priority", rng=0),
    "priority, not full": lambda: ReservoirCache(3 * N, "priority", rng=0),
    "BalanceKV": lambda: BalanceKVCache(8, rng=0),
    "SubGen": lambda: SubGenCache(1.0, 2, 10, rng=0),
    "SubGen's slots": lambda: SubGenCache(value_samples=10, normaliser="slots", rng=0),
}


@pytest.mark.parametrize("xp", [np, fake_device], ids=["numpy", "device"])
@pytest.mark.parametrize("name", MERGED)
def test_what_is_kept_answers_as_the_cache_where_a_few_values_are_long_and_a_head_has_none(name, xp):
    there = (lambda x: x) if xp is np else xp.asarray
    v = V[:, :N].copy()
    v[:, ::9] *= 1000
    v[1], v[2, 1::2] = 0, 0
    cache = MERGED[name]().update(there(K[:, :N]), there(v))
    q, order = Q.reshape(3, -1, D), [2, 0, 1]
    want = backends.asnumpy(cache.attend(there(q)))[order]
    kept = backends.asnumpy(Kept(cache).partial(order, there(q[order]), D**-0.5).output())
    np.testing.assert_allclose(kept, want, rtol=2e-4, atol=2e-4 * np.abs(want).max())


@pytest.mark.parametrize("weights", ["uniform", "priority"])
def test_a_sample_that_has_room_for_all_tokens_counts_each_once(weights):
    cache = ReservoirCache(3 * N, weights, rng=0).update(K[:, :N], V[:, :N])
    held, exact = (
        Kept(x).partial(range(3), Q.reshape(3, -1, D), D**-0.5)
        for x in (cache, ExactCache().update(K[:, :N], V[:, :N]))
    )
    np.testing.assert_allclose(held.lse(), exact.lse(), rtol=2e-5)


def test_a_priority_sample_counts_a_token_by_the_threshold_and_nothing_where_it_holds_none():
    v = V[:, :N].copy()
    v[1] = 0
    cache = ReservoirCache(10, "priority", rng=0).update(K[:, :N], v)
    counts = np.exp(cache.log_counts())
    for head in (0, 2):
        squares = (cache.contents()["values"][head].astype(float) ** 2).sum(axis=1)
        several = counts[head] > 1.001  # times their squares that is one number, the threshold's inverse
        least = (counts[head] * squares)[several][0]
        np.testing.assert_allclose(counts[head][several] * squares[several], least)
        assert several.any() and (squares[~several] >= 0.999 * least).all() and np.allclose(counts[head][~several], 1)
        assert N / 4 < counts[head].sum() < 4 * N
    assert not counts[1].any()


def test_merged_answers_of_subgen_stay_within_its_bound():
    """Its two sums come from different tokens: where logits spread their quotient was up to 3e38, and infinite."""
    q, k, v = (rows(seed, 1, 1, 300, D) for seed in range(3))
    attend = PromptCached([SubGenCache(0.1, 1, 4, max_clusters=8, rng=0)])
    attend(0, *(x[:, :, :280] for x in (q, k, v)))
    for spread in (1, 30, 1000):
        out = attend(0, *(x[:, :, 280:] for x in (np.float32(spread) * q, k, v)))
        assert np.abs(out).max() <= np.linalg.norm(v[:, :, :280]) * (1 + 1e-5)


@pytest.mark.parametrize("make", [ExactCache, ZeroCache, *MERGED.values()])
def test_half_precision_decodes_in_single(make):
    halves = [rows(seed, 1, *shape).astype(np.float16) for seed, shape in enumerate(SHAPES)]
    out = {}
    for dtype in (np.float16, np.float32):
        q, k, v = (x.astype(dtype) for x in halves)
        attend = PromptCached([make()])
        attend(0, q[:, :, :N], k[:, :, :N], v[:, :, :N])
        out[dtype] = attend(0, q[:, :, N:], k[:, :, N:], v[:, :, N:])
        assert out[dtype].dtype == dtype
    np.testing.assert_allclose(out[np.float16], out[np.float32].astype(np.float16), rtol=2e-3)


def test_one_cache_for_several_layers_is_refused():
    for attention in (CachedAttention, PromptCached):
        with pytest.raises(ValueError, match="caches must be one for each layer"):
            attention([SinkCache(10)] * 2)


def test_an_answer_whose_sums_do_not_fit_is_refused_and_one_that_fits_is_right():
    q, k = rows(0, 1, 1, N, D), rows(1, 1, 1, N, D)
    v = np.full_like(k, 3e38)
    exact, sampled = PromptCached([ExactCache()]), PromptCached([ReservoirCache(N, rng=0)])
    for attend in (exact, sampled):
        attend(0, *(x[:, :, :-1] for x in (q, k, v)))
    np.testing.assert_allclose(exact(0, *(x[:, :, -1:] for x in (q, k, v))), v[:, :, -1:], rtol=1e-5)
    with pytest.raises(ValueError, match="an answer after the prompt must fit in float32"):
        sampled(0, *(x[:, :, -1:] for x in (q, k, v)))


def test_with_exact_caches_the_decoder_says_what_it_says_of_the_whole_text():
    model = open_model()
    text, n, layers = model.beginning(90), 60, []

    def recorded(layer, q, k, v):
        cache = ExactCache().update(k[0], v[0])
        heads = list(range(k.shape[1]))
        layers.append([Share(heads, Kept(cache), heads)])
        return causal(layer, q, k, v)

    model.decoder.logits(text[:n], attend=recorded)
    window = model.decoder.logits(text[n:], attend=AfterPrompt(layers), start=n)
    np.testing.assert_allclose(window, model.decoder.logits(text)[n:], atol=2e-3)


@pytest.mark.parametrize(
    "make", [ExactCache, lambda: SinkCache(10, 2), lambda: ReservoirCache(10, "value-norm", rng=0)]
)
def test_a_cache_of_the_prompt_alone_decodes_as_a_window_behind_it_reads(make):
    """In two texts at once, whose later tokens come in two calls; the caches stay what the prompt left."""
    texts = range(2)
    q, k, v = (np.stack([rows(10 * seed + text, *shape) for text in texts]) for seed, shape in enumerate(SHAPES))
    attend = PromptCached([make()])
    attend(0, q[:, :, :N], k[:, :, :N], v[:, :, :N])
    left = {name: x.copy() for name, x in attend.caches[0].contents().items()}
    got = [attend(0, q[:, :, at], k[:, :, at], v[:, :, at]) for at in (slice(N, N + 3), slice(N + 3, N + T))]
    kept = Kept(attend.caches[0])
    for text in texts:
        behind = AfterPrompt([[Share([0, 1, 2], kept, [3 * text, 3 * text + 1, 3 * text + 2])]])
        want = behind(0, *(x[text : text + 1, :, N:] for x in (q, k, v)))
        np.testing.assert_allclose(np.concatenate(got, axis=2)[text : text + 1], want, rtol=2e-5, atol=2e-6)
    assert all(np.array_equal(left[name], x) for name, x in attend.caches[0].contents().items())
    assert attend.nbytes >= attend.caches[0].nbytes + k[:, :, N:].nbytes + v[:, :, N:].nbytes


def test_every_layer_has_its_own_prompt_and_later_tokens():
    layers = [[rows(10 * layer + seed, 1, *shape) for seed, shape in enumerate(SHAPES)] for layer in range(2)]
    attend = PromptCached([ExactCache(), ExactCache()])
    for at in (slice(0, N), slice(N, N + T)):
        for layer, its in enumerate(layers):
            got = attend(layer, *(x[:, :, at] for x in its))
            np.testing.assert_allclose(got, causal(layer, *its)[:, :, at], rtol=2e-5, atol=2e-6)


def test_a_cache_that_cannot_be_merged_is_refused_with_the_prompt():
    q, k, v = (rows(seed, 1, *shape) for seed, shape in enumerate(SHAPES))
    with pytest.raises(TypeError, match="a SubGenCache with a recent window cannot be merged"):
        PromptCached([SubGenCache(0.0, 1, 4, recent=2, rng=0)])(0, q, k, v)
