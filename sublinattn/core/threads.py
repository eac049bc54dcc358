"""Run tiles on a thread pool with one BLAS thread each; results do not depend on the number of threads.

A signal's handler may raise (KeyboardInterrupt on Ctrl-C) after any step of the main thread that is Python's own code,
and so after the step that takes a lock and before the block that would give it back. The standard library's executors,
conditions and events are such code, and a lock that they leave held stops the whole process. So the main thread and the
pool's speak by `SimpleQueue`, by appending to lists and by plain flags, each of which is one step.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from types import SimpleNamespace
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController


class _Blas:
    """Limits BLAS to one thread while tiles run; BLAS' own limit before that is the number of threads of the pool."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0
        self.controller: ThreadpoolController | None = None
        self.owed: list[int] | None = None  # the limits to restore; they stay here until all of them are
        self.jobs: SimpleQueue[Callable[[], None]] | None = None

    @contextmanager
    def single(self) -> Iterator[int]:
        entered = False
        try:
            with self.lock:
                if self.controller is None:
                    self.controller = ThreadpoolController().select(user_api="blas")
                libraries = self.controller.lib_controllers
                limits = [library.num_threads for library in libraries]
                if self.users == 0:
                    self.owed = limits = self.owed or limits
                self.users += 1
                entered = True
                if self.users == 1 and max(limits, default=1) > 1:  # setting the limit takes longer than many tiles
                    for library in libraries:
                        library.set_num_threads(1)
            yield min([cpu_count(), *limits])
        finally:
            if entered:
                with self.lock:
                    self.users -= 1
                    if self.users == 0 and self.owed is not None:
                        if max(self.owed, default=1) > 1:
                            for library, limit in zip(libraries, self.owed, strict=True):
                                library.set_num_threads(limit)
                        self.owed = None

    def submit(self, job: Callable[[], None]) -> None:
        """Have a thread of the pool call `job`, which must not raise."""
        if self.jobs is None:
            jobs: SimpleQueue[Callable[[], None]] = SimpleQueue()
            for _ in range(cpu_count()):
                threading.Thread(target=_serve, args=(jobs,), daemon=True, name="sublinattn-tile").start()
            self.jobs = jobs
        self.jobs.put(job)


def _serve(jobs: SimpleQueue[Callable[[], None]]) -> None:
    while True:
        jobs.get()()


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
    state = SimpleNamespace(stopped=False)
    begun: list[None] = []
    ended: list[BaseException | None] = []
    woken: SimpleQueue[None] = SimpleQueue()

    def drain() -> None:
        more = (own(),) if own else ()
        while not state.stopped and (i := next(ticket)) < len(tiles):
            worker(tiles[i], *more)

    def job() -> None:
        begun.append(None)
        error = None
        try:
            drain()
        except BaseException as failure:  # the other threads end with the tile that they are at
            error, state.stopped = failure, True
        ended.append(error)
        woken.put(None)

    with _BLAS.single() as threads:
        if (threads := min(threads, len(tiles))) <= 1:
            drain()
            return
        try:
            for _ in range(threads):
                _BLAS.submit(job)
            while len(ended) < threads:
                woken.get()
        except BaseException:  # Ctrl-C here
            state.stopped = True  # a job that begins after this does nothing
            while len(ended) < len(begun):  # before BLAS gets its threads back, and the caller its arrays
                with suppress(Empty):
                    woken.get(timeout=0.01)  # the wake-up may have been lost with what was interrupted
            raise
        for error in ended:
            if error is not None:
                raise error
