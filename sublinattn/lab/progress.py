"""How far a long measurement is, on a notebook's page."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


def tracked(items: Sequence[T], what: str, *, clock: Callable[[], float] = time.perf_counter) -> Iterator[T]:
    """Iterate over items; on a notebook's page one line says how many are done, and how long the rest will take.

    `what` names them and, where it is known, what they cost: "4 passages of 8192 tokens, about 16 minutes". At the end
    the line says what they took. Outside of a notebook nothing is shown.
    """
    show, start = _line(), clock()
    show(what)
    for done, item in enumerate(items):
        if done:
            spent = clock() - start
            show(f"{what}: {done} of {len(items)} in {_time(spent)}, {_time(spent / done * (len(items) - done))} to go")
        yield item
    show(f"{what}: {_time(clock() - start)}")


def _line() -> Callable[[str], object]:
    """A function that shows a text in place of the one before."""
    from IPython import get_ipython
    from IPython.display import Markdown, display

    if get_ipython() is None:
        return lambda text: None
    handle = display(Markdown(""), display_id=True)
    return lambda text: handle.update(Markdown(f"*{text}*"))


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
