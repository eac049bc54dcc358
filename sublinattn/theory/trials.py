"""Seeded streams of trials, spread over processes: the same trials, in the same order, whatever the number of workers.

A trial's seed follows from the run's seed, the claim, its condition, the case and the trial's number, never from when
or where it runs. Workers compute ahead in chunks; results are handed out in one fixed order, and those that a stopping
rule no longer needs are dropped.
"""

from __future__ import annotations

import hashlib
import math
import os
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cache
from multiprocessing import active_children, get_context, parent_process
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any

import numpy as np
from threadpoolctl import ThreadpoolController

from ..core.backends import backend as resolve

if TYPE_CHECKING:
    from .claim import Case, Trial

_LARGEST_CHUNK = 256
_PIECES = 4
"""Pieces of work under way for each worker."""
_FIRST = 8
"""Trials of a stream that may be measured before one of them has told anything."""
_SECONDS = 0.1
_SECONDS_PER_WORKER = 0.002
"""What a piece takes at least: long beside the millisecond in which a scheduler hands it to one of its workers."""


class TrialError(RuntimeError):
    """A trial raised an error; the message names claim, condition, case and trial."""


@dataclass(frozen=True)
class Stream:
    """The trials of one case of a claim under one condition, `role`: "claim", "drop:NAME" or "sabotage:NAME"."""

    trial: Callable[..., Trial]
    claim: str
    role: str
    index: int
    case: Case
    limit: int
    needed: int = 0
    """So many trials are needed in any case, and may be measured ahead at once."""

    def __str__(self) -> str:
        return f"claim {self.claim}, {self.role}, case {self.index} {dict(self.case)}"


def trial_rng(stream: Stream, number: int, seed: int) -> np.random.Generator:
    key = (_hash(stream.claim), _hash(stream.role), stream.index, number)
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def run_trials(
    streams: Sequence[Stream], active: set[int], *, seed: int, backend: str = "auto", executor: Executor | None = None
) -> Iterator[tuple[int, Trial]]:
    """Yield (stream's index, trial) until no stream is active: each stream's trials in order, the streams in rounds.

    The caller removes from `active` the streams that are decided, of which nothing more is then yielded; a stream that
    has reached its limit is removed here. Workers of `executor` (also Dask's `Client.get_executor()`) must be able to
    import the module of the trial function. TrialError when the next trial of an active stream raised.
    """
    if executor is not None and not isinstance(executor, Executor):
        raise TypeError(f"executor must be one of concurrent.futures, or None, got {type(executor).__name__}")
    if executor is None:
        results: Iterator[tuple[int, list[Trial | TrialError]]] = (
            (i, _measure(streams[i], start, stop, seed, backend)[0]) for i, start, stop in _schedule(streams, active)
        )
    else:
        results = _ahead(executor, streams, active, seed, backend)
    seen = [0] * len(streams)
    for i, trials in results:
        for trial in trials:
            if i not in active:
                break
            if isinstance(trial, TrialError):
                raise trial
            seen[i] += 1
            yield i, trial
            if seen[i] >= streams[i].limit:
                active.discard(i)


