"""Cases that run in child processes, many in each: a crash, a hang or a greedy case ends a child, not the torture.

A module of cases has `judged(number, seed, *arguments)`, which returns a fault, its outcome and a sentence about it;
and calls `serve(judged)` when it is run. The child prints a line of JSON for each case that it begins and for each that
it has ended, so that the one that ended it is known.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .table import HANG, WRONG, Table

MEMORY = 8 * 2**30
"""Bytes of address space of a child: a case that asks for more fails with a MemoryError, which counts as wrong."""
Judged = Callable[..., tuple[str, str, str]]


def run(module: str, count: int, *arguments: str, seed: int = 0, batch: int = 250) -> tuple[Table, list[str]]:
    """The table of so many cases, and what those that went wrong were."""
    table, wrong, first = Table(), [], 0
    while first < count:
        last = min(first + batch, count)
        for number, fault, outcome, words in _batch(module, seed, first, last, arguments):
            table[fault, outcome] += 1
            if outcome.startswith(WRONG):
                wrong.append(f"{module}, case {number} of seed {seed}: {words}")
            first = number + 1
    return table, wrong


def _batch(module: str, seed: int, first: int, last: int, arguments: tuple[str, ...]) -> list[list[Any]]:
    """Number, fault, outcome and sentence of each case of a child; the last may be the one that ended it."""
    command = [sys.executable, "-m", f"torture.{module}", *map(str, (seed, first, last)), *arguments]
    with tempfile.TemporaryDirectory() as folder:
        child = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "TMPDIR": folder},
        )
        try:  # a case that hangs ends itself, but for one that never returns to Python
            output, errors = child.communicate(timeout=10 * HANG + 3 * (last - first))
        except subprocess.TimeoutExpired:
            child.kill()
            output, errors = child.communicate()
    lines = [json.loads(line) for line in output.splitlines() if line.startswith("[")]
    ended = [line for line in lines if len(line) == 4]
    if child.returncode:
        if not lines or len(lines[-1]) == 4:
            raise RuntimeError(f"{command} failed outside of its cases: {errors[-2000:]}")
        words = f"the interpreter ended with {child.returncode}: {errors[-500:]}"
        ended.append([lines[-1][0], module, f"{WRONG}the interpreter ended with {child.returncode}", words])
    return ended


class TooLong(BaseException):
    """A case has not ended in time. No `Exception`: what is tried must not take it for an error of its own."""


def serve(judged: Judged) -> None:
    """The child: `SEED FIRST LAST ...` are the arguments of its command line."""
    seed, first, last = map(int, sys.argv[1:4])
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))

    def too_long(*_: Any) -> None:
        raise TooLong

    for number in (signal.SIGPROF, signal.SIGALRM):  # its time on CPUs; and the clock's, for one that only waits
        signal.signal(number, too_long)
    for number in range(first, last):
        print(json.dumps([number]), flush=True)
        try:
            signal.setitimer(signal.ITIMER_PROF, HANG)
            signal.alarm(int(6 * HANG))
            case = judged(number, seed, *sys.argv[4:])
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.alarm(0)
        except TooLong:
            case = ("a case", f"{WRONG}not ended after {HANG:.0f} s", "it hangs")
        print(json.dumps([number, *case]), flush=True)
