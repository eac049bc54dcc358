"""The experiments behind the figures: seeded, right where the answer is known, and with every yardstick."""

import numpy as np
import pandas as pd
import pytest

from sublinattn.core import files
from sublinattn.lab import statistics
from sublinattn.lab.run import Run, generator
from sublinattn.lab.statistics import proportion
from sublinattn.lab.workloads.inputs import SINKS
from sublinattn.methods.hyperattention.studies import causal_scaling, claim_trials, sortlsh, spectral_error
from sublinattn.theory import CLAIMS
from sublinattn.theory.claim import Exact, Mean, Trial

RUN = Run(backend="numpy")


def test_effort_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="effort must be 'smoke', .* got 'quick'"):
        Run("quick")


def test_draws_depend_on_seed_and_labels_alone():
    draw = lambda *key: generator(*key).integers(2**62)  # noqa: E731
    assert draw(0, "a", 1) == draw(0, "a", 1)
    assert len({draw(0, "a", 1), draw(1, "a", 1), draw(0, "b", 1), draw(0, "a", 2)}) == 4


def test_proportion_limits_hold_the_rate():
    rate, low, high = proportion(3, 10)
    assert (rate, low < 0.3 < high) == (0.3, True)
    assert proportion(0, 10)[1] == 0 and proportion(10, 10)[2] == 1


def test_collision_rates_obey_the_law():
    # 99 % limits, 77 points: at least 68 hold the law but for a chance below 1e-7.
    rates = sortlsh.collision_rates(RUN)
    assert rates["law"].between(rates["low"], rates["high"]).sum() >= 68
    assert rates.equals(sortlsh.collision_rates(RUN))


def test_sorting_changes_places_only():
    entries = sortlsh.sorted_matrix(RUN, n=128, block_size=16)
    assert not entries[["query_place", "key_place"]].duplicated().any()
    for given, sorted_ in (("query", "query_place"), ("key", "key_place")):  # a permutation
        pairs = entries[[given, sorted_]].drop_duplicates()
        assert pairs[given].is_unique and pairs[sorted_].is_unique
    assert (entries["masked"] == (entries["query_place"] // 16 == entries["key_place"] // 16)).all()


def test_mask_finds_clusters_and_no_sinks():
    shares = sortlsh.heavy_caught(RUN).groupby(["input", "mask"])["heavy_share"].median()
    assert shares["clustered", "sortLSH"] > 3 * shares["clustered", "random"]
    assert shares["4 sinks", "sortLSH"] == pytest.approx(64 / 1024, rel=0.05)  # all keys meet a sink's block equally


def test_errors_have_every_yardstick():
    rows = spectral_error.measure(RUN, inputs=(SINKS,))
    assert set(rows["method"]) == {
        "exact",
        "zero",
        "uniform",
        "hyper practical",
        "hyper theory",
        spectral_error.SINKS_EXACT,
    }
    assert rows.loc[rows["method"] == "exact", "error"].max() < 1e-5


def test_recursion_covers_the_triangle_once():
    level, exact = causal_scaling.recursion_map(RUN, n=128, leaf=16, block_size=8)
    lower = np.tri(128, dtype=bool)
    assert (level[lower] >= 0).all() and (level[~lower] == -1).all() and not exact[~lower].any()
    shares = causal_scaling.level_shares(level, exact)
    assert shares["entries"].tolist() == [8 * 16 * 17 // 2, 4 * 16**2, 2 * 32**2, 64**2]
    assert shares["exact_share"].tolist() == [1, 8 / 16, 8 / 32, 8 / 64]
    touched = causal_scaling.columns_touched(128, 16, 10)
    assert touched[[0, 15, 16, 127]].tolist() == [1, 16, 1 + 10, 16 + 3 * 10]


def test_recursion_map_refuses_ragged_sizes():
    with pytest.raises(ValueError, match="leaf = 16 times a power of two, got 100"):
        causal_scaling.recursion_map(RUN, n=100, leaf=16, block_size=8)


def test_uniform_causal_yardstick_is_exact_with_the_whole_past():
    rng = np.random.default_rng(0)
    logits, v = rng.standard_normal((32, 32)), rng.standard_normal((32, 3))
    a = np.tril(np.exp(logits))
    exact = a @ v / a.sum(axis=1, keepdims=True)
    full = causal_scaling._uniform_causal(logits, v, np.arange(1, 33), rng)
    np.testing.assert_allclose(full, exact, rtol=1e-12)
    half = causal_scaling._uniform_causal(logits, v, np.arange(32) // 2 + 1, rng)
    assert np.abs(half - exact)[8:].max() > 0.1 and np.abs(half[0] - exact[0]).max() < 1e-12


def test_deviation_is_one_at_what_the_claim_allows():
    claims = {type(c.kind): c for c in CLAIMS.values()}
    identity = next(c for c in CLAIMS.values() if c.id == "ha24.amm-variance")
    rtol = identity.kind.rtol
    assert claim_trials.deviation(identity, Trial(2 + 2 * rtol, 2.0, scale=2.0)) == pytest.approx(1, rel=1e-4)
    inequality = next(c for c in CLAIMS.values() if isinstance(c.kind, Exact) and c.kind.relation == "<=")
    assert claim_trials.deviation(inequality, Trial(1.0, 2.0)) == 0
    assert claim_trials.deviation(claims[Mean], Trial(0.5 + 0.1 * 2.5758293, 0.5, scale=0.1)) == pytest.approx(1)


def test_dropped_assumptions_are_tried_on_otherwise_equal_cases():
    claim = CLAIMS["ha24.lsh-collision"]
    drop = claim.drops[0].cases[0]
    twin = claim_trials._most_alike(drop, claim.cases["smoke"])
    assert {key: drop[key] for key in twin} == dict(twin)


def test_largest_excess_is_read_in_the_direction_of_growth():
    columns = ["claim", "variable", "measured", "theory_exponent"]
    table = pd.DataFrame(
        [("a", "n", 0.4, 0.2), ("a", "varepsilon", -2.5, -2.0), ("b", "n", np.nan, 1.0)], columns=columns
    )
    assert statistics.largest_excess(table) == ["a +0.50 in varepsilon"]


def test_rows_are_written_whole_and_never_empty(tmp_path):
    table = pd.DataFrame({"n": [1, 2], "error": [0.5, np.inf]})
    path = files.write_rows(table, "some-figure", out=tmp_path)
    assert path == tmp_path / "rows" / "some-figure.parquet" and pd.read_parquet(path).equals(table)
    with pytest.raises(ValueError, match="'empty-figure' must hold at least one measurement"):
        files.write_rows(table.head(0), "empty-figure", out=tmp_path)
    assert [p.name for p in path.parent.iterdir()] == ["some-figure.parquet"]
