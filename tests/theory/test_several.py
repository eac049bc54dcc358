"""Verdicts side by side: the same ones, the clock's claims alone, and an error ends them all."""

import time
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import replace

import pytest
import toys

from sublinattn.theory.several import verdicts
from sublinattn.theory.trials import TrialError


def slow(rng, xp, rate):
    time.sleep(0.01)
    return toys.coin(rng, xp, rate)


def broken(rng, xp, rate):
    raise FloatingPointError("on purpose")


@pytest.fixture
def pool():
    with ThreadPoolExecutor(2, thread_name_prefix="worker") as executor:
        yield executor


def test_verdicts_are_those_of_one_claim_after_another_and_the_clock_comes_last(pool):
    shares = []
    together = list(verdicts(toys.ALL, executor=pool, progress=shares.append))
    assert together[-1][0] == toys.ALL.index(toys.CLOCK)
    alone = dict(verdicts(toys.ALL, executor=None, progress=lambda share: None))
    assert sorted(number for number, _ in together) == sorted(alone)
    for number, verdict in together:
        assert verdict.outcome == alone[number].outcome and verdict.claim == toys.ALL[number].id
        if not toys.ALL[number].machine:
            assert verdict.rows.equals(alone[number].rows)
    assert shares == sorted(shares) and shares[-1] <= len(toys.ALL)


class Counting(Executor):
    """The pool, and how many pieces of work it was given."""

    def __init__(self, pool):
        self.pool, self.given, self._max_workers = pool, 0, 2

    def submit(self, *work):
        self.given += 1
        return self.pool.submit(*work)


def test_an_error_in_one_claim_ends_the_others(pool):
    endless = replace(toys.OPEN, trial=slow, max_trials={"smoke": 10**6})
    counting = Counting(pool)
    with pytest.raises(TrialError, match="on purpose"):
        list(verdicts([endless, replace(toys.OPEN, trial=broken)], executor=counting, progress=lambda share: None))
    pool.submit(int).result()  # behind all that is under way
    time.sleep(0.2)
    given = counting.given
    time.sleep(1)
    assert counting.given == given, "the other claim still asks for trials"
