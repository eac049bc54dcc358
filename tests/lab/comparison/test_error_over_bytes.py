"""The experiments on caches, at tiny sizes: streams, budgets and tables against the plainest references."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from sublinattn.lab.comparison import error_over_bytes, registry
from sublinattn.lab.run import Run, generator
from sublinattn.lab.workloads import real
from sublinattn.lab.workloads.inputs import REAL
from sublinattn.methods.caches.exact import ExactCache
from sublinattn.methods.caches.reservoir import ReservoirCache
from sublinattn.methods.subgen.studies import ablation, questions
from sublinattn.methods.subgen.subgen import SubGenCache
from sublinattn.primitives.clustering import OnlineClusters

RUN = Run(backend="numpy")
N = 256


@pytest.fixture(scope="module")
def stream() -> registry.Stream:
    return registry.drawn(error_over_bytes.CLUSTERS_MEAN, N, 0, RUN)[0]


@pytest.fixture(scope="module")
def real_stream() -> registry.Stream:
    return registry.drawn(REAL, N, 0, RUN)[0]


def small(monkeypatch, **sizes):
    """Wherever a run picks by effort, it gets the entry of `sizes` for what smoke has."""
    monkeypatch.setattr(Run, "pick", lambda self, *, smoke, **_: sizes.get(str(smoke), smoke))


def softmax(stream) -> np.ndarray:
    q, k = (a.astype(np.float64) for a in (stream.late, stream.x.k))
    e = np.exp(stream.x.scale * q @ k.T)
    return e / e.sum(axis=1, keepdims=True)


# ------------------------------------------------------------------------------------------------------ the stream
def test_stream_has_exact_answers_in_the_theorems_norm(stream):
    p, v = softmax(stream), stream.x.v.astype(np.float64)
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
    made = registry.competing(budget, given.x, generator(0, "budget"))
    assert {"subgen", "subgen, window", "sinks", "heavy hitters", "uniform", "value-norm", "k-center"} <= set(made)
    for name, cache in made.items():
        held = registry.feed(cache, given, budget).nbytes
        row = (given.x.k.shape[1] + given.x.v.shape[1]) * 4 + 8
        assert budget * (0.4 if name.startswith("subgen") else 1) - row <= held <= budget, name


def test_a_cache_over_its_budget_is_refused(stream):
    with pytest.raises(ValueError, match="ReservoirCache must hold at most 1000 bytes, it holds 5200"):
        registry.feed(ReservoirCache(10, rng=0), stream, 1000)


def test_only_heavy_hitters_learn_from_queries(stream):
    def answers(ask: bool) -> dict[str, np.ndarray]:
        made = registry.competing(stream.cache_bytes // 8, stream.x, generator(0, "learn"))
        return {name: stream.feed(cache, 16, ask=ask).attend(stream.late) for name, cache in made.items()}

    deaf, hearing = answers(False), answers(True)
    assert [name for name in deaf if (deaf[name] != hearing[name]).any()] == ["heavy hitters"]


def test_subgen_splits_its_bytes_as_stated(stream):
    budget, row = 60_000, 128 * 4
    plain, window = (registry.subgen_within(budget, stream.x, generator(0, "s"), window=w) for w in (0.0, 0.5))
    assert (plain.recent, plain.value_samples) == (0, budget // 2 // (row + 8))
    assert window.recent == budget // 2 // row
    assert window.value_samples == (budget - window.recent * row) // 2 // (row + 8)


@pytest.mark.parametrize("most", [1, 31, 32, 100])
def test_told_delta_is_the_least_of_its_grid_that_fits(stream, most):
    def clusters(delta: float) -> int:
        found = OnlineClusters(delta, stream.x.k[:0])
        found.absorb(np, stream.x.k)
        return len(found.centers)

    delta, step = registry.filling_delta(stream.x, most), 256 ** (1 / 15)
    assert clusters(delta) <= most
    assert clusters(delta / step) > most or delta == pytest.approx(registry.first_delta(stream.x))


# ------------------------------------------------------------------------------------------------------ the tables
def test_over_bytes_has_every_yardstick(monkeypatch):
    small(monkeypatch, **{"1024": N, "3": 2})
    rows = error_over_bytes.over_bytes(RUN, inputs=(error_over_bytes.CLUSTERS_MEAN, error_over_bytes.HEAVY_VALUES))
    assert rows.groupby(["input", "method", "share"], dropna=False).size().eq(2).all()
    table = rows.groupby("method")[["relative", "held"]].agg(["min", "max"])
    assert table.loc["exact", ("relative", "max")] < 1e-5 and table.loc["exact", ("held", "min")] >= 1
    assert table.loc["zero"].tolist() == [1, 1, 0, 0]
    assert (rows["held"] <= rows["share"].fillna(9.0)).all()
    alone = error_over_bytes.over_bytes(RUN, inputs=(error_over_bytes.HEAVY_VALUES,))
    together = rows[rows["input"] == error_over_bytes.HEAVY_VALUES.label]
    assert sorted(alone["relative"]) == sorted(together["relative"])  # an input's rows do not depend on the others


def test_hindsight_is_the_setting_of_least_median():
    errors = {"subgen, hindsight 1": (1.0, 5.0, 6.0), "subgen, hindsight 4": (3.0, 4.0, 9.0), "uniform": (0.1,) * 3}
    rows = pd.DataFrame(
        [("a", 0.5, r, m, e) for m, values in errors.items() for r, e in enumerate(values)],
        columns=["input", "share", "replicate", "method", "relative"],
    )
    best = error_over_bytes.best_setting(rows)
    assert best.loc[best["method"] == error_over_bytes.HINDSIGHT, "relative"].tolist() == [3.0, 4.0, 9.0]
    assert set(best["method"]) == {error_over_bytes.HINDSIGHT, "uniform"}


def test_winner_is_clear_only_beyond_the_spread():
    ratios = {"a": (2.0, 2.0, 2.1, 1.9), "b": (0.5, 4.0, 1.0, 1.1)}
    rows = [
        (name, share, r, method, e)
        for name, found in ratios.items()
        for r, x in enumerate(found)
        for share, method, e in (
            *((0.5, m, f * x) for m, f in (("subgen", 1.0), ("subgen, hindsight", 1.5))),
            *((0.5, "uniform", 1.0), (np.nan, "zero", 1.5), (np.nan, "exact", 1e-7)),
        )
    ]
    table = error_over_bytes.winners(pd.DataFrame(rows, columns=["input", "share", "replicate", "method", "relative"]))
    assert table["winner"].tolist() == ["uniform", "uniform"] and table["clear"].tolist() == [True, False]
    assert table.loc["a", "subgen"].item() == pytest.approx((2 * 2 * 2.1 * 1.9) ** 0.25)
    assert table["beats zero"].all() and table.loc["a", "subgen / uniform"].item().startswith("2.00 [1.")


def test_retrieval_finds_what_is_held(monkeypatch):
    small(monkeypatch, **{"512": 128, "25": 6})
    table = error_over_bytes.accuracies(error_over_bytes.retrieval(RUN)).set_index(["method", "share"])["rate"]
    assert table["exact"].item() == 1 and table["zero"].item() == 0
    assert table[error_over_bytes.INFORMED, 0.25] == 1 > table["sinks", 0.25]


def test_hit_needs_the_largest_entry_alone():
    assert error_over_bytes.hit(np.array([1.0, 3.0, 2.0]), 1)
    assert not error_over_bytes.hit(np.zeros(3), 1) and not error_over_bytes.hit(np.array([3.0, 3.0]), 0)
    x = error_over_bytes.NEEDLES.draw(64, 8, generator(0, "needles"))
    exact = ExactCache().update(x.k, x.v).attend(x.q, scale=x.scale)
    assert [error_over_bytes.needle(x, i) for i in range(64)] == exact.argmax(axis=1).tolist()


# ------------------------------------------------------------------------------------------------------ the ablation
def test_rows_taken_out_of_a_cache_answer_as_it_does(stream):
    cache = stream.feed(SubGenCache(1.0, 3, 40, rng=1), 50)
    np.testing.assert_allclose(
        ablation.answer(stream, *ablation.subgen_rows(cache)),
        cache.attend(stream.late, scale=stream.x.scale),
        rtol=2e-4,
    )
    fewer = ablation.subgen_rows(cache, slots=10, samples=2)
    assert [len(part.k) for part in fewer] == [10, 64] and fewer[1].w.sum() == pytest.approx(N)
    squares = (stream.x.v.astype(np.float64) ** 2).sum()
    np.testing.assert_allclose(fewer[0].w * (fewer[0].v.astype(np.float64) ** 2).sum(axis=1), squares / 10, rtol=1e-6)


def test_whole_stream_is_exact_and_other_rows_stand_for_all_keys(stream):
    whole = ablation.whole(stream)
    np.testing.assert_allclose(ablation.answer(stream, whole, whole), stream.exact, rtol=1e-9)
    centres = ablation.center_rows(stream, 20)
    distance = ((stream.x.k[:, None] - centres.k[None]) ** 2).sum(axis=2)
    assert centres.w.tolist() == np.bincount(distance.argmin(axis=1), minlength=20).tolist()
    drawn = ablation.uniform_rows(stream, 16, generator(0, "u"))
    assert (drawn.w == N / 16).all() and len(drawn.k) == len(drawn.v) == 16


def test_numerator_and_normaliser_have_references_of_their_own(stream):
    x = replace(stream.x, scale=40.0)  # logits beyond what exp takes
    steep = registry.Stream.of(x, generator(0, "steep"), np)
    rows = ablation.uniform_rows(steep, 20, generator(0, "u"))
    q, k, few = (a.astype(np.float64) for a in (steep.late, x.k, rows.k))
    log_tau = np.logaddexp.reduce(40.0 * q @ k.T, axis=1)
    expected = np.exp(40.0 * q @ few.T - log_tau[:, None]) * N / 20 @ rows.v
    np.testing.assert_allclose(ablation.answer(steep, rows, ablation.whole(steep)), expected, rtol=1e-8, atol=1e-300)


def test_law_of_the_numerator_is_that_of_every_slot_enumerated(monkeypatch):
    small(monkeypatch, **{"2048": N, "256": 4, "6": 2})
    rows = ablation.curves(RUN)
    given, _ = registry.drawn(ablation.FEW, N, 0, RUN)
    p, v = softmax(given), given.x.v.astype(np.float64)
    law = (v**2).sum(axis=1) / (v**2).sum()
    one = np.array([(law * (((pq / law)[:, None] * v - pq @ v) ** 2).sum(axis=1)).sum() for pq in p])  # of one slot
    expected = np.sqrt((one / given.unit**2).mean() / 4)
    here = rows[(rows["varies"] == "s") & (rows["x"] == 4) & (rows["replicate"] == 0)]
    assert here["law"].to_numpy() == pytest.approx(expected, rel=1e-9)
    assert set(rows["x"]) == {2, 4} and rows["replicate"].nunique() == 2


def test_normaliser_stays_under_its_bound_and_slopes_are_those_drawn(monkeypatch):
    small(monkeypatch, **{"2048": N, "256": 64})
    rows = ablation.curves(RUN)
    part = rows[(rows["varies"] == "t") & (rows["what"] == "part")]
    assert (part["error"] < part["law"]).all()
    made = [("s", r, x, "part", (1 + r) * x**-0.5) for r in range(3) for x in (1, 4, 16)]
    table = ablation.slopes(pd.DataFrame(made, columns=["varies", "replicate", "x", "what", "error"]))
    assert table.loc["s"].to_numpy() == pytest.approx([-0.5] * 3)


def test_parts_have_every_pair(monkeypatch):
    small(monkeypatch, **{"1024": N, "3": 2, "6": 2})
    monkeypatch.setattr(ablation, "INPUTS", (error_over_bytes.CLUSTERS_MEAN,))
    rows = ablation.parts(RUN)
    pairs = {(t, z) for t in ablation.NORMALISERS for z in ablation.NUMERATORS}
    pairs |= {(ablation.SHARED, "value-norm"), (ablation.SHARED, "uniform"), ("zero", "zero")}
    table = rows.groupby(["normaliser", "numerator"])["relative"].agg(["size", "max"])
    assert set(table.index) == pairs and (table["size"] == 2).all()
    assert table.loc[("exact", "exact"), "max"] < 1e-9 and table.loc[("zero", "zero"), "max"] == 1


def test_settings_keep_within_a_quarter_of_the_bytes(monkeypatch):
    small(monkeypatch, **{"1024": N, "2": 1, "3": 1})
    monkeypatch.setattr(ablation, "SETTINGS_INPUTS", (error_over_bytes.CLUSTERS_MEAN,))
    rows = ablation.settings(RUN).set_index("varies")
    assert (rows.loc[["window", "t"], "held"] <= 0.25).all()
    clusters = rows.loc["delta"].set_index("x")["clusters"]
    assert clusters.is_monotonic_decreasing and clusters[0.25] * N == 32


# ------------------------------------------------------------------------------------------------------ the questions
def test_lengths_are_those_of_the_heads():
    table = questions.lengths(RUN)
    assert len(table) == 3 * 72
    one = real().head(2, 5).first(128)
    k = one.k.astype(np.float64)
    least, radius = np.full(128, np.inf), 0.0
    centre = 0
    for _ in range(round(128**0.5)):
        least = np.minimum(least, np.linalg.norm(k - k[centre], axis=1))
        centre, radius = int(least.argmax()), least.max()
    r = one.scale * np.linalg.norm(one.q.astype(np.float64), axis=1).max()
    row = table[(table["n"] == 128) & (table["layer"] == 2) & (table["head"] == 5)].iloc[0]
    assert row["delta_r"] == pytest.approx(radius * r, rel=1e-5)
    assert row["over_log"] == pytest.approx(radius * r / np.log(128), rel=1e-5)


def test_answers_follow_the_values():
    costs = {"n": 100, **{f"{m} {x}": 1024.0 for m in ("subgen", "exact") for x in ("bytes", "token", "query")}}
    heads = pd.DataFrame({"n": [8, 8, 64, 64], "delta_r": [1.0, 1.0, 1.0, 3.0], "over_log": [0.5, 0.5, 0.25, 0.75]})
    bounds = pd.DataFrame({"error": [0.1, 0.2, 0.1], "bound": [0.4, 0.4, 0.5]})
    names = (*ablation.NORMALISERS, ablation.SHARED)
    made = [("a", name, "value-norm", r, 0.5 * (1 + r)) for name in names for r in (0, 1)]
    parts = pd.DataFrame(made, columns=["input", "normaliser", "numerator", "replicate", "relative"])
    table = questions.answers((3, 4, 200), costs, heads, bounds, {"a": 1e-7, "b": 3e-7}, parts)["measured"]
    assert "3 numbers of its state differ" in table["The streaming algorithm itself?"]
    assert "100 tokens: 1 KiB" in table["Memory and time?"]
    assert "0.50 at n = 8 and 0.50 at n = 64" in table["Is delta r = o(log n)?"]
    assert "below n in 50% of the heads" in table["Is delta r = o(log n)?"]
    assert "is 4.0 times (median) below the bound, at least 2.0 times in 3" in table["The error of the bound itself?"]
    assert "at most 3e-07 on 2 inputs" in table["The uncompressed cache?"]
    assert "exact 0.75" in table["Ablation?"] and "factor 2 (a), over 2" in table["Error bars?"]


def test_questions_measure_what_they_say(stream):
    assert questions.differing(RUN) == (0, 4, 200)
    assert max(questions.uncompressed(RUN).values()) < 1e-5
    found = questions.slack(RUN)
    assert (found["error"] < found["bound"]).mean() > 0.9 and set(found["instance"]) == {0, 1, 2, 3}


def test_subgen_beside_uniform_sampling():
    cells = {"a": (5.0, 2.0, 2.0, 0.25), "b": (8.0, 1.0, 2.0, 1.0), "c": (3.0, 2.0, 1.0, 0.25)}
    rows = pd.DataFrame(
        [
            (name, 0.1, method, error, 0.16 * (share if method == "subgen" else 1))
            for name, (subgen, uniform, hindsight, share) in cells.items()
            for method, error in (("subgen", subgen), ("uniform", uniform), (error_over_bytes.HINDSIGHT, hindsight))
        ],
        columns=["input", "share", "method", "relative", "held"],
    )
    beside = error_over_bytes.against_uniform(rows)
    assert [beside[name] for name in ("behind", "behind_hindsight", "behind_per_byte")] == [1.0, 1 / 3, 2 / 3]
    assert beside["used"] == (0.25, 1.0) and beside["ratios"].to_dict() == {"a": 2.5, "b": 8.0, "c": 1.5}
