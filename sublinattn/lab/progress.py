"""How far a long measurement is, on a notebook's page."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from ..core.quiet import clock

T = TypeVar("T")

_PAUSE = 0.5
"""Seconds between two states of the line: each travels to the browser."""


def tracked(items: Sequence[T], what: str, *, clock: Callable[[], float] = clock) -> Iterator[T]:
    """Iterate over items; on a notebook's page one line says how many are done, and how long the rest will take.

    `what` names them and, where it is known, what they cost: "4 passages of 8192 tokens, about 16 minutes". At the end
    the line says what they took. Outside of a notebook nothing is shown.
    """
    with counted(what, len(items), clock=clock) as count:
        for done, item in enumerate(items):
            count(done)
            yield item


@contextmanager
def counted(what: str, total: int, *, clock: Callable[[], float] = clock) -> Iterator[Callable[[float], None]]:
    """The same line for work that is no iteration: yields a function that takes how many are done, parts included."""
    show, start = _line(), clock()
    shown = start
    show(what)

    def count(done: float) -> None:
        nonlocal shown
        if done and (now := clock()) - shown >= _PAUSE:
            shown, spent = now, now - start
            left = spent / done * (total - done)
            show(f"{what}: {int(done)} of {total} in {_time(spent)}, {_time(left)} to go")

    yield count
    show(f"{what}: {_time(clock() - start)}")


def _line() -> Callable[[str], object]:
    """A function that shows a text in place of the one before."""
    if "IPython" not in sys.modules:  # no notebook; it need not be installed to measure
        return lambda text: None
    from IPython import get_ipython
    from IPython.display import Markdown, display

    if get_ipython() is None:
        return lambda text: None
    handle = display(Markdown(""), display_id=True)
    return lambda text: handle.update(Markdown(f"*{text}*"))


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
