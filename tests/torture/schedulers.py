"""Dask schedulers that fail a run: none at the address, one without workers, one that dies, workers of other code.

The command is run from outside; what counts is how it ends, what it says, after how long, and what is still there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import sublinattn
from sublinattn.core.files import read_json
from sublinattn.lab import ledger

from . import notebooks
from .table import WRONG, Table, ended, start

RUN = ("run", "--notebooks", "nb", "--out", "out", "--scheduler")
WITHIN = 90.0
"""Seconds in which a run that has lost its cluster must end, with two notebooks of a few seconds each."""


def run(count: int, folder: Path) -> Table:
    """As many of the four faults, each on the results of a whole run."""
    if not count:
        return Table()
    notebooks.make(folder)
    done = start(folder, "run", "--notebooks", "nb", "--jobs", "1", "--out", "out")
    output = done.communicate()[0]
    if done.returncode:
        raise RuntimeError(f"a run without a scheduler fails: {output}")
    return Table({(f"scheduler: {name}", FAULTS[name](folder)): 1 for name in list(FAULTS)[:count]})


def nowhere(folder: Path) -> str:
    return outcome(folder, start(folder, *RUN, "tcp://127.0.0.1:9"), "127.0.0.1:9")


def without_workers(folder: Path) -> str:
    with cluster(folder) as (address, _):
        return outcome(folder, start(folder, *RUN, address), "worker")


def dying(folder: Path) -> str:
    with cluster(folder, worker={}) as (address, processes):
        process = start(folder, *RUN, address)
        while not (folder / "out" / ".lock").exists() and process.poll() is None:
            time.sleep(0.02)
        time.sleep(3)
        for each in processes:
            each.kill()
        return outcome(folder, process, "scheduler")


def of_other_code(folder: Path) -> str:
    with tempfile.TemporaryDirectory() as name:
        package = Path(name) / "sublinattn"
        shutil.copytree(Path(sublinattn.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
        with (package / "theory" / "verify.py").open("a") as file:
            file.write("\nOTHER = True\n")
        with cluster(folder, worker={"PYTHONPATH": name}) as (address, _):
            return outcome(folder, start(folder, *RUN, address), "source")


FAULTS: dict[str, Callable[[Path], str]] = {
    "none at the address": nowhere,
    "without workers": without_workers,
    "dies in mid-run": dying,
    "workers of other code": of_other_code,
}


def outcome(folder: Path, process: subprocess.Popen[str], word: str) -> str:
    """How the command ended: an exit code that says so, a message with this word, and the last ledger still there."""
    output = ended(process, WITHIN)
    if output is None:
        return f"{WRONG}still there after {WITHIN:.0f} s"
    said = " ".join(output.split())
    if process.returncode not in (1, 2) or "Traceback" in said:
        return f"{WRONG}exit code {process.returncode}: {said[-300:]}"
    if word not in said:
        return f"{WRONG}no word of it: {said[-300:]}"
    if notebooks.CLAIM not in ledger.load(folder / "out" / "ledger.json")["claims"] and process.returncode == 2:
        return f"{WRONG}the last run's verdict is lost"
    return "ends with a message, and the last run's ledger is there"


@contextmanager
def cluster(folder: Path, worker: dict[str, str] | None = None) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """A scheduler, and with `worker`, the environment it has beside this process's own, a worker of one thread."""
    with tempfile.TemporaryDirectory() as name:
        place, quiet = Path(name) / "scheduler.json", ["--no-dashboard"]
        dask = [sys.executable, "-m", "dask"]
        commands = [[*dask, "scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(place), *quiet]]
        if worker is not None:
            own = ["--scheduler-file", str(place), "--nthreads", "1", "--local-directory", name]
            commands.append([*dask, "worker", *own, *quiet, "--no-nanny"])
        processes = []
        try:
            for command in commands:
                environment = os.environ | (worker or {})
                nothing = subprocess.DEVNULL
                processes.append(subprocess.Popen(command, cwd=folder, env=environment, stdout=nothing, stderr=nothing))
                while not place.exists():
                    time.sleep(0.1)
            yield read_json(place)["address"], processes
        finally:
            for process in reversed(processes):
                process.kill()
                process.wait()
