"""The line that says how far a measurement is."""

from types import SimpleNamespace

import IPython
import IPython.display

from sublinattn.lab.progress import tracked


def test_the_line_counts_and_says_what_is_left(monkeypatch):
    shown = []
    handle = SimpleNamespace(update=lambda text: shown.append(text.data))
    monkeypatch.setattr(IPython, "get_ipython", object)
    monkeypatch.setattr(IPython.display, "display", lambda text, display_id: handle)
    times = iter([0.0, 30.0, 300.0, 330.0])
    assert list(tracked("abc", "3 letters", clock=lambda: next(times))) == ["a", "b", "c"]
    assert shown == [
        "*3 letters*",
        "*3 letters: 1 of 3 in 30 s, 60 s to go*",
        "*3 letters: 2 of 3 in 5 min, 2 min to go*",
        "*3 letters: 6 min*",
    ]


def test_outside_of_a_notebook_nothing_is_shown(capsys):
    assert list(tracked([1, 2], "numbers")) == [1, 2]
    assert capsys.readouterr() == ("", "")
