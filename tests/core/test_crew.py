"""Jobs side by side: their results, their errors, and what a signal leaves behind."""

import threading
import time
from functools import partial

import pytest
import struck

from sublinattn.core.crew import Crew


def test_every_job_is_done_once_and_its_result_comes_with_its_number() -> None:
    threads: set[int] = set()

    def square(i: int) -> int:
        threads.add(threading.get_ident())
        return i * i

    crew = Crew([partial(square, i) for i in range(100)], 3)
    assert sorted(found for found in crew.results(60)) == [(i, i * i) for i in range(100)]
    assert not crew.running and threading.get_ident() not in threads and len(threads) <= 3
    assert list(Crew([], 3).results(60)) == []


def test_jobs_run_at_the_same_time_in_so_many_threads() -> None:
    barrier = threading.Barrier(3, timeout=60)
    assert len(list(Crew([barrier.wait] * 3, 3).results(60))) == 3  # with fewer the barrier would break


def test_a_pause_without_a_result_yields_none() -> None:
    go = threading.Event()
    found = Crew([partial(go.wait, 60)], 1).results(0.01)
    assert next(found) is None
    go.set()
    assert [each for each in found if each is not None] == [(0, True)]


def test_an_error_is_raised_where_results_are_awaited_and_no_job_begins_after_a_stop() -> None:
    done: list[int] = []
    go = threading.Event()

    def job(i: int) -> None:
        if i == 0:
            raise ZeroDivisionError("the first")
        go.wait(60)
        done.append(i)

    crew = Crew([partial(job, i) for i in range(50)], 2)
    with pytest.raises(ZeroDivisionError, match="the first"):
        list(crew.results(60))
    crew.stopped = True
    go.set()
    end = time.monotonic() + 60
    while crew.running and time.monotonic() < end:
        time.sleep(0.001)
    assert not crew.running and len(done) <= 2  # those that had begun


def test_no_lock_is_left_held_wherever_a_signal_strikes() -> None:
    """3000 signals; with the executor of the standard library the process stood still within the first ten."""
    struck.run("""
from sublinattn.core.crew import Crew

for _ in range(3000):
    crew = Crew([], 0)
    try:
        strike_soon()
        while True:
            crew = Crew([int] * 8, 4)
            for found in crew.results(1e-4):
                pass
    except Struck:
        crew.stopped = True
        while crew.running:
            time.sleep(1e-4)
    assert len(list(Crew([int] * 8, 4).results(60))) == 8
""")
