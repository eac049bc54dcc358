"""Turns: side by side up to the slots, alone for what asks, and nobody waits for one that has ended."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path

import pytest

import sublinattn
from sublinattn.core import quiet
from sublinattn.suite.turns import Turns

KERNEL = """
import sys, time
import numpy as np, threadpoolctl
from sublinattn.core.quiet import quiet

def threads():
    return max(its["num_threads"] for its in threadpoolctl.threadpool_info())

with open(sys.argv[1], "a", buffering=1) as log:
    before = threads()
    with quiet():
        with quiet():  # a quiet part inside of another
            log.write("begin\\n")
            inside = threads()
            time.sleep(0.2)
            log.write("end\\n")
    log.write(f"threads {before} {inside} {threads()}\\n")
"""


@pytest.fixture
def short():
    """A folder whose path is short enough for a socket's."""
    with tempfile.TemporaryDirectory(prefix="sa-") as folder:
        yield Path(folder)


class Log:
    """Who works when: names side by side at each beginning of a part."""

    def __init__(self):
        self.lock, self.now, self.seen = threading.Lock(), [], []

    def part(self, name, seconds=0.05):
        with self.lock:
            self.now.append(name)
            self.seen.append(sorted(self.now))
        time.sleep(seconds)
        with self.lock:
            self.now.remove(name)


def notebook(turns, log, name, *parts):
    """Work through these parts, "beside" or "alone"."""
    with turns.working(name):
        for part in parts:
            if part == "alone":
                turns.ask(name)
            log.part(f"{name} {part}")
            if part == "alone":
                turns.ask(name)


def run(turns, log, **notebooks):
    with ThreadPoolExecutor(len(notebooks)) as pool:
        for future in [pool.submit(notebook, turns, log, name, *parts) for name, parts in notebooks.items()]:
            future.result(60)


@pytest.mark.parametrize("slots", [1, 2, 4])
def test_so_many_work_side_by_side_and_the_first_ones_first(slots):
    log, names = Log(), "abcdef"
    run(Turns(names, slots), log, **dict.fromkeys(reversed(names), ["beside"]))
    assert max(map(len, log.seen)) == slots
    begun = [next(iter(set(now) - set(before))) for before, now in zip([[], *log.seen], log.seen, strict=False)]
    assert set(begun[:slots]) == {f"{name} beside" for name in names[:slots]}


@pytest.mark.parametrize("slots", [1, 2, 8])
def test_what_asks_is_alone_once_all_the_others_rest_and_those_that_ask_have_their_turns_in_a_row(slots):
    turns, log = Turns("abcd", slots), Log()
    run(turns, log, a=["alone", "beside", "alone"], b=["beside", "alone", "beside"], c=["beside"] * 4, d=["alone"])
    alone = [now for now in log.seen if any("alone" in part for part in now)]
    assert sorted(map(str, alone)) == sorted(map(str, [["a alone"], ["a alone"], ["b alone"], ["d alone"]]))
    first = log.seen.index(alone[0])
    assert first == 5, "c's four parts and b's first come before"
    assert all(len(now) == 1 for now in log.seen[first : first + 3]) and alone[:3] == log.seen[first : first + 3]
    assert turns.alone["a"] >= 0.1 and turns.waited["d"] > 0.1 and "c" not in turns.alone


def test_nobody_waits_for_a_notebook_that_ended_while_it_asked_or_was_alone():
    turns, log = Turns("abc", 3), Log()
    holds, leave = threading.Event(), threading.Event()

    def dies():
        with turns.working("a"):
            turns.ask("a")
            holds.set()
            leave.wait(60)  # its kernel is killed in its quiet part

    with ThreadPoolExecutor(3) as pool:
        ends = [pool.submit(dies), pool.submit(notebook, turns, log, "b", "beside", "alone")]
        with turns.working("c"):
            time.sleep(0.2)
            asked = pool.submit(turns.ask, "c")
            time.sleep(0.1)
        with pytest.raises(CancelledError):  # c's kernel was killed while it asked
            asked.result(60)
        assert holds.wait(60)
        leave.set()
        for each in ends:
            each.result(60)
    with pytest.raises(CancelledError):
        turns.ask("a")
    assert log.seen == [["b beside"], ["b alone"]]


def test_a_stop_ends_all_waits():
    turns = Turns("ab", 1)
    with ThreadPoolExecutor(1) as pool, turns.working("a"):
        waits = pool.submit(notebook, turns, Log(), "b", "beside")
        turns.stopped = True
        with pytest.raises(CancelledError):
            waits.result(60)


def test_kernels_are_alone_in_turn_with_all_threads_and_have_one_before_and_after(short):
    cpus, turns, path = quiet.cpu_count(), Turns("abc", 3), short / "log"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

    def kernel(name):
        (short / name).mkdir()
        with turns.working(name), turns.listening(name, short / name) as turn:
            command = [sys.executable, "-c", KERNEL, path]
            subprocess.run(command, env=environment | {quiet.VARIABLE: str(turn)}, check=True, timeout=120)

    began = time.perf_counter()
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(kernel, "abc"))
    passed = time.perf_counter() - began
    lines = path.read_text().splitlines()
    assert lines[:6] == ["begin", "end"] * 3 and lines[6:] == [f"threads 1 {cpus} 1"] * 3
    assert min(turns.alone.values()) >= 0.2 and len(turns.alone) == 3 and sum(turns.alone.values()) < passed


def test_the_clock_of_a_notebooks_progress_does_not_count_the_wait(short, monkeypatch):
    turns, began, counted, asks = Turns("ab", 2), time.perf_counter(), quiet.clock(), threading.Event()

    def first():
        with turns.working("a"):
            asks.set()
            turns.ask("a")
            time.sleep(0.5)

    with turns.working("b"), turns.listening("b", short) as turn, ThreadPoolExecutor(1) as pool:
        monkeypatch.setenv(quiet.VARIABLE, str(turn))
        other = pool.submit(first)
        assert asks.wait(60)
        time.sleep(0.2)
        with quiet.quiet():
            pass
        other.result(60)
    assert time.perf_counter() - began >= 0.5 and quiet.clock() - counted < time.perf_counter() - began - 0.4


def test_a_run_that_ends_is_an_error_in_the_kernel(short, monkeypatch):
    turns = Turns("ab", 2)
    with turns.working("a"), turns.working("b"), turns.listening("a", short) as turn:
        monkeypatch.setenv(quiet.VARIABLE, str(turn))
        threading.Timer(0.2, setattr, (turns, "stopped", True)).start()
        with pytest.raises(ConnectionError, match="has ended"), quiet.quiet():
            pass
        assert os.environ[quiet.VARIABLE] == str(turn)


def test_without_a_run_nobody_waits(monkeypatch):
    monkeypatch.delenv(quiet.VARIABLE, raising=False)
    with quiet.quiet():
        assert quiet.VARIABLE not in os.environ


def test_every_study_that_reads_a_clock_is_quiet():
    clocks, allowed = {"timed", "best_of", "stage_times"}, {"perplexity.plan"}  # says about how long a run will take
    loud = set()
    for path in Path(sublinattn.__file__).parent.glob("methods/*/studies/*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                calls = {getattr(each.func, "id", "") for each in ast.walk(node) if isinstance(each, ast.Call)}
                if calls & clocks and "quiet()" not in map(ast.unparse, node.decorator_list):
                    loud.add(f"{path.stem}.{node.name}")
    assert loud == allowed
