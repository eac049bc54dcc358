"""A cluster in simulated time: how long would a claim, or a whole run, take on 64 workers, or on 1000?

What is simulated are the machines. The order of the work is the real one: `theory.trials` decides what comes when, as
it does for the real cluster whose place a `SimulatedCluster` takes.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future
from functools import partial
from typing import Any

from ..theory import find
from ..theory.claim import Growth, Trial
from ..theory.trials import Stream, run_trials
from . import runner


class SimulatedCluster(Executor):
    """An executor of `workers`, with a clock of its own.

    A task passes the scheduler, which takes `overhead` seconds for each and serves one at a time, in the order in which
    they were submitted; then the first free worker takes it. It really runs here, when that worker begins, and lasts as
    long as the CPU time that it used, which other programs on this machine do not stretch. A client of one thread is
    charged for its CPU time between two calls, too; one that uses `together` is not.

    Attributes
    ----------
    now : float
        Seconds since the beginning.
    busy : float
        Seconds of all workers together in which they ran tasks.
    """

    def __init__(self, workers: int, overhead: float, *, cpus: int = 1) -> None:
        self._max_workers, self._overhead = workers, overhead
        self.now = self.busy = 0.0
        self._workers, self._cpus = _Servers(self, workers), _Servers(self, cpus)
        self._served = 0.0
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._numbers = itertools.count()
        self._changed = threading.Condition(threading.RLock())
        self._asleep: dict[int, Future[Any]] = {}
        self._awake = 1
        self._left: float | None = time.thread_time()  # when a client of one thread went back to work of its own

    # ------------------------------------------------------------------------------------- what the client's threads do
    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Let a worker run `function(*args, **kwargs)`."""
        future = _Awaited(self)
        with self._changed:
            self._charge()
            self._served = max(self._served, self.now) + self._overhead
            task = partial(self._measured, partial(function, *args, **kwargs))
            self.at(self._served, partial(self._workers.add, future, task))
            self._leave()
        return future

    def work(self, seconds: float) -> None:
        """Use one of the client's CPUs for so long."""
        future = _Awaited(self)
        with self._changed:
            self.at(self.now, partial(self._cpus.add, future, lambda: (None, seconds)))
        future.result()

    def together(self, jobs: Sequence[Callable[[], None]]) -> None:
        """Run these jobs side by side, each in a thread, until all are done."""
        ends = [_Awaited(self) for _ in jobs]

        def run(job: Callable[[], None], end: Future[Any]) -> None:
            job()
            with self._changed:
                end.set_result(None)
                self._awake -= 1
                self._wake()

        with self._changed:
            self._left = None
            self._awake += len(jobs)
        for pair in zip(jobs, ends, strict=True):
            threading.Thread(target=run, args=pair, daemon=True).start()
        for end in ends:
            end.result()

    def wait(self, future: Future[Any]) -> None:
        """Let time pass until the future is done."""
        with self._changed:
            self._charge()
            if not future.done():
                me = threading.get_ident()
                self._asleep[me] = future
                self._awake -= 1
                while me in self._asleep:
                    if self._awake:  # somebody has something to do at this moment
                        self._changed.wait()
                    else:
                        self._happen()
            self._leave()

    # ------------------------------------------------------------------------------------------------------- the clock
    def at(self, when: float, what: Callable[[float], None]) -> None:
        """Let something happen at a time, which it is told."""
        heapq.heappush(self._events, (when, next(self._numbers), what))

    def _happen(self) -> None:
        when, _, what = heapq.heappop(self._events)
        self.now = max(self.now, when)
        what(when)
        self._wake()

    def _wake(self) -> None:
        for thread in [thread for thread, future in self._asleep.items() if future.done()]:
            del self._asleep[thread]
            self._awake += 1
        self._changed.notify_all()

    def _charge(self) -> None:
        if self._left is not None:
            self.now += time.thread_time() - self._left
            while self._events and self._events[0][0] <= self.now:
                self._happen()

    def _leave(self) -> None:
        if self._left is not None:
            self._left = time.thread_time()

    def _measured(self, task: Callable[[], Any]) -> tuple[Any, float]:
        """What a task returns, and its seconds."""
        began = time.thread_time()
        result = task()
        seconds = time.thread_time() - began
        if isinstance(result, tuple) and isinstance(result[0], list):  # trials, and by this clock what they took
            seconds = self.seconds(result[0], seconds)
            result = result[0], seconds
        self.busy += seconds
        return result, seconds

    def seconds(self, trials: Sequence[Any], measured: float) -> float:
        """What these trials take."""
        return measured


