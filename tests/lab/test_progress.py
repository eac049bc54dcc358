"""The line that says how far a measurement is."""

from types import SimpleNamespace

import IPython
import IPython.display
import pytest
import toys

from sublinattn.lab import ledger
from sublinattn.lab.progress import counted, tracked


@pytest.fixture
def shown(monkeypatch):
    lines = []
    handle = SimpleNamespace(update=lambda text: lines.append(text.data))
    monkeypatch.setattr(IPython, "get_ipython", object)
    monkeypatch.setattr(IPython.display, "display", lambda text, display_id: handle)
    return lines


def test_the_line_counts_and_says_what_is_left(shown):
    times = iter([0.0, 30.0, 300.0, 330.0])
    assert list(tracked("abc", "3 letters", clock=lambda: next(times))) == ["a", "b", "c"]
    assert shown == [
        "*3 letters*",
        "*3 letters: 1 of 3 in 30 s, 60 s to go*",
        "*3 letters: 2 of 3 in 5 min, 2 min to go*",
        "*3 letters: 6 min*",
    ]


def test_parts_count_and_the_line_does_not_change_more_than_twice_a_second(shown):
    times = iter([0.0, 0.3, 1.0, 1.4, 4.0, 4.0])
    with counted("2 claims", 2, clock=lambda: next(times)) as count:
        for done in (0.1, 0.5, 0.7, 1.6):
            count(done)
    assert shown == [
        "*2 claims*",
        "*2 claims: 0 of 2 in 1 s, 3 s to go*",
        "*2 claims: 1 of 2 in 4 s, 1 s to go*",
        "*2 claims: 4 s*",
    ]


def test_the_check_of_claims_says_how_far_it_is(shown, tmp_path, monkeypatch):
    monkeypatch.setattr("sublinattn.lab.progress._PAUSE", 0.0)
    ledger.check([toys.HOLDS, toys.OPEN], out=tmp_path)
    assert shown[0] == "*2 claims*" and shown[-1].startswith("*2 claims: ")
    assert any("0 of 2" in line for line in shown) and any("1 of 2" in line for line in shown)


def test_outside_of_a_notebook_nothing_is_shown(capsys):
    assert list(tracked([1, 2], "numbers")) == [1, 2]
    assert capsys.readouterr() == ("", "")
