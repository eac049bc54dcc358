"""Verdicts on several claims, side by side where workers can be kept busy that way."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Executor, ThreadPoolExecutor, wait
from functools import partial
from typing import Any

from .claim import Claim
from .result import Verdict
from .verify import verify

_PAUSE = 0.5
"""Seconds between two states of the progress."""


def verdicts(
    claims: Sequence[Claim], *, executor: Executor | None, progress: Callable[[float], None], **options: Any
) -> Iterator[tuple[int, Verdict]]:
    """Yield (number in `claims`, verdict) as verdicts come; the options are those of `verify`.

    Without an executor that is one after another. With one, claims on this machine's clock come first, each alone; the
    others then have a thread each, which waits for its trials, so that workers have something to do while the last ones
    of another claim are awaited. `progress` is told in this thread how many claims are done, parts included.
    """
    shares, stopped = [0.0] * len(claims), threading.Event()

    def note(number: int, done: int, total: int) -> None:
        if stopped.is_set():
            raise CancelledError
        shares[number] = done / total

    def note_and_show(number: int, done: int, total: int) -> None:
        note(number, done, total)
        progress(sum(shares))

    alone = [number for number, claim in enumerate(claims) if executor is None or claim.machine]
    for number in alone:
        yield number, verify(claims[number], progress=partial(note_and_show, number), **options)
    if len(alone) == len(claims):
        return
    judge = partial(verify, executor=executor, **options)
    with ThreadPoolExecutor(len(claims) - len(alone)) as threads:
        futures = {
            threads.submit(judge, claim, progress=partial(note, number)): number
            for number, claim in enumerate(claims)
            if number not in alone
        }
        try:
            while futures:
                done, _ = wait(futures, timeout=_PAUSE, return_when=FIRST_COMPLETED)
                progress(sum(shares))
                for future in done:
                    yield futures.pop(future), future.result()
        finally:
            stopped.set()  # an error in one claim, or Ctrl-C, ends the others at their next trial
