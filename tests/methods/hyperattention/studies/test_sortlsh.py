"""SortLSH by itself: the hash obeys its law, sorting is a permutation, and the mask finds clusters but no sinks."""

import pytest

from sublinattn.lab.run import Run
from sublinattn.methods.hyperattention.studies import sortlsh

RUN = Run(backend="numpy")


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


def test_recall_stays_below_the_common_bucket_and_grows_with_the_hyperplanes():
    rates = sortlsh.recall_over_bits(RUN).set_index(["angle", "bits"])
    assert (rates["low"] <= rates["collision"]).all()
    small = rates.loc[3.6, "rate"]
    assert small[8] > 2 * small[2] > 4 / sortlsh.CLUSTERS  # a random mask holds b/n = 1/16
    assert len(sortlsh.draw_recall(rates.reset_index()).axes) == 3


def test_the_order_of_buckets_matters_little():
    table = sortlsh.recall_of_orders()
    assert list(table) == ["paper", "released", "binary"] and table.index.is_monotonic_increasing
    assert (table["paper"] > table["binary"]).all() and (table["paper"] / table["binary"] < 1.06).all()
