"""A Dask cluster as an executor of trials: its workers are checked, and every way in which it fails has a message.

The client alone reads and writes files. What a worker gets is a function of this package, or one that travels by value
(a trial in a notebook), and its arguments; it must have the client's sources and versions, which each task says.
"""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import platform
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future, InvalidStateError
from contextlib import contextmanager, suppress
from functools import cache
from importlib import import_module
from importlib.metadata import version
from typing import Any

from ..core.backends import backend as resolve
from ..core.provenance import source_hash

VARIABLE = "SUBLINATTN_SCHEDULER"
"""Environment variable by which a run tells its notebooks the scheduler's address."""
CONNECT_SECONDS = 10
"""How long a run waits for its scheduler."""
WORKER_SECONDS = 60
"""How long a run waits where there is no worker."""
LOOK_SECONDS = 1.0
"""Between two looks at the scheduler."""

Note = Callable[[str], object]


class ClusterError(ConnectionError):
    """The cluster cannot be used: no scheduler, no worker, a worker with another package, workers that die.

    The message says which, and where.
    """


@cache
def identity(backend: str) -> dict[str, str]:
    """What client and worker must have in common: the same sources and versions give the same numbers."""
    versions = {name: version(name) for name in ("sublinattn", "numpy", "scipy")}
    python = ".".join(platform.python_version_tuple()[:2])
    found = {"source hash": source_hash(), **versions, "Python": python}
    if backend != "numpy":
        try:
            found[backend] = str(resolve(backend).__version__)
        except RuntimeError:
            found[backend] = "no GPU"
    return found


@contextmanager
def connect(
    address: str, *, backend: str = "auto", check: bool = True, note: Note = lambda text: None
) -> Iterator[Cluster]:
    """The cluster of the Dask scheduler at this address, with at least one worker, as an executor.

    Parameters
    ----------
    address : str
        As Dask takes it: "tcp://host:8786".
    backend : "auto", "numpy" or "cupy"
        Array library of the tasks, "auto" being the client's: workers must have it, too.
    check : bool
        Ask every worker, now and when it joins, for its sources and versions. (Its first task asks in any case.)
    note : callable
        Is told what there is to wait for.

    Raises
    ------
    ClusterError
        No scheduler answers there, it has no worker within WORKER_SECONDS, or a worker differs from this client. What
        happens later is raised by the futures, and by `Cluster.look`.
    """
    from distributed import Client
    from distributed.utils import LoopRunner

    expected = identity(resolve(backend).__name__)
    try:
        LoopRunner().run_sync(_greet, address)
        client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except Exception as error:  # Dask's, of an address that is none, and of whatever else may answer
        raise ClusterError(f"no Dask scheduler answers at {address!r}: {error}") from None
    cluster = Cluster(client, address, expected, resolve(backend).__name__, check, note)
    try:
        cluster.wait_for_worker()
        yield cluster
    finally:
        cluster.shutdown(wait=False)


async def _greet(address: str) -> None:
    """Shake hands with what listens at an address.

    A `Client` that is refused there would not close for a while, and waits for ever for a word from what is no Dask.
    """
    from distributed import Security
    from distributed.comm.core import connect

    options = Security().get_connection_args("client")
    try:
        comm = await asyncio.wait_for(connect(address, timeout=CONNECT_SECONDS, **options), 1.5 * CONNECT_SECONDS)
    except TimeoutError:
        raise OSError("what listens there does not speak as Dask does") from None
    comm.abort()


@contextmanager
def of_run(backend: str = "auto") -> Iterator[Cluster | None]:
    """The cluster that the run of this notebook uses; None where it uses none."""
    address = os.environ.get(VARIABLE)
    if not address:
        yield None
        return
    with connect(address, backend=backend, check=False) as cluster:  # the run has asked the workers
        yield cluster


