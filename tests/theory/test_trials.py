"""Trial streams: the same trials whatever the workers."""

from concurrent.futures import Executor, Future, ProcessPoolExecutor
from hashlib import sha256
from multiprocessing import get_context

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from sublinattn.theory.claim import Trial
from sublinattn.theory.trials import Stream, TrialError, run_trials, trial_rng


def draw(rng, xp, *, offset=0.0, breaks_at=1.0):
    value = float(rng.random())
    if value > breaks_at:
        raise FloatingPointError(f"drew {value}")
    threads = max((pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"), default=1)
    return Trial(value + offset, facts={"blas_threads": float(threads)})


def stream(index=0, limit=50, role="claim", claim="toy.draw", **case):
    return Stream(draw, claim, role, index, case, limit)


@pytest.fixture(scope="module")
def pool():
    with ProcessPoolExecutor(2, mp_context=get_context("fork")) as executor:
        yield executor


def run(streams, stop_above=2.0, **options):
    """Each stream until it yields a value above `stop_above`."""
    active, seen = set(range(len(streams))), []
    for i, trial in run_trials(streams, active, seed=7, backend="numpy", **options):
        seen.append((i, trial.measured, trial.facts["blas_threads"]))
        if trial.measured > stop_above:
            active.discard(i)
    return seen


def test_seeds_are_distinct_and_stable():
    streams = [stream(), stream(index=1), stream(role="drop:x"), stream(claim="toy.other")]
    values = [trial_rng(s, n, seed).random() for s in streams for n in (0, 1) for seed in (0, 1)]
    assert len(set(values)) == len(values)
    # The same on every machine and in every process: neither `hash` nor the number of workers enters.
    key = (
        int.from_bytes(sha256(b"toy.draw").digest()[:8], "little"),
        int.from_bytes(sha256(b"claim").digest()[:8], "little"),
    )
    expected = np.random.default_rng(np.random.SeedSequence(5, spawn_key=(*key, 0, 3))).random()
    assert trial_rng(stream(), 3, 5).random() == expected


def test_limits_and_order():
    seen = run([stream(limit=5), stream(index=1, limit=9)])
    assert [sum(i == s for i, *_ in seen) for s in (0, 1)] == [5, 9]
    expected = [trial_rng(stream(index=1), n, 7).random() for n in range(9)]
    assert [value for i, value, _ in seen if i == 1] == expected


@pytest.mark.parametrize("stop_above", [0.9, 0.99, 2.0])
def test_workers_change_nothing(pool, stop_above):
    streams = [stream(index=i, limit=60) for i in range(4)]
    alone, shared = run(streams, stop_above), run(streams, stop_above, executor=pool)
    assert alone == shared
    assert all(threads == 1 for *_, threads in shared)
    for i in range(4):  # nothing after the stop
        assert all(value <= stop_above for value in [v for s, v, _ in alone if s == i][:-1])


class Scrambled(Executor):
    """So many workers, of which one at random has the next result, with a duration at random."""

    def __init__(self, workers, seed):
        self._max_workers, self.rng, self.waiting, self.ran = workers, np.random.default_rng(seed), {}, 0

    def submit(self, function, *args):
        future = Future()
        self.waiting[future] = function, args
        future.result = lambda: self.run_until(future)
        return future

    def run_until(self, future):
        while not future.done():
            running = [each for each in self.waiting if not each.cancelled()]
            one = running[self.rng.integers(len(running))]
            function, args = self.waiting.pop(one)
            trials, _ = function(*args)
            self.ran += len(trials)
            one.set_result((trials, self.rng.exponential(0.01)))
        return Future.result(future)


@pytest.mark.parametrize("stop_above", [0.9, 0.99, 2.0])
@pytest.mark.parametrize("workers", [1, 3, 64])
def test_number_and_order_of_workers_change_nothing_and_little_is_measured_in_vain(workers, stop_above):
    streams = [stream(index=i, limit=(40, 160)[i % 2]) for i in range(4)]
    alone, scrambled = run(streams, stop_above), Scrambled(workers, seed=workers)
    assert run(streams, stop_above, executor=scrambled) == alone
    # Of each stream 8 trials and twice as many as are consumed; the latter, a round at a time, which adds a quarter.
    assert len(alone) <= scrambled.ran <= 8 * len(streams) + 3 * 1.25 * len(alone)


def test_trials_that_are_needed_in_any_case_are_all_under_way_at_once():
    scrambled = Scrambled(1000, seed=0)
    trials = run_trials([Stream(draw, "toy.draw", "claim", 0, {}, 40, 40)], {0}, seed=7, executor=scrambled)
    next(trials)
    assert scrambled.ran + len(scrambled.waiting) == 40


@pytest.mark.parametrize("parallel", [False, True])
def test_an_error_names_its_trial_and_only_if_it_is_reached(pool, parallel):
    executor = pool if parallel else None
    values = [trial_rng(stream(), n, 7).random() for n in range(50)]
    first = next(n for n, value in enumerate(values) if value > 0.9)
    with pytest.raises(
        TrialError, match=rf"claim toy.draw, claim, case 0 .*trial {first}: FloatingPointError: drew 0.9"
    ):
        run([stream(breaks_at=0.9)], executor=executor)
    sooner = max(values[:first]) - 1e-9
    assert len(run([stream(breaks_at=0.9)], stop_above=sooner, executor=executor)) == int(np.argmax(values[:first])) + 1
