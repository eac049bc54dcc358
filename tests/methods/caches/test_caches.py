"""The caches hold the tokens that they should, whatever the chunks, and answer with attention over them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import references
from toy_caches import BUDGET, CACHES, D_V, feed, heavy_hitters, over, spans, stream, tokens
from toy_states import contents

from sublinattn.core import backends
from sublinattn.methods.balancekv.balancekv import BalanceKVCache
from sublinattn.methods.balancekv.buckets import BucketedBalanceKVCache
from sublinattn.methods.caches.exact import ExactCache, ZeroCache
from sublinattn.methods.caches.heavy_hitter import HeavyHitterCache
from sublinattn.methods.caches.k_center import KCenterCache
from sublinattn.methods.caches.reservoir import ReservoirCache
from sublinattn.methods.caches.sink import SinkCache
from sublinattn.methods.subgen.subgen import SubGenCache

N = 40
CUTS = {"at once": [], "one by one": list(range(1, N)), "uneven": [1, 2, 9, 10, 26, 39]}
EXACT = [name for name in CACHES if name not in ("value-norm", "zero")]
OWN_DRAWS = ("uniform", "value-norm", "priority", "balance", "buckets")  # each head its own
STREAMING = [name for name in CACHES if name != "k-center"]  # whose state does not depend on the chunks


def close(found: Any, expected: np.ndarray, tolerance: float = 1e-12) -> None:
    np.testing.assert_allclose(backends.asnumpy(found), expected, rtol=tolerance, atol=tolerance)


# ---------------------------------------------------------------------------------------------------- within the budget
@pytest.mark.parametrize("cuts", CUTS)
@pytest.mark.parametrize("lead", [(), (2, 3)])
@pytest.mark.parametrize("name", EXACT)
def test_within_its_budget_every_cache_is_exact(xp: Any, name: str, lead: tuple[int, ...], cuts: str) -> None:
    q, k, v = stream(xp, 0, N, lead=lead)
    expected, _ = references.attention(*map(backends.asnumpy, (q, k, v)), scale=0.7)
    cache = feed(CACHES[name](N), k, v, CUTS[cuts])
    assert cache.tokens_seen == N
    close(cache.attend(q, scale=0.7), expected)
    if not lead:
        close(cache.attend(q[2], scale=0.7), expected[2])


@pytest.mark.parametrize("name", CACHES)
def test_logits_of_ten_thousand(xp: Any, name: str) -> None:
    q, k, v = stream(xp, 2, N, dtype=np.float32)
    largest = abs(backends.asnumpy(q).astype(float) @ backends.asnumpy(k).astype(float).T).max()
    for scale in (1e4 / largest, -1e4 / largest):
        cache = feed(CACHES[name](N if name in EXACT else BUDGET), k, v, CUTS["uneven"])
        answer = backends.asnumpy(cache.attend(q, scale=scale))
        assert answer.dtype == np.float32 and np.isfinite(answer).all()
        if name in EXACT:  # logits are rounded to 1e4 * 2^-24 each
            expected, _ = references.attention(*map(backends.asnumpy, (q, k, v)), scale=scale)
            close(answer, expected, 1e-2)
        cache.update(k, v).attend(q)


@pytest.mark.parametrize("name", CACHES)
def test_half_precision_accumulates_in_single(xp: Any, name: str) -> None:
    q, k, v = stream(xp, 3, N, dtype=np.float16)
    half, single = CACHES[name](), CACHES[name]()
    feed(half, k, v, CUTS["uneven"])
    feed(single, *(x.astype(np.float32) for x in (k, v)), CUTS["uneven"])
    answer = half.attend(q)
    assert answer.dtype == np.float16 and half.nbytes == single.nbytes
    np.testing.assert_array_equal(
        backends.asnumpy(answer), backends.asnumpy(single.attend(q.astype(np.float32))).astype(np.float16)
    )


# --------------------------------------------------------------------------------------------------- past the budget
@pytest.mark.parametrize("cuts", CUTS)
@pytest.mark.parametrize(("window", "sinks"), [(1, 0), (7, 0), (7, 2), (1, 4), (5, 5)])
def test_sink_cache_holds_the_first_and_the_last(xp: Any, window: int, sinks: int, cuts: str) -> None:
    q, k, v = stream(xp, 4, N)
    cache = SinkCache(window, sinks)
    for begin, end in spans(CUTS[cuts], N):
        cache.update(k[begin:end], v[begin:end])
        kept = [j for j in range(end) if j < sinks or j >= end - window]
        assert sorted(tokens(cache, k)) == kept
        close(cache.attend(q), over(q, k, v, kept))


@pytest.mark.parametrize("cuts", CUTS)
@pytest.mark.parametrize(("budget", "recent"), [(9, 3), (9, 0), (9, 9), (1, 0), (1, 1), (12, 11)])
def test_heavy_hitters_are_those_of_the_plain_loop(
    xp: Any, monkeypatch: pytest.MonkeyPatch, budget: int, recent: int, cuts: str
) -> None:
    monkeypatch.setattr(backends, "feature_rows", lambda xp, features, dtype: 7)  # queries at a time
    q, k, v = stream(xp, 5, N, n_q=N, size=2.0)
    plain = [backends.asnumpy(x) for x in (q, k, v)]
    events: list[tuple[str, int]] = []
    cache = HeavyHitterCache(budget, recent)
    for begin, end in spans(CUTS[cuts], N):
        cache.update(k[begin:end], v[begin:end])
        answer = cache.attend(q[begin:end])
        events += [("token", j) for j in range(begin, end)] + [("query", i) for i in range(begin, end)]
        scores, seen = heavy_hitters(events, plain[0], plain[1], budget, recent)
        assert tokens(cache, k) == seen[-1] == sorted(scores)
        close(cache.contents()["scores"], [[scores[token] for token in sorted(scores)]])
        close(answer, over(q[begin:end], k, v, seen[-1]))


@pytest.mark.parametrize("cuts", ["at once", "uneven"])
@pytest.mark.parametrize(("budget", "recent"), [(9, 3), (9, 0), (9, 9), (1, 0), (9, 8)])
def test_k_center_of_what_is_stored_and_what_leaves_the_window(xp: Any, budget: int, recent: int, cuts: str) -> None:
    q, k, v = stream(xp, 9, N)
    cache, plain, kept = KCenterCache(budget, recent), backends.asnumpy(k), []
    for begin, end in spans(CUTS[cuts], N):
        cache.update(k[begin:end], v[begin:end])
        kept += range(begin, end)
        if len(kept) > budget:
            outside, window = kept[: len(kept) - recent], kept[len(kept) - recent :]
            centres = references.greedy_k_center(plain[outside], budget - recent)[0] if budget > recent else []
            kept = sorted(outside[i] for i in centres) + window
        assert tokens(cache, k) == kept
        close(cache.attend(q), over(q, k, v, kept))


def test_k_center_of_repeated_keys_fills_up_with_the_newest(xp: Any) -> None:
    """Three different keys, over and over: a second problem beside it has centres enough."""
    _, k, v = (backends.asnumpy(x) for x in stream(xp, 11, N, lead=(2,)))
    k[0] = k[0, np.arange(N) % 3]
    v[0, :, 0] = np.arange(N)
    cache = KCenterCache(8, 2).update(xp.asarray(k), xp.asarray(v))
    assert backends.asnumpy(cache.contents()["values"])[0, :, 0].tolist() == [0, 1, 2, 35, 36, 37, 38, 39]
    assert tokens(cache, k, 1) == sorted(references.greedy_k_center(k[1, :-2], 6)[0]) + [38, 39]


def test_zero_cache_answers_zero(xp: Any) -> None:
    q, k, v = stream(xp, 12, N, lead=(2,))
    answer = ZeroCache().update(k, v).merge(ZeroCache().update(k, v)).attend(q)
    assert answer.shape == (2, 5, D_V) and not backends.asnumpy(answer).any()


# -------------------------------------------------------------------------------------------------- chunks and problems
@pytest.mark.parametrize("lead", [(), (2, 2)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", STREAMING)
def test_chunks_change_no_bit(xp: Any, name: str, dtype: Any, lead: tuple[int, ...]) -> None:
    q, k, v = stream(xp, 13, N, n_q=2, lead=lead, dtype=dtype)

    def run(cuts: list[int]) -> list[np.ndarray]:
        """The same queries after the same tokens in any case: heavy hitters depend on them."""
        cache = CACHES[name]()
        for begin, end in ((0, 20), (20, N)):
            feed(cache, *(x[..., begin:end, :] for x in (k, v)), [c - begin for c in cuts if begin < c < end])
            answer = cache.attend(q)
        used = {"exact": N}.get(name, BUDGET)  # the room beyond differs
        return [backends.asnumpy(x[:, :used]) for x in cache.contents().values()] + [backends.asnumpy(answer)]

    whole = run(CUTS["at once"])
    for cuts in ("one by one", "uneven"):
        for x, y in zip(run(CUTS[cuts]), whole, strict=True):
            np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("name", [name for name in CACHES if name not in OWN_DRAWS])
def test_leading_axes_are_separate_problems(xp: Any, name: str) -> None:
    """Reservoirs and BalanceKV have draws of their own for each: see `test_reservoir_cache`, `test_balancekv`."""
    q, k, v = stream(xp, 14, N, n_q=12, lead=(2, 3))
    q2, _, _ = stream(xp, 15, N, n_q=7, lead=(2, 3))
    together = feed(CACHES[name](), k[..., :30, :], v[..., :30, :], [4, 25])
    first, last = together.attend(q), feed(together, k[..., 30:, :], v[..., 30:, :], []).attend(q2)
    for at in np.ndindex(2, 3):
        alone = feed(CACHES[name](), k[at][:30], v[at][:30], [4, 25])
        close(first[at], backends.asnumpy(alone.attend(q[at])))
        close(last[at], backends.asnumpy(feed(alone, k[at][30:], v[at][30:], []).attend(q2[at])))


# ----------------------------------------------------------------------------------------------------------- the bytes
@pytest.mark.parametrize("name", [name for name in CACHES if name not in ("exact", "balance", "buckets")])  # these grow
def test_bytes_are_bounded_by_the_budget(xp: Any, name: str) -> None:
    _, k, v = stream(xp, 17, 200, lead=(3,), dtype=np.float32)
    cache = CACHES[name]()
    bound = (
        3
        * BUDGET
        * (4 * 7 + {"heavy": 8, "uniform": 8, "value-norm": 8, "priority": 8}.get(name, 0))
        * (name != "zero")
    )
    for begin in range(0, 200, 7):
        assert cache.update(k[:, begin : begin + 7], v[:, begin : begin + 7]).nbytes <= bound
    assert cache.nbytes == bound


def test_sink_cache_grows_to_its_budget_and_no_further() -> None:
    _, k, v = stream(np, 21, 60)
    cache = SinkCache(40, 3)
    for j in range(60):
        cache.update(k[j], v[j])
        assert cache.nbytes <= 8 * 7 * min(43, (j + 1) * 9 / 8)
    assert cache.nbytes == 8 * 7 * 43


def test_exact_cache_grows_by_an_eighth() -> None:
    """Rows one by one: never more than an eighth to spare, and a new buffer only every eighth."""
    k = np.random.default_rng(18).standard_normal((3000, 4)).astype(np.float32)
    cache, buffers = ExactCache(), 0
    for j, row in enumerate(k):
        stored = cache.contents().get("keys")
        cache.update(row, row)
        buffers += cache.contents()["keys"] is not stored
        assert 32 * (j + 1) <= cache.nbytes <= 32 * (j + 1) * 9 / 8
    assert buffers <= 8 + np.log(3000 / 8) / np.log(9 / 8) * 1.3
    assert ExactCache().update(k, k).nbytes == 32 * 3000
    np.testing.assert_array_equal(cache.contents()["keys"][0, :3000], k)


# ------------------------------------------------------------------------------------------------------------- merging
def test_exact_caches_merge_into_the_cache_of_both(xp: Any, tmp_path: Path) -> None:
    q, k, v = stream(xp, 20, N, lead=(2,))
    expected, _ = references.attention(*map(backends.asnumpy, (q, k, v)))
    parts = [(x[:, :11], x[:, 11:]) for x in (k, v)]
    # One by one: both then have room to spare, or not.
    one, other = (feed(ExactCache(), *its, list(range(1, its[0].shape[1]))) for its in zip(*parts, strict=True))
    assert other.contents()["keys"].shape[1] > N - 11
    before = contents(other, tmp_path)
    merged = [one.merge(other), ExactCache().merge(one), one.merge(ExactCache())]
    for cache in merged:
        assert cache.tokens_seen == N
        close(cache.attend(q), expected)
    one.update(k, v)
    assert merged[1].tokens_seen == N and contents(other, tmp_path) == before
    close(merged[1].attend(q), expected)


@pytest.mark.parametrize("name", ["sink", "heavy", "k-center"])
def test_caches_without_an_exact_meaning_do_not_merge(name: str) -> None:
    assert not hasattr(CACHES[name](), "merge")


# ------------------------------------------------------------------------------------------------------------- refusals
@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: SinkCache(0), ValueError, "window must be at least 1, got 0"),
        (lambda: SinkCache(4, -1), ValueError, "sinks must be at least 0, got -1"),
        (lambda: SinkCache(4.0), TypeError, "window must be an integer, got float"),
        (lambda: HeavyHitterCache(0, 0), ValueError, "budget must be at least 1, got 0"),
        (lambda: HeavyHitterCache(4, -1), ValueError, "recent must be at least 0, got -1"),
        (lambda: HeavyHitterCache(4, 5), ValueError, r"recent must be at most budget \(4\), got 5"),
        (lambda: HeavyHitterCache(4, True), TypeError, "recent must be an integer, got bool"),
        (lambda: KCenterCache(0, 0), ValueError, "budget must be at least 1, got 0"),
        (lambda: KCenterCache(4, 5), ValueError, r"recent must be at most budget \(4\), got 5"),
        (lambda: KCenterCache("4", 2), TypeError, "budget must be an integer, got str"),
        (lambda: ReservoirCache(0), ValueError, "budget must be at least 1, got 0"),
        (
            lambda: ReservoirCache(4, "norm"),
            ValueError,
            r"weights must be one of \('uniform', 'value-norm', 'priority'\), got",
        ),
        (lambda: ReservoirCache(4, rng="x"), TypeError, "rng must be a numpy.random.Generator"),
        (lambda: ReservoirCache(4, rng=-1), ValueError, "rng must be a numpy.random.Generator"),
    ],
)
def test_impossible_parameters(make: Callable[[], Any], error: Any, message: str) -> None:
    with pytest.raises(error, match=f"^{message}"):
        make()


@pytest.mark.parametrize(
    ("cache", "name"), [(KCenterCache(BUDGET, 2), "k"), (ReservoirCache(BUDGET, "value-norm"), "v")]
)
def test_rows_whose_squares_overflow_are_refused_where_these_are_summed(cache: Any, name: str) -> None:
    _, k, v = stream(np, 4, N, dtype=np.float32)
    rows = {"k": k, "v": v} | {name: np.float32(1e30) * {"k": k, "v": v}[name]}
    with pytest.raises(ValueError, match=f"{name} must have rows whose squared norms are finite in float32, got norm"):
        cache.update(**rows)
    assert cache.tokens_seen == 0 and cache.nbytes == 0
    answer = ReservoirCache(BUDGET).update(**rows).attend(k)
    assert np.isfinite(answer).all() and answer.shape == (N, D_V)


def test_the_scan_for_nan_can_be_skipped() -> None:
    q, k, v = stream(np, 3, N)
    v[3, 1] = np.nan
    assert np.isnan(ExactCache().update(k, v, check_finite=False).attend(q)).any()


# ----------------------------------------------------------------------------------------------------------- the device
TRANSFERS = {
    "exact": (1, 2),  # update: the norms; attend: those of the queries, and of what is attended to
    "sink": (1, 2),
    "heavy": (1, 1),
    "uniform": (1, 2),
    "value-norm": (2, 1),  # and the weights of the values; as many queries as coordinates ask for no norms
    "priority": (2, 1),
    "k-center": (2, 2),  # and the centers
    "balance": (1, 1),
    "buckets": (2, 1),  # and the norms of the values
    "zero": (1, 1),
}


@pytest.mark.parametrize("n", [30, 300])
@pytest.mark.parametrize("name", TRANSFERS)
def test_transfers_do_not_depend_on_the_number_of_tokens(xp: Any, name: str, n: int) -> None:
    if not hasattr(xp, "counts"):
        pytest.skip("transfers are not counted")
    q, k, v = stream(xp, 5, n, lead=(2,))
    cache = CACHES[name]()
    for _ in range(2):
        before = xp.counts.syncs
        cache.update(k, v)
        assert xp.counts.syncs - before == TRANSFERS[name][0]
        before = xp.counts.syncs
        answer = cache.attend(q)
        assert xp.counts.syncs - before == TRANSFERS[name][1]
    assert isinstance(answer, xp.Array)


WEIGHTED = {
    "BalanceKV": lambda: BalanceKVCache(64, rng=0),
    "BalanceKV, buckets": lambda: BucketedBalanceKVCache(64, rng=0),
    "value-norm": lambda: ReservoirCache(64, "value-norm", rng=0),
    "priority": lambda: ReservoirCache(64, "priority", rng=0),
    "SubGen's slots": lambda: SubGenCache(value_samples=64, normaliser="slots", rng=0),
}


@pytest.mark.parametrize("name", WEIGHTED)
def test_logits_past_the_largest_number_are_refused_without_a_warning_from_any_thread(name: str) -> None:
    """What a caller ignores its threads do not: with many queries this warned, and ended in that warning."""
    rng = np.random.default_rng(0)
    k, v = rng.standard_normal((2, 4, 300, 16)).astype(np.float32)
    q = rng.standard_normal((4, 20_000, 16)).astype(np.float32)
    cache = WEIGHTED[name]().update(k * np.float32(1e17), v)
    with pytest.raises(ValueError, match="logits must fit in float32"):
        cache.attend(q * np.float32(1e21))