class Cluster(Executor):
    """The workers of a Dask scheduler. Made by `connect`.

    A task whose worker dies runs again on another one, up to three times. All futures fail with a `ClusterError` when
    the scheduler is lost, or when there has been no worker for WORKER_SECONDS.
    """

    def __init__(
        self, client: Any, address: str, expected: Mapping[str, str], backend: str, check: bool, note: Note
    ) -> None:
        self._client, self._address, self._expected, self._backend = client, address, expected, backend
        self._check, self._note = check, note
        self._executor = client.get_executor(pure=False, retries=0)  # an error in a trial would come again
        self._flying: set[Future[Any]] = set()
        self._workers: tuple[str, ...] = ()
        self._idle_since: float | None = None
        self._looking, self._closed = threading.Lock(), threading.Event()

    @property
    def _max_workers(self) -> int:
        """As the executors of `concurrent.futures` have it."""
        return max(1, len(self._workers))

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run `function(*args, **kwargs)` on a worker; what is defined in a notebook travels by value."""
        from distributed.protocol.pickle import dumps

        outer: Future[Any] = Future()
        task = dumps((function, args, kwargs))
        inner = self._executor.submit(_run, self._expected, self._backend, task)
        self._flying.add(outer)

        def settle(inner: Future[Any]) -> None:
            self._flying.discard(outer)
            with suppress(InvalidStateError):  # cancelled, or failed by `_watch`
                if inner.cancelled():
                    outer.set_exception(self._lost())
                elif error := inner.exception():
                    outer.set_exception(self._explained(error))
                else:
                    outer.set_result(inner.result())

        outer.add_done_callback(lambda outer: inner.cancel() if outer.cancelled() else None)
        inner.add_done_callback(settle)
        return outer

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Leave the cluster; its workers go on for others."""
        self._closed.set()
        logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # it was just trying again, with a traceback
        with suppress(Exception):  # of a scheduler that is gone
            self._client.close(timeout=1)

    def wait_for_worker(self) -> None:
        """Return when there is a worker, and watch the cluster from then on."""
        while not self._workers:
            self.look()
            if not self._workers:
                self._closed.wait(0.1)
        threading.Thread(target=self._watch, name="sublinattn-cluster", daemon=True).start()

    def look(self) -> None:
        """ClusterError if the cluster cannot be used, at this moment, for one of the reasons in `connect`."""
        with self._looking:
            if self._client.status != "running":
                raise self._lost()
            try:
                threads: dict[str, int] = self._client.nthreads()
            except (OSError, TimeoutError) as error:
                raise self._lost() from error
            strangers = [worker for worker in threads if worker not in self._workers]
            if strangers and self._check:
                self._refuse(threads, strangers)
            self._workers = tuple(threads)
            now = time.monotonic()
            if threads:
                self._idle_since = None
            elif self._idle_since is None:
                self._idle_since = now
                self._note(f"waiting for a worker at {self._address}, at most {WORKER_SECONDS} s")
            elif now - self._idle_since > WORKER_SECONDS:
                raise ClusterError(
                    f"the scheduler at {self._address} has had no worker for {WORKER_SECONDS} s; "
                    f"start some: dask worker {self._address} --nthreads 1"
                )

    def _watch(self) -> None:
        """Let all that flies fail when the cluster cannot be used any more."""
        while not self._closed.wait(LOOK_SECONDS):
            try:
                self.look()
            except ClusterError as error:
                for future in list(self._flying):
                    with suppress(InvalidStateError):
                        future.set_exception(error)
                if self._client.status != "running":
                    return

    def _refuse(self, threads: Mapping[str, int], strangers: list[str]) -> None:
        """ClusterError if one of these workers differs from this client."""
        answers = self._client.run(identity, self._backend, workers=strangers, on_error="return")
        for worker, answer in answers.items():
            if isinstance(answer, OSError):
                continue  # it has left in the meantime
            if isinstance(answer, Exception):
                raise ClusterError(
                    f"worker {worker} cannot say which sublinattn it has, {type(answer).__name__}: {answer}; "
                    f"this client has {_listed(self._expected)}"
                )
            if answer != self._expected:
                raise ClusterError(_difference(worker, answer, self._expected))
            if threads[worker] != 1:
                raise ClusterError(
                    f"worker {worker} runs {threads[worker]} tasks at a time in one process, where they would share "
                    "BLAS's threads; start it with --nthreads 1 (and --nworkers for several)"
                )

    def _lost(self) -> ClusterError:
        return ClusterError(f"the scheduler at {self._address} is gone")

    def _explained(self, error: BaseException) -> BaseException:
        from distributed import KilledWorker

        if isinstance(error, KilledWorker):
            return ClusterError(
                f"a task was given up because {error.allowed_failures + 1} workers in a row died while they ran it, "
                f"the last at {error.last_worker.address}; their logs say why, often for want of memory"
            )
        return error


def _run(expected: Mapping[str, str], backend: str, task: bytes) -> Any:
    """On a worker: run a task if this process has the client's package."""
    found = identity(backend)
    if found != expected:
        raise ClusterError(_difference(_this_worker(), found, expected))
    try:
        function, args, kwargs = pickle.loads(task)
    except (ImportError, AttributeError) as error:
        raise ClusterError(
            f"worker {_this_worker()} cannot load what it should run, {type(error).__name__}: {error}. It needs the "
            "module in which a trial is defined; a trial defined in the notebook itself travels with its task"
        ) from error
    return function(*args, **kwargs)


def _this_worker() -> str:
    return str(import_module("distributed").get_worker().address)


def _difference(worker: str, found: Mapping[str, str], expected: Mapping[str, str]) -> str:
    different = [name for name in expected if found.get(name) != expected[name]]
    theirs, ours = ({name: side.get(name, "none") for name in different} for side in (found, expected))
    return f"worker {worker} has {_listed(theirs)}, this client {_listed(ours)}: its numbers would not be the client's"


def _listed(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in versions.items())
