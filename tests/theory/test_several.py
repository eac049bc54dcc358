"""Verdicts side by side: the same ones, the clock's claims alone, and an error ends them all."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
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


def test_verdicts_are_those_of_one_claim_after_another_and_the_clock_comes_first(pool):
    shares = []
    together = list(verdicts(toys.ALL, executor=pool, progress=shares.append))
    assert together[0][0] == toys.ALL.index(toys.CLOCK)
    alone = dict(verdicts(toys.ALL, executor=None, progress=lambda share: None))
    assert sorted(number for number, _ in together) == sorted(alone)
    for number, verdict in together:
        assert verdict.outcome == alone[number].outcome and verdict.claim == toys.ALL[number].id
        if not toys.ALL[number].machine:
            assert verdict.rows.equals(alone[number].rows)
    assert shares == sorted(shares) and shares[-1] <= len(toys.ALL)


def test_an_error_in_one_claim_ends_the_others(pool):
    before = set(threading.enumerate())
    endless = replace(toys.OPEN, trial=slow, max_trials={"smoke": 10**6})
    with pytest.raises(TrialError, match="on purpose"):
        list(verdicts([endless, replace(toys.OPEN, trial=broken)], executor=pool, progress=lambda share: None))
    assert all(thread.name.startswith("worker") for thread in set(threading.enumerate()) - before)