class _Awaited(Future[Any]):
    """A future whose result is awaited in simulated time."""

    def __init__(self, cluster: SimulatedCluster) -> None:
        super().__init__()
        self._cluster = cluster

    def result(self, timeout: float | None = None) -> Any:
        self._cluster.wait(self)
        return super().result(timeout)


class _Servers:
    """So many of a kind, which take tasks in the order in which they come."""

    def __init__(self, cluster: SimulatedCluster, number: int) -> None:
        self._cluster, self._idle = cluster, number
        self._queue: deque[tuple[Future[Any], Callable[[], tuple[Any, float]]]] = deque()

    def add(self, future: Future[Any], task: Callable[[], tuple[Any, float]], when: float) -> None:
        self._queue.append((future, task))
        self._begin(when)

    def _begin(self, when: float) -> None:
        while self._idle and self._queue:
            future, task = self._queue.popleft()
            if future.set_running_or_notify_cancel():
                self._idle -= 1
                result, seconds = task()
                self._cluster.at(when + seconds, partial(self._end, future, result))

    def _end(self, future: Future[Any], result: Any, when: float) -> None:
        self._idle += 1
        future.set_result(result)
        self._begin(when)


# ----------------------------------------------------------------------------------------------- a whole run, replayed
class Replay(SimulatedCluster):
    """A cluster whose trials do nothing, and last as long as they measure: those of `replay`."""

    def seconds(self, trials: Sequence[Any], measured: float) -> float:
        return float(sum(trial.measured for trial in trials))


def replay(ledger: Mapping[str, Any], workers: int, overhead: float, *, cpus: int) -> Replay:
    """The run of a ledger, on a cluster of so many workers and a client of so many CPUs; `now` is when it ends.

    Claims take as many trials as they took, each as long as the mean of the claim's. A notebook's other seconds are
    work of the client, before its claims. What had the client to itself follows when all notebooks of a batch have
    ended otherwise, one after another; of a ledger without these seconds, it is the claims about the client's clock.
    """
    cluster = Replay(workers, overhead, cpus=cpus)
    run, seconds = ledger["run"], ledger["machine"]["seconds"]
    common = {name: run[name] for name in ("effort", "seed", "backend")} | {"out": "."}
    claims = [(name, entry | entry["machine"]) for name, entry in ledger["claims"].items() if not entry.get("own")]
    quiet: dict[str, float] = {}

    def notebook(name: str) -> None:
        its = [(find(claim), entry) for claim, entry in claims if entry["notebook"] == name]
        timed = sum(entry["seconds"] for claim, entry in its if claim.machine)
        quiet[name] = ledger["machine"].get("quiet", {}).get(name, timed)
        cluster.work(seconds[name] - sum(entry["seconds"] for _, entry in its) + timed - quiet[name])
        cluster.together([partial(_replay_claim, cluster, claim, entry) for claim, entry in its if not claim.machine])

    def kernel(waiting: deque[str]) -> None:
        while waiting:
            notebook(waiting.popleft())

    jobs = [job for job in runner.plan(None, common, {}) if job.name in seconds]
    for batch in runner.batches(jobs):
        waiting = deque(job.name for job in batch)
        kernels = min(len(batch), runner.KERNELS_PER_CPU * cpus)
        cluster.together([partial(kernel, waiting)] * kernels)
        cluster.work(sum(quiet[job.name] for job in batch))
    return cluster


def _lasting(rng: Any, xp: Any, seconds: float) -> Trial:
    return Trial(measured=seconds)


def _replay_claim(cluster: Replay, claim: Any, entry: Mapping[str, Any]) -> None:
    """Take as many trials of each stream as the claim took, by the same schedule."""
    cases, drops, sabotages = ([part["trials"] for part in entry[key]] for key in ("cases", "drops", "sabotages"))
    shares = [-(-trials // len(cases)) for trials in sabotages for _ in cases]  # the ledger has their sum
    wanted = [*cases, *drops, *shares]
    mean = entry["seconds"] / max(1, sum(wanted))
    limit = int(claim.at(claim.max_trials, entry["effort"]))
    needed = limit if isinstance(claim.kind, Growth) else 1
    streams = [
        Stream(_lasting, claim.id, "claim", i, {"seconds": mean}, max(limit, trials), needed)
        for i, trials in enumerate(wanted)
    ]
    active, taken = {i for i, trials in enumerate(wanted) if trials}, [0] * len(wanted)
    for i, _ in run_trials(streams, active, seed=0, backend="numpy", executor=cluster):
        taken[i] += 1
        if taken[i] >= wanted[i]:
            active.discard(i)
