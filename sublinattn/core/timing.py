"""Seconds and bytes that a call takes: the one clock, the one memory meter, and seconds per stage of an algorithm."""

from __future__ import annotations

import threading
import time
import tracemalloc
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np

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
    >>> import numpy as np
    >>> from sublinattn import hyper_attention, stage_times
    >>> q, k, v = np.random.default_rng(0).standard_normal((3, 1024, 16))
    >>> with stage_times() as seconds:
    ...     out = hyper_attention(q, k, v, block_size=64, sample_size=64, min_exact=64, rng=0)
    >>> sorted(seconds)
    ['block', 'gather', 'hash', 'merge', 'sample', 'sort']
    """
    seconds: dict[str, float] = defaultdict(float)
    token = _ACTIVE.set((seconds, threading.Lock()))
    try:
        yield seconds
    finally:
        _ACTIVE.reset(token)


def timed(xp: Any, call: Callable[[], Any]) -> tuple[Any, float]:
    """Result and wall-clock seconds of `call()`, with the device's work finished before and after."""
    synchronize(xp)
    start = time.perf_counter()
    result = call()
    synchronize(xp)
    return result, time.perf_counter() - start


def best_of(xp: Any, call: Callable[[], Any], rounds: int) -> float:
    """Seconds of the fastest of `rounds` calls, the one that other programs on the machine disturbed least."""
    return min(timed(xp, call)[1] for _ in range(rounds))


def peak_bytes(xp: Any, call: Callable[[], Any]) -> int:
    """Largest number of bytes allocated at once during `call()`, beyond what was allocated before it.

    Measured by tracemalloc on the host, by hooks of CuPy's memory pool on a GPU.
    """
    if xp is np:
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
            call()
            return tracemalloc.get_traced_memory()[1] - before
        finally:
            tracemalloc.stop()

    class Peak(xp.cuda.MemoryHook):
        name = "sublinattn-peak"

        def __init__(self) -> None:
            self.allocated = self.peak = 0

        def malloc_postprocess(self, **kwargs: Any) -> None:
            self.allocated += kwargs["mem_size"]
            self.peak = max(self.peak, self.allocated)

        def free_postprocess(self, **kwargs: Any) -> None:
            self.allocated -= kwargs["mem_size"]

    hook = Peak()
    with hook:
        call()
    return hook.peak


def clock(xp: Any) -> Callable[[], Callable[[str], None]]:
    """A function that starts a lap clock: `lap = start()`, then `lap("sort")` adds the time since the last lap to sort.

    Call `clock` on the caller's thread, where `stage_times` is in force; `start` may be called on any thread. Outside
    of `stage_times` the laps cost nothing.
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