def _schedule(streams: Sequence[Stream], active: set[int]) -> Iterator[tuple[int, int, int]]:
    """(stream, start, stop) in rounds of chunks that grow with the trials already made: little is computed in vain."""
    start = 0
    while active:
        stop = start + min(1 + start // 4, _LARGEST_CHUNK)
        scheduled = [i for i in sorted(active) if streams[i].limit > start]
        if not scheduled:
            return
        for i in scheduled:
            if i in active:
                yield i, start, min(stop, streams[i].limit)
        start = stop


def _ahead(
    executor: Executor, streams: Sequence[Stream], active: set[int], seed: int, backend: str
) -> Iterator[tuple[int, list[Trial | TrialError]]]:
    """Results in the order of `_schedule`, while workers measure what comes later in it.

    How far ahead is a matter of time, not of results: up to _PIECES per worker are under way, and of each stream, above
    those that are needed, _FIRST trials and then twice as many as are done, so that not much is computed in vain.
    """
    jobs, order = _schedule(streams, active), deque[tuple[int, int, int]]()
    ahead = [_Ahead(executor, stream, seed, backend) for stream in streams]
    upcoming = next(jobs, None)
    try:
        while upcoming or order:
            workers = getattr(executor, "_max_workers", None) or os.cpu_count() or 1
            while upcoming:
                i, start, stop = upcoming
                furthest = max(streams[i].needed, _FIRST + 2 * (order[0][1] if order else start))
                full = sum(len(each.pieces) for each in ahead) >= _PIECES * workers
                if order and (full or start > furthest):
                    break
                if i in active:
                    ahead[i].send(stop, furthest, max(_SECONDS, _SECONDS_PER_WORKER * workers))
                    order.append(upcoming)
                upcoming = next(jobs, None)
            if not order:
                return
            i, start, stop = order.popleft()
            if i in active:
                yield i, ahead[i].take(stop - start)
            else:
                ahead[i].cancel()
    finally:
        for each in ahead:
            each.cancel()


class _Ahead:
    """The trials of one stream that workers measure ahead, in pieces that take about as long as each other."""

    def __init__(self, executor: Executor, stream: Stream, seed: int, backend: str) -> None:
        self._executor, self._stream, self._seed, self._backend = executor, stream, seed, backend
        self._sent, self._seconds = 0, math.inf  # of one trial
        self._trials: deque[Trial | TrialError] = deque()
        self.pieces: deque[Future[tuple[list[Trial | TrialError], float]]] = deque()

    def send(self, stop: int, furthest: int, seconds: float) -> None:
        """Let the trials up to `stop` be measured, and more in the last piece if they are short."""
        while self._sent < stop:
            size = max(1, int(seconds / self._seconds))
            end = min(self._sent + size, max(stop, furthest), self._stream.limit)
            work = self._stream, self._sent, end, self._seed, self._backend
            self.pieces.append(self._executor.submit(_measure, *work))
            self._sent = end

    def take(self, count: int) -> list[Trial | TrialError]:
        """The next trials; fewer if one of them raised, which is then the last."""
        while len(self._trials) < count and self.pieces:
            trials, seconds = self.pieces.popleft().result()
            self._trials.extend(trials)
            self._seconds = max(seconds / len(trials), 1e-9)
        return [self._trials.popleft() for _ in range(min(count, len(self._trials)))]

    def cancel(self) -> None:
        while self.pieces:
            self.pieces.popleft().cancel()


def _measure(stream: Stream, start: int, stop: int, seed: int, backend: str) -> tuple[list[Trial | TrialError], float]:
    """Trials start..stop-1 and their seconds, on one BLAS thread (more would change rounding).

    They end with the error if one raises.
    """
    began = time.perf_counter()
    done: list[Trial | TrialError] = []
    xp = resolve(backend)
    with one_thread():
        for number in range(start, stop):
            try:
                done.append(stream.trial(trial_rng(stream, number, seed), xp, **stream.case))
            except Exception as error:
                what = f"{type(error).__name__}: {error}"
                done.append(TrialError(f"{stream}, trial {number}: {what}\n\n{traceback.format_exc()}"))
                break
    return done, time.perf_counter() - began


@contextmanager
def processes(jobs: int) -> Iterator[Executor | None]:
    """Workers for `run_trials`, None for one job; killed on Ctrl-C, where the pool would wait for what they do."""
    if jobs == 1:
        yield None
        return
    # Workers are spawned: a fork of a process that has started threads may hang.
    with ProcessPoolExecutor(jobs, get_context("spawn"), initializer=_end_with_parent) as pool:
        try:
            yield pool
        except (KeyboardInterrupt, SystemExit):
            # The pool's thread does not expect futures that were cancelled before its workers died.
            threading.excepthook = lambda _: None
            for worker in active_children():
                worker.kill()
            raise


def _end_with_parent() -> None:
    """Let this worker end when the process that started it does, even by SIGKILL: it would wait for work for ever."""
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=lambda: (wait([parent.sentinel]), os._exit(1)), daemon=True).start()


def one_thread() -> AbstractContextManager[Any]:
    """One BLAS thread, as long as the context lasts."""
    return _threads(len(sys.modules)).limit(limits=1)


@cache
def _threads(modules: int) -> ThreadpoolController:
    """Thread pools of the loaded libraries: looked for (milliseconds) only where the number of modules has changed."""
    return ThreadpoolController()


@cache
def _hash(text: str) -> int:
    """The same in every process, unlike `hash`."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
