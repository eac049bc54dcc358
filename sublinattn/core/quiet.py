"""Code that measures time runs while no other notebook of the same run computes."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

from threadpoolctl import threadpool_limits

from .threads import cpu_count

VARIABLE = "SUBLINATTN_TURN"
"""Path of the UNIX socket at which a run listens to its notebook; a notebook by hand has none."""

_waited = 0.0


def clock() -> float:
    """Seconds as `time.perf_counter` counts them, but for those in which this notebook waited in `quiet`."""
    return time.perf_counter() - _waited


@contextmanager
def quiet() -> Iterator[None]:
    """Run a block while no other notebook of the same run computes, and with all CPUs.

    Notebooks of a run work side by side with one BLAS thread each. At the block's beginning this one waits until the
    others have ended or wait as well; at its end it waits until it may go on beside them. A notebook that no run has
    started waits for nobody. `@quiet()` makes every call of a function such a block.
    """
    path = os.environ.pop(VARIABLE, None)  # so that a quiet block inside of this one does not wait
    if path is None:
        yield
        return
    try:
        with socket.socket(socket.AF_UNIX) as run:
            run.connect(path)
            _wait(run)
            try:
                with threadpool_limits(cpu_count(), user_api="blas"):
                    yield
            finally:
                _wait(run)
    finally:
        os.environ[VARIABLE] = path


def _wait(run: socket.socket) -> None:
    """Tell the run that the block begins or has ended; its answer comes when this notebook may go on."""
    global _waited
    began = time.perf_counter()
    run.sendall(b"?")
    if not run.recv(1):
        raise ConnectionError("the run of this notebook has ended")
    _waited += time.perf_counter() - began
