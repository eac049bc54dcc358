"""Errors over bytes and needles at tiny sizes: tables against the plainest references."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from toy_comparison import RUN, N, small

from sublinattn.lab.comparison import error_over_bytes
from sublinattn.lab.run import generator
from sublinattn.methods.caches.exact import ExactCache


def test_over_bytes_has_every_yardstick():
    run = replace(RUN, knobs={"n": N, "replicates": 2})
    rows = error_over_bytes.over_bytes(run, inputs=(error_over_bytes.CLUSTERS_MEAN, error_over_bytes.HEAVY_VALUES))
    assert rows.groupby(["input", "method", "share"], dropna=False).size().eq(2).all()
    table = rows.groupby("method")[["relative", "held"]].agg(["min", "max"])
    assert table.loc["exact", ("relative", "max")] < 1e-5 and table.loc["exact", ("held", "min")] >= 1
    assert table.loc["zero"].tolist() == [1, 1, 0, 0]
    assert (rows["held"] <= rows["share"].fillna(9.0)).all()
    alone = error_over_bytes.over_bytes(run, inputs=(error_over_bytes.HEAVY_VALUES,))
    together = rows[rows["input"] == error_over_bytes.HEAVY_VALUES.label]
    assert sorted(alone["relative"]) == sorted(together["relative"])  # an input's rows do not depend on the others


def test_hindsight_is_the_setting_of_least_median():
    errors = {"subgen, t = 1": (1.0, 5.0, 6.0), "subgen, delta told": (3.0, 4.0, 9.0), "uniform": (0.1,) * 3}
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
