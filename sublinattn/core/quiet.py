"""What measures time has the machine to itself, as far as the other notebooks of its run go."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from threadpoolctl import threadpool_limits

from .threads import cpu_count

VARIABLE = "SUBLINATTN_TURN"
"""Path of the UNIX socket at which a run listens to its notebook; a notebook by hand has none."""


@contextmanager
def quiet() -> Iterator[None]:
    """Wait until the run's other notebooks rest, give what runs inside all CPUs, and wait to go on beside the others.

    Notebooks of a run work side by side with one BLAS thread each. Without a run around there is nobody to wait for.
    As a decorator, `@quiet()`, it does so for every call of a function.
    """
    path = os.environ.pop(VARIABLE, None)  # a quiet part inside this one has nobody to wait for either
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
    """Say that the quiet part begins or has ended; the run answers when this notebook may go on."""
    run.sendall(b"?")
    if not run.recv(1):
        raise ConnectionError("the run of this notebook has ended")
