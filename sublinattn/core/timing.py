"""Seconds per stage of an algorithm, for those who ask: a context manager around the call, a lap clock inside it."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from .backends import synchronize

_ACTIVE: ContextVar[tuple[dict[str, float], threading.Lock] | None] = ContextVar("stage_times", default=None)


@contextmanager
def stage_times() -> Iterator[dict[str, float]]:
    """Collect seconds per stage of what runs inside.

    Stages that run on several threads add up to thread-seconds. On a GPU every lap waits for the device, which slows
    the call.

    Yields
    ------
    dict of str to float
        Seconds by stage: hash, sort, gather, block, sample, merge, exact; filled while the block runs.

    Examples
    --------
    >>> with stage_times() as seconds:
    ...     hyper_attention(q, k, v)
    >>> seconds["block"]
    """
    seconds: dict[str, float] = defaultdict(float)
    token = _ACTIVE.set((seconds, threading.Lock()))
    try:
        yield seconds
    finally:
        _ACTIVE.reset(token)


def clock(xp: Any) -> Callable[[], Callable[[str], None]]:
    """A maker of lap functions: `lap = make()` starts a clock, `lap("sort")` books the time since the last lap.

    Take it on the caller's thread (it reads a context variable); call it on any.
    """
    active = _ACTIVE.get()
    if active is None:
        return lambda: _no_lap
    seconds, lock = active

    def start() -> Callable[[str], None]:
        last = time.perf_counter()

        def lap(stage: str) -> None:
            nonlocal last
            synchronize(xp)
            now = time.perf_counter()
            with lock:
                seconds[stage] += now - last
            last = now

        return lap

    return start


def _no_lap(stage: str) -> None:
    pass
