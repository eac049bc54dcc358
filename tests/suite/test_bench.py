"""The benchmarks: how a ratio is formed, and that every table is made (at sizes that take no time)."""

from __future__ import annotations

import time
from functools import partial

import pytest

from sublinattn.suite import bench


def test_a_ratio_compares_tokens_per_second():
    slow = bench.Contender("slow", 10, partial(time.sleep, 0.02))
    fast = bench.Contender("fast", 40, partial(time.sleep, 0.02), slow, repeats=2, nbytes=8)
    table = bench.race([slow, fast], rounds=3).set_index("what")
    assert table.loc["fast", "ratio"] == pytest.approx(4, rel=0.5)
    assert table.loc["fast", "yardstick"] == "slow" and table.loc["fast", "nbytes"] == 8
    assert table.loc["slow", "tokens_per_second"] == pytest.approx(500, rel=0.5)


@pytest.mark.parametrize(
    ("measure", "sizes", "names"),
    [
        (bench.hyper, {"n": 1024, "n_exact": 256}, {"hyper_attention", "hyper_attention, causal", "attention"}),
        (bench.stream, {"n": 4096, "n_paper": 2048}, {"streaming state, keys", "fused, scan", "paper, identify"}),
        (bench.subgen, {"n": 8192, "clusters": 10}, {"SubGen, row by row", "SubGen, in chunks", "SubGen, one query"}),
        (bench.decoder, {"model": "tiny", "lengths": (64, 128)}, {"Decoder.losses, n = 64", "head alone, n = 128"}),
    ],
)
def test_every_table_is_made(measure, sizes, names):
    tables = measure(**sizes)
    races = [table for table in tables if "what" in table]
    assert names <= {what for table in races for what in table["what"]}
    assert all((table["seconds"] >= table["fastest"]).all() and (table["fastest"] > 0).all() for table in races)
    assert all(len(table) > 1 for table in tables)
