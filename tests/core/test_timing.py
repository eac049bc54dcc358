"""The clock, the memory meter, and seconds per stage."""

from __future__ import annotations

import threading
import time
import tracemalloc
from typing import Any

import numpy as np
import references

from sublinattn import hyper_attention, stage_times
from sublinattn.core import timing


def test_the_fastest_of_some_calls(xp: Any) -> None:
    pauses = [0.3, 0.01, 0.3]
    assert 0.01 <= timing.best_of(xp, lambda: time.sleep(pauses.pop()), 3) < 0.3
    assert not pauses
    result, seconds = timing.timed(xp, lambda: time.sleep(0.02) or 7)
    assert result == 7 and seconds >= 0.02


def test_stage_times_of_another_thread_are_its_own() -> None:
    arrays = references.qkv(4, 100, 100)
    options: dict[str, Any] = {"block_size": 16, "sample_size": 16, "min_exact": 0, "rng": 0}
    with stage_times() as seconds:
        other = threading.Thread(target=lambda: hyper_attention(*arrays, **options))
        other.start()
        other.join()
    assert not seconds


def test_peak_bytes_counts_what_is_allocated_at_once() -> None:
    def call() -> None:
        for _ in range(3):
            np.ones(2**20, np.uint8)

    assert 2**20 <= timing.peak_bytes(np, call) < 2**20 + 2**16
    assert not tracemalloc.is_tracing()
