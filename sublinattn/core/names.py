"""Which of the known names was meant by one that is none of them."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def suggestion(name: object, known: Iterable[str]) -> str:
    """For the end of an error: `; did you mean 'x'?` with the known name most like this one; empty if none is."""
    return "".join(f"; did you mean {nearest!r}?" for nearest in get_close_matches(str(name), list(known), n=1))
