"""Jobs that run side by side, each in a thread, while the main thread waits for what comes of them.

As in `core.threads`, nothing that the main thread does here takes a lock of the standard library, which a signal that
strikes could leave held. What the threads do may take any: signals never strike there.
"""

from __future__ import annotations

import _thread
import itertools
from collections.abc import Callable, Iterator, Sequence
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar, cast

T = TypeVar("T")


class Crew(Generic[T]):
    """Threads that do jobs: each takes the next one of the list as soon as it has done its last.

    Attributes
    ----------
    stopped : bool
        Set it to True, and no further job begins. Jobs that have begun go on, unless they look at it.
    """

    def __init__(self, jobs: Sequence[Callable[[], T]], threads: int) -> None:
        self.stopped = False
        self._jobs, self._threads = jobs, min(threads, len(jobs))
        self._ticket = itertools.count()  # next() is one step, so the threads can share it
        self._begun: list[int] = []
        self._ended: list[int] = []
        self._came: SimpleQueue[tuple[int, T | None, BaseException | None]] = SimpleQueue()

    def results(self, pause: float) -> Iterator[tuple[int, T] | None]:
        """Begin; yield (number, result) of each job as it ends, and None after each `pause` in seconds without one.

        What a job raises is raised here.
        """
        for _ in range(self._threads):
            _thread.start_new_thread(self._work, ())  # Thread.start would wait with a lock
        left = len(self._jobs)
        while left:
            try:
                number, result, error = self._came.get(timeout=pause)
            except Empty:
                yield None
                continue
            if error is not None:
                raise error
            left -= 1
            yield number, cast(T, result)

    @property
    def running(self) -> bool:
        """Whether a job has begun that has not ended."""
        return len(self._ended) < len(self._begun)

    def _work(self) -> None:
        while (number := next(self._ticket)) < len(self._jobs):
            self._begun.append(number)  # before the look at `stopped`: what begins after it was set does nothing
            if not self.stopped:
                try:
                    self._came.put((number, self._jobs[number](), None))
                except BaseException as error:
                    self._came.put((number, None, error))
            self._ended.append(number)
