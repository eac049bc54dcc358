"""Counts of faults and their outcomes; child processes that must end in time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

HANG = 20.0
"""Seconds after which a command or a call counts as one that hangs."""
WRONG = "WRONG: "
"""How the outcome of a fault that was not withstood begins."""


class Table(Counter[tuple[str, str]]):
    """How often each (fault, outcome) was seen."""

    @property
    def wrong(self) -> list[tuple[str, str]]:
        return [row for row in self if row[1].startswith(WRONG)]

    def __str__(self) -> str:
        width = max((len(fault) for fault, _ in self), default=0)
        return "\n".join(f"{count:5}  {fault:{width}}  {outcome}" for (fault, outcome), count in sorted(self.items()))


def start(folder: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """`sublinattn` with these arguments, in a folder and with a TMPDIR and a cache folder of its own under it."""
    places = {"TMPDIR": str(folder / "tmp"), "XDG_CACHE_HOME": str(folder / "cache")}
    (folder / "tmp").mkdir(parents=True, exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-m", "sublinattn", *arguments],
        cwd=folder,
        env=os.environ | places | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # A shell's background job ignores Ctrl-C, and so would what it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def slowness() -> float:
    """How many times longer than on a machine of its own a process takes here now, at least 1."""
    begun, used = time.perf_counter(), time.process_time()
    while time.process_time() - used < 0.1:
        pass
    return max(1.0, (time.perf_counter() - begun) / 0.1)


def ended(process: subprocess.Popen[str], within: float) -> str | None:
    """What a process has printed, once it has ended; None where it had to be killed.

    That is after `within` seconds of a machine of its own: one that others use too takes longer.
    """
    try:
        return process.communicate(timeout=within * slowness())[0]
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return None
