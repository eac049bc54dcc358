"""Streams that all caches read, and the budgets of the registered caches."""

from dataclasses import replace

import numpy as np
import pytest
import toy_comparison
from toy_comparison import RUN, N

from sublinattn.lab.comparison import error_over_bytes, registry
from sublinattn.lab.run import generator
from sublinattn.lab.workloads.inputs import REAL
from sublinattn.methods.caches.reservoir import ReservoirCache
from sublinattn.plots.style import METHODS
from sublinattn.primitives.clustering import OnlineClusters


@pytest.fixture(scope="module")
def stream() -> registry.Stream:
    return toy_comparison.stream()


@pytest.fixture(scope="module")
def real_stream() -> registry.Stream:
    return registry.drawn(REAL, N, 0, RUN)[0]


# ------------------------------------------------------------------------------------------------------ the stream
def test_stream_has_exact_answers_in_the_theorems_norm(stream):
    p, v = toy_comparison.softmax(stream), stream.x.v.astype(np.float64)
    np.testing.assert_allclose(stream.exact, p @ v, rtol=1e-10)
    np.testing.assert_allclose(stream.unit, np.sqrt((p**2).sum(axis=1)) * np.linalg.norm(v, 2), rtol=1e-9)
    zero, half = (stream.errors(f * stream.exact) for f in (0.0, 0.5))
    assert zero == (pytest.approx((np.linalg.norm(p @ v, axis=1) / stream.unit).mean()), pytest.approx(1))
    assert half == (pytest.approx(zero[0] / 2), pytest.approx(0.5))


