"""Run: draws that depend on seed and labels alone, and the folder of rows and verdicts."""

import pytest

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
