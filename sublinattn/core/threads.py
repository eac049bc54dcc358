"""Run tiles on a thread pool with one BLAS thread each; results do not depend on the number of threads."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed, wait
from contextlib import contextmanager
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController


class _Blas:
    """Limits BLAS to one thread while tiles run; BLAS' own limit before that is the number of threads of the pool."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0
        self.controller: ThreadpoolController | None = None
        self.limiter: Any = None
        self.pool: ThreadPoolExecutor | None = None

    @contextmanager
    def single(self) -> Iterator[int]:
        with self.lock:
            if self.controller is None:
                self.controller = ThreadpoolController().select(user_api="blas")
            limits = [lib.num_threads for lib in self.controller.lib_controllers]
            if self.users == 0 and max(limits, default=1) > 1:  # setting the limit takes longer than many tiles
                self.limiter = self.controller.limit(limits=1)
            self.users += 1
        try:
            yield min([cpu_count(), *limits])
        finally:
            with self.lock:
                self.users -= 1
                if self.users == 0 and self.limiter is not None:
                    self.limiter.restore_original_limits()
                    self.limiter = None

    def executor(self) -> ThreadPoolExecutor:
        if self.pool is None:
            self.pool = ThreadPoolExecutor(cpu_count(), thread_name_prefix="sublinattn-tile")
        return self.pool


def cpu_count() -> int:
    """Number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_BLAS = _Blas()


def _after_fork() -> None:
    global _BLAS  # a forked child has neither the pool's threads nor a trustworthy lock
    _BLAS = _Blas()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def cut(stop: int, step: int, start: int = 0) -> list[slice]:
    """The numbers from `start` to below `stop` in slices of `step`; the last one takes what is left."""
    return [slice(i, min(i + step, stop)) for i in range(start, stop, step)]


def for_tiles(xp: Any, tiles: Sequence[Any], worker: Callable[..., Any], own: Callable[[], Any] | None = None) -> None:
    """Run `worker(tile)` for every tile, in any order: on threads on the CPU, one after another on a device.

    With `own` it is `worker(tile, own())`, where `own` is called once per thread: for scratch arrays. Different tiles
    must write to disjoint parts of the output. An error in a tile, or Ctrl-C, ends all threads within the time of one
    tile.
    """
    if xp is not np:
        more = (own(),) if own else ()
        for tile in tiles:
            worker(tile, *more)
        return
    ticket = itertools.count()  # next() is atomic, so the threads can share one counter
    stopped = threading.Event()

    def drain() -> None:
        more = (own(),) if own else ()
        while not stopped.is_set() and (i := next(ticket)) < len(tiles):
            worker(tiles[i], *more)

    with _BLAS.single() as threads:
        if (threads := min(threads, len(tiles))) <= 1:
            drain()
            return
        futures = [_BLAS.executor().submit(drain) for _ in range(threads)]
        try:
            for future in as_completed(futures):
                future.result()
        except (
            BaseException
        ):  # an error in a tile, or Ctrl-C here: the other threads end with the tile that they are at
            stopped.set()
            wait(futures)  # before BLAS gets its threads back, and the caller its arrays
            raise