def test_held_out_queries_are_not_asked_before(stream):
    asked = {tuple(q) for q in stream.early[stream.asked]}
    assert len(stream.late) == min(registry.QUERIES, N // 2) == N - len(asked)
    assert not asked & {tuple(q) for q in stream.late}


def test_nobody_looks_for_a_needle_before_the_end():
    needles, _ = registry.drawn(error_over_bytes.NEEDLES, N, 0, RUN)
    lengths = np.linalg.norm(needles.early, axis=1)
    assert needles.asked.all() and lengths == pytest.approx(registry.QUERY_NORM, rel=1e-5)
    wanted = needles.x.q / np.linalg.norm(needles.x.q, axis=1)[:, None]
    assert (needles.late @ wanted.T / np.linalg.norm(needles.late, axis=1)[:, None]).max(axis=1).min() > 0.999
    assert (needles.early @ wanted.T).max() < 0.8 * registry.QUERY_NORM


def test_real_streams_are_different_heads_in_any_order():
    first = [registry.drawn(REAL, N, i, RUN)[0].x.k[0].tobytes() for i in (3, 0, 1, 2)]
    again = [registry.drawn(REAL, N, i, RUN)[0].x.k[0].tobytes() for i in (0, 1, 2, 3)]
    assert len(set(first)) == 4 and first == [again[i] for i in (3, 0, 1, 2)]


# ------------------------------------------------------------------------------------------------------ the budget
@pytest.mark.parametrize("share", [1 / 32, 1 / 8, 1 / 2])
@pytest.mark.parametrize("which", ["stream", "real_stream"])
def test_no_cache_holds_more_than_its_budget_and_most_hold_nearly_all(which, share, request):
    given = request.getfixturevalue(which)
    budget = int(share * given.cache_bytes)
    made = registry.competing(budget, given.x, generator(0, "budget"), hindsight=True)
    assert {"subgen", "subgen, window", "sinks", "heavy hitters", "uniform", "value-norm", "k-center"} <= set(made)
    for name, cache in made.items():
        held = registry.feed(name, cache, given, budget).nbytes
        row = (given.x.k.shape[1] + given.x.v.shape[1]) * 4 + 8
        least = 0.4 if name.startswith(("subgen", "balancekv")) else 1
        least /= cache.buckets if name == "balancekv, buckets" else 1  # only classes with tokens take their room
        assert budget * least - row <= held <= budget, name


def test_a_cache_over_its_budget_is_refused(stream):
    with pytest.raises(ValueError, match="ReservoirCache must hold at most 1000 bytes, it holds 5200"):
        registry.feed("uniform", ReservoirCache(10, rng=0), stream, 1000)


def test_only_heavy_hitters_learn_from_queries(stream):
    def answers(ask: bool) -> dict[str, np.ndarray]:
        made = registry.competing(stream.cache_bytes // 8, stream.x, generator(0, "learn"), hindsight=True)
        return {name: stream.feed(cache, 16, ask=ask).attend(stream.late) for name, cache in made.items()}

    deaf, hearing = answers(False), answers(True)
    assert [name for name in deaf if (deaf[name] != hearing[name]).any()] == ["heavy hitters"]
    assert [name for name, contender in registry.REGISTRY.items() if contender.asks] == ["heavy hitters"]


def test_contenders_without_hindsight_need_one_token_and_all_but_settings_have_a_look(stream):
    first = replace(stream.x, q=stream.x.q[:1], k=stream.x.k[:1], v=stream.x.v[:1])
    made = registry.competing(stream.cache_bytes // 4, first, generator(0, "first"))
    again = registry.competing(stream.cache_bytes // 4, stream.x, generator(0, "first"))
    for name, cache in made.items():
        answers = [registry.feed(name, c, stream, 10**9).attend(stream.late) for c in (cache, again[name])]
        np.testing.assert_array_equal(*answers)
    assert {name for name in registry.REGISTRY if name not in METHODS} == {"subgen, t = 1", "subgen, t = 16"}
    assert set(made) == {name for name, contender in registry.REGISTRY.items() if not contender.hindsight}


def test_subgen_splits_its_bytes_as_stated(stream):
    budget, row = 60_000, 128 * 4
    plain, window = (registry.subgen_within(budget, stream.x, generator(0, "s"), window=w) for w in (0.0, 0.5))
    assert (plain.recent, plain.value_samples) == (0, budget // 2 // (row + 8))
    assert window.recent == budget // 2 // row
    assert window.value_samples == (budget - window.recent * row) // 2 // (row + 8)


@pytest.mark.parametrize("tokens", [5, 8, 20, 64, 256, 1024])
def test_buckets_have_room_for_as_many_classes_as_levels_and_no_more_fit(stream, tokens):
    def nbytes(batch: int, buckets: int) -> int:
        levels = int(np.ceil(np.log2(batch)))
        numbers = buckets * (2 * 64 + 1) + 64 + 2  # of a slot: in every class, and in the normaliser
        return 4 * (batch + levels * batch // 2) * numbers

    def batch(buckets: int) -> int:  # the largest that fits
        return max((t for t in range(2, 600, 2) if nbytes(t, buckets) <= 512 * tokens), default=0)

    fitting = [b for b in range(1, 20) if batch(b) and np.ceil(np.log2(batch(b))) >= b]
    cache = registry.bucketed(512 * tokens, stream.x, generator(0, "buckets"))
    assert (cache.buckets, cache.batch, cache.pairs) == (max(fitting), batch(max(fitting)), False)
    assert cache.scale == stream.x.scale
    with pytest.raises(ValueError, match="nbytes must be at least that of 3 slots"):
        registry.bucketed(2000, stream.x, generator(0, "buckets"))


def test_contenders_that_came_later_leave_the_draws_of_the_others_as_they_were(stream):
    """The generator goes on as if they were not there, and each call has other draws for them."""
    later, nbytes = ("value-norm, once", "balancekv, buckets"), stream.cache_bytes // 4
    rng, alone = generator(0, "apart"), generator(0, "apart")
    made = [registry.competing(nbytes, stream.x, rng, hindsight=True) for _ in range(2)]
    with pytest.MonkeyPatch.context() as patch:
        for name in later:
            patch.delitem(registry.REGISTRY, name)
        before = [registry.competing(nbytes, stream.x, alone, hindsight=True) for _ in range(2)]
    assert rng.integers(2**63) == alone.integers(2**63) and set(made[0]) == {*before[0], *later}
    answers = {
        name: [registry.feed(name, caches[name], stream, nbytes).attend(stream.late) for caches in made]
        for name in ("value-norm", "balancekv", *later)
    }
    for name in ("value-norm", "balancekv"):
        for answer, caches in zip(answers[name], before, strict=True):
            np.testing.assert_array_equal(answer, stream.feed(caches[name], 1024).attend(stream.late))
    assert all((first != second).any() for first, second in answers.values())


@pytest.mark.parametrize("maximum", [1, 31, 32, 100])
def test_told_delta_is_the_least_of_its_grid_that_fits(stream, maximum):
    def clusters(delta: float) -> int:
        clusters = OnlineClusters(delta, stream.x.k[:0])
        clusters.absorb(np, stream.x.k)
        return len(clusters.centers)

    delta, step = registry.filling_delta(stream.x, maximum), 256 ** (1 / 15)
    assert clusters(delta) <= maximum
    assert clusters(delta / step) > maximum or delta == pytest.approx(registry.first_delta(stream.x))
