"""Verdicts on several claims, side by side where workers can be kept busy that way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Executor
from functools import partial
from typing import Any

from ..core.crew import Crew
from ..core.quiet import quiet
from .claim import Claim
from .result import Verdict
from .verify import verify

_PAUSE = 0.5
"""Seconds between two states of the progress."""


def verdicts(
    claims: Sequence[Claim], *, executor: Executor | None, progress: Callable[[float], None], **options: Any
) -> Iterator[tuple[int, Verdict]]:
    """Yield (number in `claims`, verdict) as verdicts come; the options are those of `verify`.

    With an executor each claim has a thread, which waits for its trials, so that workers have something to do while the
    last ones of another claim are awaited; without one the claims follow each other. Those on this machine's clock come
    last, in `quiet`, one after another. `progress` is told in this thread how many claims are done, parts included.
    """
    shares = [0.0] * len(claims)

    def note(number: int, done: int, total: int) -> None:
        if crew.stopped:  # by an error in another claim, or Ctrl-C
            raise CancelledError
        shares[number] = done / total

    def note_and_show(number: int, done: int, total: int) -> None:
        shares[number] = done / total
        progress(sum(shares))

    def alone(number: int) -> tuple[int, Verdict]:
        return number, verify(claims[number], progress=partial(note_and_show, number), **options)

    timed = [number for number, claim in enumerate(claims) if claim.machine]
    others = [number for number, claim in enumerate(claims) if not claim.machine]
    if executor is None:
        yield from map(alone, others)
    else:
        judge = partial(verify, executor=executor, **options)
        jobs = [partial(judge, claims[number], progress=partial(note, number)) for number in others]
        crew = Crew(jobs, len(jobs))
        try:
            for found in crew.results(_PAUSE):
                progress(sum(shares))
                if found is not None:
                    yield others[found[0]], found[1]
        finally:
            crew.stopped = True
    if timed:
        with quiet():
            yield from map(alone, timed)
