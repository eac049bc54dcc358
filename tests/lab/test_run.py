"""Run: draws that depend on seed and labels alone, and the folder of rows and verdicts."""

import dataclasses
import json

import pandas as pd
import pytest
import toys
from matplotlib.figure import Figure

from sublinattn.lab.run import Run, generator


def test_effort_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="effort must be 'smoke', .* got 'quick'"):
        Run("quick")


def test_draws_depend_on_seed_and_labels_alone():
    draw = lambda *key: generator(*key).integers(2**62)  # noqa: E731
    assert draw(0, "a", 1) == draw(0, "a", 1) == Run().rng("a", 1).integers(2**62)
    assert len({draw(0, "a", 1), draw(1, "a", 1), draw(0, "b", 1), draw(0, "a", 2)}) == 4


def test_effort_picks():
    assert [Run(effort).pick(smoke=1, standard=2, full=3) for effort in ("smoke", "standard", "full")] == [1, 2, 3]


def numbered(run, label, count):
    return [(label, number, run.seed) for number in range(count)]


def test_a_table_has_the_rows_of_all_cells_in_their_order():
    table = Run(seed=7).table(numbered, [("b", 2), ("none", 0), ("a", 1)], ["label", "number", "seed"])
    expected = pd.DataFrame({"label": ["b", "b", "a"], "number": [0, 1, 0], "seed": 7})
    pd.testing.assert_frame_equal(table, expected)


def test_verdicts_are_read_back_and_asked_for_where_there_are_none(tmp_path):
    run = Run(backend="numpy", out=tmp_path, notebook="a notebook")
    with pytest.raises(FileNotFoundError, match=r"verdicts/ha24.gray-adjacency.json.*check the claim"):
        run.record("ha24.gray-adjacency")
    assert run.checked() == []
    run.check("ha24.gray-adjacency")
    assert run.checked() == ["ha24.gray-adjacency"]
    record = run.record("ha24.gray-adjacency")
    assert record["notebook"] == "a notebook" and record["seconds"] > 0
    assert set(run.rows("ha24.gray-adjacency")["role"]) == {
        *("claim", "drop:at least two hyperplanes", "sabotage:binary order")
    }


def test_a_claim_of_ones_own_is_verified_shown_and_said_to_be_none_of_the_suites(tmp_path):
    run = Run(backend="numpy", out=tmp_path, notebook="a notebook")
    own = dataclasses.replace(toys.ALWAYS, id="own.always")
    assert run.check(own, "ha24.gray-adjacency")["outcome"].to_dict() == dict.fromkeys(
        ("own.always", "ha24.gray-adjacency"), "supported"
    )
    assert run.record(own)["own"] and "own" not in run.record("ha24.gray-adjacency")
    assert set(run.rows(own)["claim"]) == {"own.always"}
    for number, claim in enumerate((own, "ha24.gray-adjacency", [own, "ha24.gray-adjacency"], None)):
        run.publish(Figure(), f"fig-{number}", pd.DataFrame({"x": [1]}), caption="c", claim=claim)
    shown = [json.loads((tmp_path / "figures" / f"fig-{number}.json").read_text())["claims"] for number in range(4)]
    assert shown == [["own.always"], ["ha24.gray-adjacency"], ["own.always", "ha24.gray-adjacency"], []]
