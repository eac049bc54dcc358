"""SubGen's ablation at tiny sizes, against sums over all keys and enumerated slots."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import toy_comparison
from toy_comparison import RUN, N, small, softmax

from sublinattn.lab.comparison import error_over_bytes, registry
from sublinattn.lab.run import generator
from sublinattn.methods.subgen.studies import ablation
from sublinattn.methods.subgen.subgen import SubGenCache


@pytest.fixture(scope="module")
def stream() -> registry.Stream:
    return toy_comparison.stream()


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
    assert table.loc["s", ["exponent", "lower", "upper"]].to_numpy(float) == pytest.approx([-0.5] * 3)


def test_parts_have_every_pair(monkeypatch):
    monkeypatch.setattr(ablation, "INPUTS", (error_over_bytes.CLUSTERS_MEAN,))
    rows = ablation.parts(replace(RUN, knobs={"n": N, "replicates": 2}))
    pairs = {(t, z) for t in ablation.NORMALISERS for z in ablation.NUMERATORS}
    pairs |= {(ablation.SHARED, "value-norm"), (ablation.SHARED, "uniform"), ("zero", "zero")}
    table = rows.groupby(["normaliser", "numerator"])["relative"].agg(["size", "max"])
    assert set(table.index) == pairs and (table["size"] == 2).all()
    assert table.loc[("exact", "exact"), "max"] < 1e-9 and table.loc[("zero", "zero"), "max"] == 1


def test_settings_keep_within_a_quarter_of_the_bytes(monkeypatch):
    monkeypatch.setattr(ablation, "SETTINGS_INPUTS", (error_over_bytes.CLUSTERS_MEAN,))
    rows = ablation.settings(replace(RUN, knobs={"n": N, "replicates": 1})).set_index("varies")
    assert (rows.loc[["window", "t"], "held"] <= 0.25).all()
    clusters = rows.loc["delta"].set_index("x")["clusters"]
    assert clusters.is_monotonic_decreasing and clusters[0.25] * N == 32
