"""Tiles on threads: each runs once, with one BLAS thread, and the limit of BLAS is restored."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any

import numpy as np
import pytest
import references
import struck
from threadpoolctl import threadpool_info, threadpool_limits

from sublinattn import attention
from sublinattn.core import threads


def blas_threads() -> list[int]:
    return [lib["num_threads"] for lib in threadpool_info() if lib["user_api"] == "blas"]


@pytest.mark.parametrize("limit", [1, 2])
def test_tiles_run_once_on_as_many_threads_as_blas_had(limit: int) -> None:
    workers: list[int] = []
    done: list[int] = []
    inside: list[int] = []

    def own() -> list[int]:
        workers.append(1)
        inside.extend(blas_threads())
        return done

    with threadpool_limits(limit, user_api="blas"):
        threads.for_tiles(np, range(100), lambda tile, there: there.append(tile), own)
        assert set(blas_threads()) <= {limit}
    assert sorted(done) == list(range(100))
    assert len(workers) == min(limit, threads.cpu_count()) and set(inside) <= {1}


def test_an_error_in_a_tile_is_raised_and_the_limit_restored() -> None:
    before = threadpool_info()

    def worker(tile: int) -> None:
        if tile == 7:
            raise ZeroDivisionError("tile 7")

    with pytest.raises(ZeroDivisionError, match="tile 7"):
        threads.for_tiles(np, range(10), worker)
    assert threadpool_info() == before


class Tiles:
    """Many short tiles, of which one does something; says how many were run, and whether one ran after the call."""

    def __init__(self, at: int, action: Any) -> None:
        self.at, self.action, self.done = at, action, 0

    def __call__(self, tile: int) -> None:
        self.done += 1
        if tile == self.at:
            self.action()
        time.sleep(1e-3)

    def run(self, error: type[BaseException]) -> None:
        limits = blas_threads()
        with threadpool_limits(2, user_api="blas"), pytest.raises(error):  # as many threads as BLAS has
            threads.for_tiles(np, range(10_000), self)
        assert self.done < 1000, "the other threads went on"
        done = self.done
        time.sleep(0.01)
        assert self.done == done and blas_threads() == limits, "a thread outlived the call"


@pytest.mark.skipif(threads.cpu_count() < 2, reason="tiles run in the caller's thread")
def test_an_error_or_ctrl_c_ends_every_thread() -> None:
    def fail() -> None:
        raise ZeroDivisionError

    Tiles(5, fail).run(ZeroDivisionError)
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try:
        Tiles(5, lambda: os.kill(os.getpid(), signal.SIGINT)).run(KeyboardInterrupt)
    finally:
        signal.signal(signal.SIGINT, handler)


@pytest.mark.skipif(threads.cpu_count() < 2, reason="tiles run in the caller's thread")
def test_no_lock_is_left_held_wherever_a_signal_strikes() -> None:
    """2000 signals; with the executor of the standard library the process stood still within the first hundreds."""
    struck.run("""
import numpy as np
from threadpoolctl import threadpool_info
from sublinattn.core import threads

tiles, before = np.zeros(8), threadpool_info()
for _ in range(2000):
    try:
        strike_soon()
        while True:
            threads.for_tiles(np, range(8), lambda i: tiles.put(i, 1))
    except Struck:
        pass
    tiles[:] = 0
    threads.for_tiles(np, range(8), lambda i: tiles.put(i, 1))
    assert tiles.all()
assert threadpool_info() == before
""")


def test_concurrent_calls_do_not_mix() -> None:
    arrays = references.qkv(3, 600, 600, d=8)
    expected = attention(*arrays)
    found: list[Any] = [None] * 4

    def call(i: int) -> None:
        found[i] = attention(*arrays)

    callers = [threading.Thread(target=call, args=(i,)) for i in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    for out in found:
        np.testing.assert_array_equal(out, expected)
